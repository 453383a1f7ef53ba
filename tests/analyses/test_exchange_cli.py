"""Vectors out to other programs and back in, as they are typed."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from gguf import GGUFWriter

from analyses import cli
from interp import SteeringVector
from interp.exchange import FORMATS
from tests.interp.exchange.cases import random_vector


@pytest.fixture
def file(llama, tmp_path) -> Path:
    return random_vector(llama, layers=(0, 1, 2)).save(tmp_path / "brief.safetensors")


def control_vector(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_command_names_every_format():
    assert get_args(get_type_hints(cli.export)["to"]) == tuple(FORMATS)
    said = re.sub(r"\s+", " ", cli.import_.__doc__)
    assert all(name in said for name in FORMATS)


@pytest.mark.parametrize("to", FORMATS)
def test_out_and_in_again_is_the_same_edit(to, file, tmp_path, capsys):
    out, back = tmp_path / f"out{FORMATS[to].suffix}", tmp_path / "back.safetensors"
    asked = ["--layer", "1", "--dose", "-0.4"]
    assert cli.main(["export", str(file), "--to", to, "--out", str(out), *asked]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(out)
    assert "left behind: the vectors of 2 other layers" in said.err
    assert ("differs: " in said.err) == (to not in ("easysteer", "safetensors"))
    assert cli.main(["import", str(out), "--format", to, "--out", str(back)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(back)
    assert "layer 1, dose -0.4: strength 1 of out" in said.err
    edits = [SteeringVector.load(file).at(1, dose=-0.4), SteeringVector.load(back).at()]
    assert torch.equal(*(edit.parameters()[0] for edit in edits))


def test_several_layers_share_the_dose_and_none_is_recommended(file, tmp_path, capsys):
    out, back = tmp_path / "out.svec", tmp_path / "back.safetensors"
    assert cli.main(["export", str(file), "--to", "aisteer360", "--out", str(out), "--layer", "1", "2"]) == 0
    assert cli.main(["import", str(out), "--out", str(back)]) == 0
    assert "none is recommended" in capsys.readouterr().err
    assert SteeringVector.load(back).layers == [1, 2]


def test_a_strangers_file_needs_the_model_and_takes_its_unit_from_it(llama, tmp_path, capsys):
    theirs = control_vector(tmp_path / "happy.gguf", {"direction.1": np.ones(llama.d_model, np.float32)})
    out, folder = tmp_path / "happy.safetensors", tmp_path / "model"
    assert cli.main(["import", str(theirs), "--out", str(out)]) == 2
    assert "is not a file of ours" in capsys.readouterr().err
    llama.model.save_pretrained(folder)
    llama.tokenizer.save_pretrained(folder)
    assert (
        cli.main(["import", str(theirs), "--out", str(out), "--model", str(folder), "--device", "cpu"]) == 0
    )
    vector = SteeringVector.load(out, llama, any_model=True)
    assert torch.equal(vector.at().parameters()[0], torch.ones(llama.d_model))
    assert cli.main(["import", str(out), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "is a steering vector of this toolkit already" in capsys.readouterr().err


def test_a_refusal_exits_2_and_writes_nothing(file, tmp_path, capsys):
    out = tmp_path / "out.gguf"
    for arguments, said in (
        (["export", str(file), "--out", str(out), "--layer", "0"], "llama.cpp cannot steer"),
        (["export", str(file), "--to", "neuronpedia", "--out", str(out)], "ends in .json"),
        (["import", str(file), "--out", str(out)], "ends in .safetensors"),
        (["import", str(file), "--format", "onnx", "--out", str(tmp_path / "x.safetensors")], "No format"),
    ):
        assert cli.main(arguments) == 2
        assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name]


def test_names_of_one_block_are_told_of_and_added_up(tmp_path, capsys):
    ones = np.ones(8, np.float32)
    twice = control_vector(tmp_path / "twice.gguf", {"direction.1": ones, "direction.01": ones})
    assert cli.main(["gguf-lint", str(twice), "--fix", str(tmp_path / "once.gguf")]) == 0
    assert "all name block 1" in capsys.readouterr().err
    assert cli.main(["gguf-lint", str(tmp_path / "once.gguf")]) == 0
    assert capsys.readouterr().err == ""
    zero = control_vector(tmp_path / "zero.gguf", {"direction.0": ones})
    assert cli.main(["gguf-lint", str(zero)]) == 2
