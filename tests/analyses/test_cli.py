"""The command line as a user meets it: help, exit codes, last line, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analyses import cli, vector
from analyses.configs import VectorConfig
from interp import SteeringVector

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def small(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A steering vector of the tiny model, as a file."""
    config = VectorConfig(model=str(folder), n_pairs=6, n_null=2)
    return vector.run(config, tmp_path_factory.mktemp("v") / "r") / "vectors" / "verbosity.safetensors"


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS)])
def test_help_reads_without_importing_torch(command: list[str]):
    code = (
        "import sys, analyses.cli as c\n"
        f"try: c.main({[*command, '--help']!r})\n"
        "except SystemExit as e: assert not e.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (command or ["unlatch"])[0] in done.stdout


def test_the_last_line_on_stdout_is_the_run_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "r"
    code = cli.main(["vector", "--model", str(folder), "--n-pairs", "6", "--n-null", "2", "--out", str(out)])
    assert code == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)


def test_an_unknown_command_exits_2_and_names_those_there_are(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["verbocity"]) == 2
    said = capsys.readouterr().err
    assert all(name in said.partition("Commands are ")[2] for name in cli.COMMANDS)


def test_bad_input_exits_2_with_one_sentence_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["vector", "--model", str(tmp_path / "none"), "--out", str(tmp_path / "r")]) == 2
    error = capsys.readouterr().err
    assert "No folder" in error
    assert "Traceback" not in error


def test_an_unknown_flag_exits_2(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["vector", "--out", "x", "--modle", "y"])
    assert stopped.value.code == 2
    assert "--modle" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def broken(*, out: Path) -> None:
        raise RuntimeError(f"a bug in {out}")

    monkeypatch.setitem(cli.COMMANDS, "demo", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["demo", "--out", "x"])


def test_steer_shows_both_answers_and_the_receipt(small: Path, capsys: pytest.CaptureFixture[str]):
    code = cli.main(
        ["steer", "--vector", str(small), "--layer", "1", "--dose", "2", "--max-new-tokens", "6", "the thing"]
    )
    shown = capsys.readouterr().out
    assert code == 0
    assert "plain" in shown
    assert "steered at layer 1, dose 2" in shown
    assert "cells written in 1 of 2 rows" in " ".join(shown.split())


def test_steer_without_a_dose_says_what_to_pass(small: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["steer", "--vector", str(small), "hello"]) == 2
    assert "no recommended layer and dose" in capsys.readouterr().err


def test_steer_refuses_a_vector_of_another_model_unless_told(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stranger = replace(SteeringVector.load(small), fingerprint="0" * 16).save(tmp_path / "v.safetensors")
    call = ["steer", "--vector", str(stranger), "--layer", "1", "--dose", "1", "--max-new-tokens", "3", "hi"]
    assert cli.main(call) == 2
    assert "was made for" in capsys.readouterr().err
    assert cli.main([*call, "--any-model", "True"]) == 0


def test_verify_shows_every_check_and_exits_0_where_all_pass(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["verify", str(folder), "--dtype", "float32", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{folder} in float32: 20 of 20 checks pass\n")
    assert sum(line.startswith("pass ") for line in shown.splitlines()) == 20
    assert "FAIL" not in shown


def test_verify_exits_2_on_a_model_that_fails_with_the_table_and_what_failed(
    model_of: Callable[..., PreTrainedModel],
    tokenizer_with: Callable[..., PreTrainedTokenizerBase],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """A model that ``load`` refuses, and whose batches are not numbers."""
    model = model_of("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    tokenizer_with().save_pretrained(tmp_path)
    assert cli.main(["verify", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert shown.out.count("FAIL") > 10
    assert "Not so: one pass = the same again" in shown.err
    assert "Traceback" not in shown.err


def test_ctrl_c_exits_130_with_a_folder_that_goes_on(folder: Path, tmp_path: Path):
    out = tmp_path / "r"
    call = ["verbosity", "--model", str(folder), "--n-pairs", "6", "--n-select", "4", "--n-confirm", "60"]
    call += ["--n-control", "60", "--max-new-tokens", "200", "--doses", "0.1", "0.2", "--chunk", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, "-m", "analyses.cli", *call, "--out", str(out)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `&` has it ignored
    )
    while run.poll() is None and not (out / "records.jsonl").exists():
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, error = run.communicate()
    assert run.returncode == 130, error
    assert "give the same command again" in error
    records = (out / "records.jsonl").read_text().splitlines()
    assert records
    assert all(json.loads(line)["condition"] for line in records)
    assert not (out / "results.json").exists()
