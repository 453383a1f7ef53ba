"""One paste that an issue can be filed with: true of this machine, and true of a model that is refused."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteConfig

from analyses import cli
from analyses.doctor import doctor
from hooks import load


def lines(said: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in said.splitlines())}


def test_it_names_every_library_with_its_version_and_the_threads_in_use():
    said = lines(doctor(None))
    asked = {line.partition(" ")[0] for line in said["libraries"].split(", ")}
    assert {"torch", "transformers", "safetensors"} <= asked
    assert f"torch {importlib.metadata.version('torch')}" in said["libraries"]
    assert f"ray {importlib.metadata.version('ray')}" in said["extra ray"]
    assert f"{torch.get_num_threads()} threads" in said["processor"]
    assert "model" not in said


def test_a_library_that_is_not_there_is_said_not_to_be(monkeypatch: pytest.MonkeyPatch):
    def asked(_name: str) -> list[str]:
        return ["torch>=2", 'no-such-library>=1; extra == "ray"', 'ruff; extra == "dev"']

    monkeypatch.setattr(importlib.metadata, "requires", asked)
    said = lines(doctor(None))
    assert said["extra ray"] == "no-such-library not installed"
    assert "extra dev" not in said


def test_a_model_that_passes_is_described_and_counted(folder: Path):
    said = lines(doctor(str(folder)))
    lm = load(folder)
    passed, of, total, _ = said["self-check"].split()
    assert (of, passed) == ("of", total)
    assert f"{lm.n_layers} blocks of {lm.d_model}" in said["it is"]
    assert lm.fingerprint in said["it is"]


def test_a_model_that_is_refused_is_named_with_what_failed(tmp_path: Path, tokenizer_with: Callable):
    scales_each_branch = GraniteConfig(
        vocab_size=111,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        residual_multiplier=0.22,
    )
    AutoModelForCausalLM.from_config(scales_each_branch).save_pretrained(tmp_path)
    tokenizer_with().save_pretrained(tmp_path)
    said = lines(doctor(str(tmp_path)))
    assert "resid_pre + attn_out + mlp_out is not resid_post" in said["failed"]
    passed, _, total, _ = said["self-check"].split()
    assert int(passed) < int(total)


def test_a_model_that_is_not_there_is_a_line_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["doctor", str(tmp_path / "none")]) == 0
    assert "No folder" in lines(capsys.readouterr().out)["not loaded"]


def test_it_names_no_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UNLATCH_CACHE", str(tmp_path / "models"))
    said = doctor(None)
    assert str(tmp_path) not in said
    assert lines(said)["model cache"] == "~/models"
