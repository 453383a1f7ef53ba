"""Identity: what comes back from a file of any format is the very edit that was exported."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors import safe_open

from hooks import Add, inject
from hooks.errors import InputError, VectorError
from hooks.positions import everything, generated, response
from interp import SteeringVector
from interp.exchange import FORMATS, Exported, export_vector, foreign_edits, import_vector, read_vector
from interp.exchange import recognised as recognised_by
from interp.exchange.addition import packed, unpacked
from tests.interp.exchange.cases import CASES, Case, random_vector

ONE_LAYER = ("neuronpedia", "many layers")


@pytest.fixture(scope="module")
def case_of(llama):
    return cache(lambda name: CASES[name](llama))


def export(case: Case, to: str, folder) -> Exported:
    path = folder / f"v{FORMATS[to].suffix}"
    return export_vector(case.vector, path, to=to, layer=case.layer, dose=case.dose)


def edits_of(vector: SteeringVector) -> list[Add]:
    """Of each layer, the edit whose norm is the vector's own: the recommended one, where there is one."""
    if vector.recommended is not None:
        return [vector.at()]
    doses = {i: float(vector.vectors[i].double().norm()) / vector.resid_norm[i] for i in vector.layers}
    return [vector.at(i, dose=dose) for i, dose in doses.items()]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("to", FORMATS)
def test_the_imported_edit_is_the_exported_one_to_the_bit(to, name, case_of, tmp_path):
    if (to, name) == ONE_LAYER:
        with pytest.raises(VectorError, match="Neuronpedia takes one layer"):
            export(case_of(name), to, tmp_path)
        assert list(tmp_path.iterdir()) == []
        return
    case = case_of(name)
    (path, *_) = export(case, to, tmp_path).files
    assert recognised_by(path).name == ("gguf" if to == "repeng" else to)  # one file, and both read it
    imported = import_vector(path, format=to)
    assert (imported.recommended is None) == (len(case.edits) > 1)
    for made, meant in zip(edits_of(imported), case.edits, strict=True):
        assert torch.equal(made.parameters()[0], meant.parameters()[0])
        assert made.scale == pytest.approx(meant.scale, rel=2e-7)
        assert (made.site, made.positions, made.made_for) == (meant.site, meant.positions, meant.made_for)
    again = imported.save(tmp_path / "again.safetensors")
    assert all(
        torch.equal(found.parameters()[0], made.parameters()[0])
        for found, made in zip(edits_of(SteeringVector.load(again)), edits_of(imported), strict=True)
    )


def test_a_plain_file_says_in_words_what_it_is(llama, tmp_path):
    path = tmp_path / "v.safetensors"
    export_vector(random_vector(llama), path, to="safetensors", layer=2, dose=0.25)
    with safe_open(path, framework="pt") as file:
        about = file.metadata()["about"]
    assert "brief minus long, dose 0.25 at blocks.2.hook_resid_post." in about
    assert f"residual stream of {llama.name} at the site" in about


@pytest.mark.parametrize("name", ["a contrast", "many layers", "the input of a block", "a negative dose"])
@pytest.mark.parametrize("to", FORMATS)
def test_it_moves_the_logits_as_the_original_does_to_the_bit(to, name, case_of, llama, rows, tmp_path):
    if (to, name) == ONE_LAYER:
        return
    case = case_of(name)
    (path, *_) = export(case, to, tmp_path).files
    ids = torch.tensor([max(rows, key=lambda row: len(row.tokens)).tokens])

    def logits(edits):
        with torch.no_grad(), inject(llama, edits) as injection:
            injection.tracker.begin(torch.tensor([0]), torch.tensor([ids.shape[1] // 2]))
            return llama.model(ids, use_cache=False).logits

    meant = logits(case.edits)
    assert torch.equal(logits(edits_of(import_vector(path, llama, format=to))), meant)
    assert not torch.equal(logits([]), meant)
    there = foreign_edits(path, llama, format=to)
    assert {edit.positions for edit in there} == {FORMATS[to].positions}
    moved = [replace(edit, positions=FORMATS[to].positions) for edit in case.edits]
    assert torch.equal(logits(there), logits(moved))


@pytest.mark.parametrize("to", FORMATS)
def test_all_that_is_known_comes_back_of_the_layers_that_travelled(to, llama, tmp_path):
    vector = random_vector(llama, layers=(0, 1, 2), poles=("kurz — 短い\n", "«läng» 🦜\x00"))
    made = export(Case(vector, 2, -0.3), to, tmp_path)
    found = import_vector(made.files[0], format=to)
    for name in ("kind", "poles", "estimator", "read", "n_pairs", "pairs_hash", "seed", "model"):
        assert getattr(found, name) == getattr(vector, name), name
    for name in ("fingerprint", "tokenizer_hash", "template_hash", "sign_test", "versions"):
        assert getattr(found, name) == getattr(vector, name), name
    for name in ("resid_norm", "reliability", "length_control"):
        assert getattr(found, name) == {2: getattr(vector, name)[2]}, name
    assert (found.recommended.layer, found.recommended.dose) == (2, -0.3)
    assert "strength 1 of v" in found.recommended.how
    assert "largest drop in tokens" in found.recommended.how
    torch.testing.assert_close(found.direction(2), vector.direction(2))
    assert [line for line in made.left_behind if "2 other layers (0..1)" in line]
    assert [line for line in made.left_behind if "as it was estimated" in line]


@pytest.mark.parametrize("to", FORMATS)
def test_what_the_program_does_otherwise_is_said(to, case_of, tmp_path):
    target, said = FORMATS[to], " ".join(export(case_of("one layer"), to, tmp_path).differs)
    assert (target.where in said) == (target.positions != generated)
    assert target.positions in (generated, response, everything)
    moved = " ".join(export(case_of("the input of a block"), to, tmp_path).differs)
    assert ("output of block N-1" in moved) == ("resid_pre" not in target.kinds)


@pytest.mark.parametrize("to", FORMATS)
def test_a_file_that_was_changed_is_taken_for_a_strangers(to, case_of, tmp_path):
    (path, *_) = export(case_of("a contrast"), to, tmp_path).files
    addition = read_vector(path, to)
    assert addition.sealed
    doubled = replace(addition, vectors={i: 2 * v for i, v in addition.vectors.items()})
    renamed = replace(addition, facts={**addition.facts, "poles": ["long", "brief"]})
    assert not doubled.sealed
    assert not renamed.sealed
    assert unpacked(packed(renamed)) == renamed.facts
    FORMATS[to].write(path, doubled, "doubled")
    with pytest.raises(InputError, match=r"was changed after we wrote it.*--model"):
        import_vector(path, format=to)


def test_measures_that_are_no_numbers_stay_behind(llama, tmp_path):
    vector = random_vector(llama)
    broken = replace(
        vector, reliability=vector.reliability | {2: replace(vector.reliability[2], auroc=math.nan)}
    )
    for to in ("gguf", "aisteer360"):
        made = export(Case(broken, [1, 2], 0.3), to, tmp_path)
        assert import_vector(made.files[0]).reliability == {1: vector.reliability[1]}


def test_a_vector_of_another_model_is_refused_unless_it_is_allowed(llama, tiny, tmp_path):
    path = tmp_path / "v.gguf"
    export_vector(random_vector(llama), path, to="gguf")
    with pytest.raises(VectorError, match="was made for tiny-llama"):
        import_vector(path, tiny("qwen2"))
    assert import_vector(path, tiny("qwen2"), any_model=True).model == "tiny-llama"


@pytest.mark.parametrize("to", FORMATS)
def test_what_a_format_cannot_hold_is_refused_by_name_and_nothing_is_written(to, llama, tmp_path):
    target, path = FORMATS[to], tmp_path / f"v{FORMATS[to].suffix}"
    vector = random_vector(llama, layers=(0, 1))
    refusals = [
        (replace(vector, sign_test=replace(vector.sign_test, plus=90.0)), {}, "failed its sign test"),
        (replace(vector, recommended=None), {}, "no recommended layer and dose"),
        (replace(vector, recommended=None), {"layer": [0, 1]}, "Several layers need a dose"),
        (vector, {"layer": 1, "dose": 0.0}, "would add nothing"),
        (vector, {"layer": 1, "dose": 1e60}, "would add infinity"),
        (vector, {"layer": 5, "dose": 0.1}, "No vector at layer 5"),
    ]
    if to != "safetensors":
        out = replace(vector, kind="mlp_out")
        refusals.append((out, {"layer": 1, "dose": 0.1}, f"{target.program} adds to a block's output"))
    if "resid_pre" not in target.kinds:
        pre = replace(vector, kind="resid_pre")
        refusals.append(
            (pre, {"layer": 0, "dose": 0.1}, f"{target.program} cannot steer blocks.0.hook_resid_pre")
        )
    if to == "gguf":
        refusals.append(
            (vector, {"layer": 0, "dose": 0.1}, "llama.cpp cannot steer blocks.0.hook_resid_post")
        )
    if to == "neuronpedia":
        refusals.append((vector, {"layer": 1, "dose": 50.0}, "takes strengths up to 300"))
        wide = random_vector(llama, width=24_577)
        refusals.append((wide, {"layer": 1, "dose": 0.1}, "takes 24576 numbers, and this vector has 24577"))
    for refused, asked, said in refusals:
        with pytest.raises(VectorError, match=said):
            export_vector(refused, path, to=to, **asked)
    with pytest.raises(InputError, match=rf"file ends in \{target.suffix}"):
        export_vector(vector, tmp_path / "v.bin", to=to)
    assert list(tmp_path.iterdir()) == []


def test_formats_have_names_and_are_asked_for_by_them(llama, tmp_path):
    with pytest.raises(InputError, match=r"No format 'onnx'\. The formats are gguf, repeng"):
        export_vector(random_vector(llama), tmp_path / "v.onnx", to="onnx")
    with pytest.raises(InputError, match="No file"):
        read_vector(tmp_path / "v.gguf")
    ours = random_vector(llama).save(tmp_path / "v.safetensors")
    with pytest.raises(InputError, match="is a steering vector of this toolkit already"):
        import_vector(ours, llama)
    for text in ("", "[]", "nothing", '{"a": 1}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match="is none of the formats"):
            read_vector(tmp_path / "x.json")
