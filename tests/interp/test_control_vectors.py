"""Control vectors: what is written is what llama.cpp reads, and what it would refuse is found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter

from hooks import generate
from hooks.errors import InputError, VectorError
from hooks.positions import everything
from interp import Pair, contrast
from interp.control_vectors import (
    control_vector_edits,
    export_control_vector,
    lint,
    read_control_vector,
    repair,
)

PAIRS = [Pair(f"What is {a} + {a}?", f"{2 * a}.", f"Let us add {a} and {a}.") for a in range(2, 8)]
GOOD = {"direction.1": np.ones(8, np.float32), "direction.2": np.arange(8, dtype=np.float32)}


@pytest.fixture(scope="module")
def vector(llama):
    return contrast(llama, PAIRS, n_null=2)


def written(path: Path, tensors, *, hint: str | None = "tiny", layer_count: str = "uint32") -> Path:
    """A file of any content, as other tools write them."""
    writer = GGUFWriter(path, "controlvector")
    if hint is not None:
        writer.add_string("controlvector.model_hint", hint)
    getattr(writer, f"add_{layer_count}")("controlvector.layer_count", len(tensors))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_is_exported_is_the_edit_at_strength_one(vector, llama, tmp_path):
    path = export_control_vector(vector, tmp_path / "v.gguf", layer=1, dose=0.3)
    edit = vector.at(1, dose=0.3, positions=everything)
    found = read_control_vector(path)
    assert list(found) == [1]
    assert torch.equal(found[1], edit.parameters()[0])
    assert float(found[1].norm()) == pytest.approx(0.3 * vector.resid_norm[1], rel=1e-5)
    assert lint(path) == []
    made = [
        generate(llama, ["What is 3 + 3?"], edits=edits, max_new_tokens=6, logprobs=True)[0]
        for edits in ([edit], control_vector_edits(path, llama), [])
    ]
    assert made[0].logprobs == made[1].logprobs != made[2].logprobs


def test_the_input_of_a_block_is_the_output_of_the_one_before(llama, tmp_path):
    before = contrast(llama, PAIRS, kind="resid_pre", n_null=2)
    path = export_control_vector(before, tmp_path / "v.gguf", layer=2, dose=0.2)
    assert list(read_control_vector(path)) == [1]


def test_what_llama_cpp_cannot_do_is_refused(vector, llama, tmp_path):
    with pytest.raises(VectorError, match="block 0"):
        export_control_vector(vector, tmp_path / "v.gguf", layer=0, dose=0.2)
    with pytest.raises(VectorError, match="block's output"):
        export_control_vector(replace(vector, kind="mlp_out"), tmp_path / "v.gguf", layer=1, dose=0.2)
    assert not (tmp_path / "v.gguf").exists()
    far = written(tmp_path / "far.gguf", {"direction.40": np.ones(llama.d_model, np.float32)})
    with pytest.raises(VectorError, match="block 40"):
        control_vector_edits(far, llama)
    wide = written(tmp_path / "wide.gguf", {"direction.1": np.ones(3, np.float32)})
    with pytest.raises(VectorError):
        control_vector_edits(wide, llama)


@pytest.mark.parametrize(
    ("tensors", "said", "kept"),
    [
        ({**GOOD, "direction.0": np.ones(8, np.float32)}, "direction.0", [1, 2]),
        ({**GOOD, "direction.-1": np.ones(8, np.float32)}, "no direction.N", [1, 2]),
        ({**GOOD, "bias.1": np.ones(8, np.float32)}, "no direction.N", [1, 2]),
        ({"direction.1": np.ones(8, np.float16)}, "F16", [1]),
        ({"direction.1": np.ones((1, 8), np.float32)}, "2 dimensions", [1]),
        ({**GOOD, "direction.3": np.ones((2, 4), np.float32)}, "shape", [1, 2]),
        ({**GOOD, "direction.3": np.full(8, np.nan, np.float32)}, "finite", [1, 2]),
    ],
)
def test_what_makes_llama_cpp_refuse_a_file_is_found_and_repaired(tensors, said, kept, tmp_path):
    path = written(tmp_path / "bad.gguf", tensors)
    findings = lint(path)
    assert [said in f.what and f.refused for f in findings] == [True]
    with pytest.raises(VectorError, match="refuses such a file"):
        read_control_vector(path)
    assert repair(path, tmp_path / "good.gguf") == findings
    found = read_control_vector(tmp_path / "good.gguf")
    assert list(found) == kept
    assert lint(tmp_path / "good.gguf") == []
    assert all(torch.isfinite(direction).all() for direction in found.values())


def test_what_is_misplaced_or_missing_is_said_and_does_not_refuse(tmp_path):
    path = written(tmp_path / "v.gguf", GOOD, hint=None, layer_count="int32")
    findings = lint(path)
    assert [f.refused for f in findings] == [False, False]
    assert "model_hint" in findings[0].what
    assert "one earlier" in findings[1].what
    assert list(read_control_vector(path)) == [1, 2]


def test_what_cannot_be_repaired_says_why(tmp_path):
    mixed = {"direction.1": np.ones(8, np.float32), "direction.2": np.ones(4, np.float32)}
    with pytest.raises(VectorError, match=r"mixes widths \[4, 8\]"):
        repair(written(tmp_path / "a.gguf", mixed), tmp_path / "b.gguf")
    with pytest.raises(VectorError, match="no direction"):
        repair(written(tmp_path / "c.gguf", {"x": np.ones(4, np.float32)}), tmp_path / "d.gguf")
    assert not (tmp_path / "b.gguf").exists()


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="No file"):
        lint(tmp_path / "nothing.gguf")
    good = written(tmp_path / "v.gguf", GOOD).read_bytes()
    rng = np.random.default_rng(0)
    (tmp_path / "junk.gguf").write_bytes(b"not a model" * 9)
    with pytest.raises(InputError, match="no GGUF file"):
        lint(tmp_path / "junk.gguf")
    for _ in range(60):  # cut or changed anywhere: our own errors, or a file that still reads
        mutated = bytearray(good[: rng.integers(8, len(good))] if rng.random() < 0.5 else good)
        for place in rng.integers(0, len(mutated), 3):
            mutated[place] = rng.integers(256)
        (tmp_path / "m.gguf").write_bytes(bytes(mutated))
        try:
            read_control_vector(tmp_path / "m.gguf")
        except (InputError, VectorError):
            continue
