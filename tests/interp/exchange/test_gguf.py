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
from interp.exchange import export_vector, foreign_edits, import_vector, read_vector
from interp.exchange.gguf import PROVENANCE, lint, opened, repair, value

PAIRS = [Pair(f"What is {a} + {a}?", f"{2 * a}.", f"Let us add {a} and {a}.") for a in range(2, 8)]
GOOD = {"direction.1": np.ones(8, np.float32), "direction.2": np.arange(8, dtype=np.float32)}


@pytest.fixture(scope="module")
def vector(llama):
    return contrast(llama, PAIRS, n_null=2)


def written(
    path: Path, tensors, *, hint: str | None = "tiny", layer_count: str = "uint32", facts=None
) -> Path:
    """A file of any content, as other tools write them."""
    writer = GGUFWriter(path, "controlvector")
    if hint is not None:
        writer.add_string("controlvector.model_hint", hint)
    if facts is not None:
        writer.add_string(PROVENANCE, facts)
    getattr(writer, f"add_{layer_count}")("controlvector.layer_count", len(tensors))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_is_exported_is_the_edit_at_strength_one(vector, llama, tmp_path):
    path = tmp_path / "v.gguf"
    export_vector(vector, path, to="gguf", layer=1, dose=0.3)
    edit = vector.at(1, dose=0.3, positions=everything)
    found = read_vector(path).vectors
    assert list(found) == [1]
    assert torch.equal(found[1], edit.parameters()[0])
    assert float(found[1].norm()) == pytest.approx(0.3 * vector.resid_norm[1], rel=1e-5)
    assert lint(path) == []
    made = [
        generate(llama, ["What is 3 + 3?"], edits=edits, max_new_tokens=6, logprobs=True)[0]
        for edits in ([edit], foreign_edits(path, llama), [])
    ]
    assert made[0].logprobs == made[1].logprobs != made[2].logprobs


def test_the_input_of_a_block_is_the_output_of_the_one_before(llama, tmp_path):
    before = contrast(llama, PAIRS, kind="resid_pre", n_null=2)
    path = tmp_path / "v.gguf"
    said = export_vector(before, path, to="gguf", layer=2, dose=0.2).differs
    assert read_vector(path).layers == [1]
    assert any("output of block N-1" in line for line in said)
    assert import_vector(path).at().site == before.at(2, dose=0.2).site


def test_what_llama_cpp_cannot_do_is_refused(vector, llama, tmp_path):
    with pytest.raises(VectorError, match="block 0"):
        export_vector(vector, tmp_path / "v.gguf", to="gguf", layer=0, dose=0.2)
    with pytest.raises(VectorError, match="block's output"):
        export_vector(replace(vector, kind="mlp_out"), tmp_path / "v.gguf", to="gguf", layer=1, dose=0.2)
    assert not (tmp_path / "v.gguf").exists()
    far = written(tmp_path / "far.gguf", {"direction.40": np.ones(llama.d_model, np.float32)})
    with pytest.raises(VectorError, match="block 40"):
        foreign_edits(far, llama)
    wide = written(tmp_path / "wide.gguf", {"direction.1": np.ones(3, np.float32)})
    with pytest.raises(VectorError):
        foreign_edits(wide, llama)


@pytest.mark.parametrize(
    ("tensors", "said", "kept"),
    [
        ({**GOOD, "direction.0": np.ones(8, np.float32)}, "direction.0", [1, 2]),
        ({**GOOD, "direction.-1": np.ones(8, np.float32)}, "no direction.N", [1, 2]),
        ({**GOOD, "direction.99999999999": np.ones(8, np.float32)}, "no direction.N", [1, 2]),
        ({**GOOD, "direction.": np.ones(8, np.float32)}, "no direction.N", [1, 2]),
        ({**GOOD, "bias.1": np.ones(8, np.float32)}, "no direction.N", [1, 2]),
        ({"direction.1": np.ones(8, np.float16)}, "F16", [1]),
        ({"direction.1": np.ones((8, 1), np.float32)}, "2 dimensions", [1]),
        ({**GOOD, "direction.3": np.ones((2, 4), np.float32)}, "shape", [1, 2]),
        ({**GOOD, "direction.3": np.full(8, np.nan, np.float32)}, "finite", [1, 2]),
    ],
)
def test_what_makes_llama_cpp_refuse_a_file_is_found_and_repaired(tensors, said, kept, tmp_path):
    path = written(tmp_path / "bad.gguf", tensors)
    findings = lint(path)
    assert [said in f.what and f.refused for f in findings] == [True]
    with pytest.raises(VectorError, match="refuses such a file"):
        read_vector(path, "gguf")
    assert repair(path, tmp_path / "good.gguf") == findings
    found = read_vector(tmp_path / "good.gguf").vectors
    assert list(found) == kept
    assert lint(tmp_path / "good.gguf") == []
    assert all(torch.isfinite(direction).all() for direction in found.values())


def test_what_is_misplaced_or_missing_is_said_and_does_not_refuse(tmp_path):
    path = written(tmp_path / "v.gguf", GOOD, hint=None, layer_count="int32")
    findings = lint(path)
    assert [f.refused for f in findings] == [False, False]
    assert "model_hint" in findings[0].what
    assert "one earlier" in findings[1].what
    assert read_vector(path).layers == [1, 2]


@pytest.mark.parametrize("other", ["direction.01", "direction. 1", "direction.+1", "direction.1.weight"])
def test_names_of_one_block_are_added_up_as_the_loader_does_and_said(other, tmp_path):
    path = written(tmp_path / "v.gguf", {**GOOD, other: np.full(8, 0.25, np.float32)})
    (finding,) = lint(path)
    assert f"direction.1, {other} all name block 1" in finding.what
    assert not finding.refused
    expected = {1: torch.full((8,), 1.25), 2: torch.arange(8.0)}
    repair(path, tmp_path / "w.gguf")
    assert lint(tmp_path / "w.gguf") == []
    for file in (path, tmp_path / "w.gguf"):
        found = read_vector(file).vectors
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[i], expected[i]) for i in expected)


def test_a_name_that_others_read_differently_is_said(tmp_path):
    (finding,) = lint(written(tmp_path / "v.gguf", {"direction.007": np.ones(8, np.float32)}))
    assert "read as block 7" in finding.what
    assert not finding.refused


def test_two_tensors_of_the_very_same_name_are_no_gguf_file(tmp_path):
    path = written(
        tmp_path / "v.gguf", {"direction.1": np.ones(8, np.float32), "direction.2": np.ones(8, np.float32)}
    )
    path.write_bytes(path.read_bytes().replace(b"direction.2", b"direction.1"))
    with pytest.raises(InputError, match=r"duplicated tensor with name direction\.1"):
        lint(path)


def test_one_dimension_is_counted_as_ggml_does(tmp_path):
    path = written(tmp_path / "v.gguf", {"direction.1": np.ones((1, 8), np.float32)})
    assert lint(path) == []
    assert read_vector(path).vectors[1].shape == (8,)


def test_a_repair_keeps_what_is_known_only_where_no_number_changed(vector, tmp_path):
    path, kept = tmp_path / "v.gguf", tmp_path / "w.gguf"
    export_vector(vector, path, to="gguf", layer=1, dose=0.3)
    repair(path, kept)
    assert value(opened(kept), PROVENANCE) == value(opened(path), PROVENANCE)
    added = read_vector(path).vectors[1].numpy()
    other = {"direction.1": added, "direction.01": added}
    doubled = written(tmp_path / "x.gguf", other, facts=value(opened(path), PROVENANCE))
    repair(doubled, kept)
    assert value(opened(kept), PROVENANCE) is None


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
    (tmp_path / "junk.gguf").write_bytes(b"not a model" * 9)
    with pytest.raises(InputError, match="no GGUF file"):
        lint(tmp_path / "junk.gguf")
