"""The file gives back what was saved and refuses anything else; the edit has the norm it says."""

import json
import math
import pickle
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from hooks import Add, Site, capture, generate, inject
from hooks.capture import run_to
from hooks.chat import prompt_row
from hooks.errors import InputError, SiteNotFoundError, VectorError
from hooks.positions import everything, generated, response
from hooks.rows import Row, pad_left
from interp import SteeringVector
from interp.reliability import Reliability
from interp.steering_vector import FORMAT, Recommendation, SignTest, _checksum, library_versions

D = 32
PASSED = SignTest("tokens", 0.3, plus=40.0, plain=60.0, minus=85.0, low=30.0, high=60.0, n=25)
FAILED = replace(PASSED, plain=90.0)


def make(lm, *, seed=0, **changes):
    """A vector at layers 0 and 2 of a tiny model, with everything filled in."""
    generator = torch.Generator().manual_seed(seed)
    vector = SteeringVector(
        vectors={i: 3 * torch.randn(D, generator=generator) for i in (0, 2)},
        kind="resid_post",
        poles=("brief", "läng — 長い\n"),
        estimator="mean_difference",
        read="(last(1) | after('\"'))",
        resid_norm={0: 0.1 + 0.2, 2: 7.25},
        n_pairs=12,
        pairs_hash="00ff",
        seed=2**40,
        model=lm.name,
        fingerprint=lm.fingerprint,
        tokenizer_hash=lm.tokenizer_hash,
        template_hash=lm.template_hash,
        reliability={i: Reliability(0.9, 0.1 + i, 1 / 3, 0.2, 1.0, 0.6, 12, 20) for i in (0, 2)},
        length_control={i: {"cos_matched": 0.7, "cos_position_out": 1 / 7} for i in (0, 2)},
        recommended=Recommendation(2, 0.3, "largest drop in tokens at equal accuracy"),
        sign_test=PASSED,
        versions=library_versions(),
    )
    return replace(vector, **changes)


@pytest.fixture
def steering(llama):
    return make(llama)


@pytest.fixture
def file(steering, tmp_path):
    return steering.save(tmp_path / "v.safetensors")


def same(left, right):
    """Equal in every field, bit for bit."""
    for field in fields(SteeringVector):
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        if field.name == "vectors":
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[i], theirs[i]) and ours[i].dtype == theirs[i].dtype for i in ours)
        else:
            assert ours == theirs, field.name
            assert type(ours) is type(theirs), field.name


# --- on disk


def test_what_is_loaded_is_what_was_saved_bit_for_bit(steering, file, llama):
    same(SteeringVector.load(file), steering)
    same(SteeringVector.load(str(file), llama), steering)


def test_what_may_be_missing_is_missing_after_loading(llama, tmp_path):
    bare = make(
        llama,
        reliability={},
        length_control={},
        recommended=None,
        sign_test=None,
        template_hash=None,
        versions={},
    )
    same(SteeringVector.load(bare.save(tmp_path / "bare.safetensors")), bare)


def test_saving_what_was_loaded_loses_nothing(steering, file, tmp_path):
    again = SteeringVector.load(file).save(tmp_path / "again.safetensors")
    same(SteeringVector.load(again), steering)
    assert again.stat().st_size == file.stat().st_size


def test_saving_makes_folders_and_leaves_no_part_behind(steering, tmp_path):
    path = steering.save(tmp_path / "a" / "b" / "v.safetensors")
    assert [p.name for p in path.parent.iterdir()] == ["v.safetensors"]
    first = path.read_bytes()
    make_other = replace(steering, seed=1).save(path)
    assert make_other.read_bytes() != first, "an old file is replaced"


def test_the_file_is_plain_safetensors_that_others_can_read(file, steering):
    with safe_open(file, framework="pt") as opened:
        assert sorted(opened.keys()) == ["layer.0", "layer.2"]
        metadata = opened.metadata()
        assert torch.equal(opened.get_tensor("layer.2"), steering.vectors[2])
    assert json.loads(metadata["format"]) == FORMAT
    assert json.loads(metadata["sign"]) == "plus is toward the first pole"
    assert json.loads(metadata["poles"]) == list(steering.poles)


def test_vectors_that_share_memory_or_need_a_gradient_are_saved(llama, tmp_path):
    one = torch.ones(D, requires_grad=True)
    table = torch.arange(2.0 * D).reshape(2, D)
    for number, vectors in enumerate(({0: one, 2: one}, {0: table[0], 2: table[1]})):
        path = make(llama, vectors=vectors).save(tmp_path / f"{number}.safetensors")
        loaded = SteeringVector.load(path).vectors
        assert all(torch.equal(loaded[i], vectors[i]) for i in vectors)


# --- damaged, altered, foreign


def rewritten(file, change, *, reseal=False):
    """The file with ``change(tensors, metadata)`` made to what is in it."""
    with safe_open(file, framework="pt") as opened:
        tensors, metadata = {k: opened.get_tensor(k) for k in opened.keys()}, dict(opened.metadata())  # noqa: SIM118
    change(tensors, metadata)
    if reseal:
        del metadata["checksum"]
        metadata["checksum"] = _checksum(tensors, metadata)
    save_file(tensors, file, metadata=metadata)
    return file


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"No file .*nothing\.safetensors\. Pass the path of a \.safetensors"
    ):
        SteeringVector.load(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match="No file"):
        SteeringVector.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_file_is_refused(file, share):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(VectorError, match="is damaged or not a safetensors file"):
        SteeringVector.load(file)


def test_a_flipped_byte_anywhere_is_refused(file):
    """In the header's length, the header, the metadata or the data."""
    whole = file.read_bytes()
    for at in [*range(0, len(whole), 37), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[at] ^= 0x04
        file.write_bytes(bytes(damaged))
        with pytest.raises(VectorError):
            SteeringVector.load(file)
    data = bytearray(whole)
    data[-5] ^= 0x01
    file.write_bytes(bytes(data))
    with pytest.raises(VectorError, match="altered or damaged after it was written: its checksum"):
        SteeringVector.load(file)


@pytest.mark.parametrize("name", ["poles", "fingerprint", "resid_norm", "sign", "recommended"])
def test_edited_metadata_is_refused(file, name):
    def change(_tensors, metadata):
        metadata[name] = metadata[name].replace("b", "c") + " "

    with pytest.raises(VectorError, match="its checksum does not match"):
        SteeringVector.load(rewritten(file, change))


def test_added_and_removed_metadata_and_layers_are_refused(file):
    whole = file.read_bytes()
    changes = [
        lambda _t, m: m.pop("checksum"),
        lambda _t, m: m.pop("seed"),
        lambda _t, m: m.update(note='"hello"'),
        lambda t, _m: t.pop("layer.2"),
        lambda t, _m: t.update({"layer.1": torch.ones(D)}),
        lambda t, _m: t.update({"layer.2": t["layer.2"].half()}),
    ]
    for change in changes:
        file.write_bytes(whole)
        with pytest.raises(VectorError, match="its checksum does not match"):
            SteeringVector.load(rewritten(file, change))


def test_another_format_is_refused(file, tmp_path):
    later = rewritten(file, lambda _t, m: m.update(format='"unlatch.steering-vector.9"'))
    with pytest.raises(
        VectorError, match=r'its format is "unlatch.steering-vector.9", expected unlatch.steering-vector.1'
    ):
        SteeringVector.load(later)
    save_file({"layer.0": torch.ones(D)}, tmp_path / "other.safetensors")
    with pytest.raises(VectorError, match="not a steering vector of this toolkit: its format is not given"):
        SteeringVector.load(tmp_path / "other.safetensors")


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    path = tmp_path / "v.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    torch.save({"layer.0": torch.ones(D)}, tmp_path / "v.pt")
    for each in (path, tmp_path / "v.pt"):
        with pytest.raises(VectorError, match="is damaged or not a safetensors file"):
            SteeringVector.load(each)
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_is_sealed_but_not_whole_is_refused(file):
    whole = file.read_bytes()
    changes = [
        lambda _t, m: m.pop("resid_norm"),
        lambda _t, m: m.update(sign_test='{"outcome": "tokens"}'),
        lambda _t, m: m.update(poles="3"),
        lambda t, _m: t.update({"embedding": torch.ones(D)}),
        lambda t, _m: t.pop("layer.2"),
        lambda t, _m: t.update({"layer.2": torch.ones(D + 1)}),
    ]
    for change in changes:
        file.write_bytes(whole)
        with pytest.raises(VectorError):
            SteeringVector.load(rewritten(file, change, reseal=True))


def test_another_models_vector_is_refused_unless_allowed(file, llama, tiny, tokenizer_with):
    other = tiny("qwen2")
    text = rf"for tiny-llama with weights {llama.fingerprint}; tiny-qwen2 has {other.fingerprint}.*any_model"
    with pytest.raises(VectorError, match=text):
        SteeringVector.load(file, other)
    assert SteeringVector.load(file, other, any_model=True).model == "tiny-llama"
    swapped = replace(llama, tokenizer=tokenizer_with(swap=("a", 9)))
    with pytest.raises(VectorError, match=r"with tokenizer .*; tiny-llama has"):
        SteeringVector.load(file, swapped)
    bare = replace(llama, tokenizer=tokenizer_with(template=None))
    with pytest.raises(VectorError, match=r"with chat template .*; tiny-llama has None"):
        SteeringVector.load(file, bare)


# --- the edit


@given(
    width=st.integers(1, 40),
    exponent=st.integers(-30, 30),
    resid_norm=st.floats(1e-3, 1e3),
    down=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_vector_whose_norm_is_the_doses_is_added_to_the_bit(width, exponent, resid_norm, down, seed, llama):
    numbers = torch.randn(width, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    held = make(llama, vectors={0: numbers}, resid_norm={0: resid_norm})
    dose = float(numbers.double().norm()) / resid_norm
    (written,) = held.at(0, dose=-dose if down else dose).parameters()
    assert written.dtype == torch.float32
    assert torch.equal(written, -numbers if down else numbers)


def test_an_edit_whose_vector_is_replaced_adds_the_new_one(steering):
    edit = steering.at(0, dose=0.3)
    (written,) = replace(edit, vector=-edit.vector).parameters()
    torch.testing.assert_close(written, -edit.parameters()[0])


@pytest.mark.parametrize("dose", [0.0, 0.1, 0.5, 2.0, -0.5])
def test_the_edits_norm_is_the_dose_times_the_residual_norm(steering, dose):
    for layer in (0, 2):
        edit = steering.at(layer, dose=dose)
        (written,) = edit.parameters()
        assert float(written.norm()) == pytest.approx(abs(dose) * steering.resid_norm[layer], rel=1e-6)
        assert float(written @ steering.vectors[layer]) * dose >= 0
        assert edit.site == Site(layer, "resid_post")
        assert edit.positions == generated


def test_the_vectors_own_length_does_not_change_the_dose(steering):
    for factor in (1e-3, 1.0, 1e3):
        torch.testing.assert_close(
            (factor * steering).at(2, dose=0.3).vector, steering.at(2, dose=0.3).vector
        )


def test_a_dose_below_zero_is_the_other_pole(steering):
    (up,), (down,) = (steering.at(2, dose=d).parameters() for d in (0.4, -0.4))
    assert torch.equal(up, -down)
    (other,) = (-steering).at(2, dose=0.4).parameters()
    assert torch.equal(other, down)


def test_generating_adds_exactly_the_vector_at_generated_positions(llama, steering):
    """Seen from inside: the stream of a generating model, against the same tokens unedited."""
    prompts = ["12", "abcdef", "the thing"]
    edit = steering.at(0, dose=150.0)
    out = generate(llama, prompts, edits=[edit], max_new_tokens=6)
    out.receipt.check(generated)
    assert out.texts != generate(llama, prompts, max_new_tokens=6).texts
    (written,) = edit.parameters()
    site = Site(0, "resid_post")
    for number, prompt in enumerate(prompts):
        start = prompt_row(llama.tokenizer, prompt).prompt_length
        ids = torch.tensor([[*prompt_row(llama.tokenizer, prompt).tokens, *out[number].tokens]])
        streams = []
        for edits in ([], [edit]):
            seen, cache, fed = [], None, ids[:, :start]
            with torch.no_grad(), inject(llama, edits), capture(llama, [site]) as acts:
                for step, token in enumerate(out[number].tokens):
                    passed = llama.model(fed, past_key_values=cache, use_cache=True)
                    seen.append(acts[site][0].clone())
                    cache, fed = passed.past_key_values, ids[:, start + step, None]
                    assert not edits or int(passed.logits[0, -1].argmax()) == token
            streams.append(torch.cat(seen))
        plain, steered = streams
        expected = plain.clone()
        expected[start - 1 :] += written  # the last prompt token produces the first generated one
        assert torch.equal(steered, expected)


def test_the_receipt_shows_the_dose_that_was_asked(lm, rows, batch):
    """Where every token's norm is the unit of the dose, |dh| / |h| is the dose."""
    site = Site(1, "resid_post")
    norms = run_to(lm, batch, [site])[site].norm(dim=-1)[:, -1]
    for number in range(len(rows)):
        vector = make(
            lm,
            vectors={1: torch.arange(1.0, D + 1)},
            resid_norm={1: float(norms[number])},
            reliability={},
            length_control={},
        )
        single = pad_left(rows, [number], pad_id=0, device=torch.device("cpu"))
        with inject(lm, [vector.at(1, dose=0.25)]) as injection:
            run_to(lm, single, [site])
        assert injection.receipt().ratio.tolist() == pytest.approx([0.25], rel=1e-4)


def test_the_recommended_layer_and_dose_are_the_default(steering):
    tensors = {"vector": 0, "unrounded": 0}
    assert vars(steering.at()) | tensors == vars(steering.at(2, dose=0.3)) | tensors
    assert steering.at(0).scale == 0.3
    assert steering.at(dose=1.5).site.layer == 2
    assert steering.at(dose=1.5, positions=everything).positions == everything


def test_negative_layers_count_back_from_the_last_one_held(steering):
    assert steering.at(-1, dose=0.1).site.layer == 2
    assert steering.at(-2, dose=0.1).site.layer == 0


@pytest.mark.parametrize(
    ("shape", "shares"),
    [
        ("constant", (1 / 3, 1 / 3, 1 / 3)),
        ("triangular", (0.25, 0.5, 0.25)),
        ((3.0, 0.0, 1.0), (0.75, 0, 0.25)),
    ],
)
def test_a_dose_over_several_layers_adds_up_to_that_of_one(steering, shape, shares):
    vectors = {i: torch.arange(1.0, 1 + steering.d_model) * (i + 1) for i in (0, 2, 3)}
    steering = replace(steering, vectors=vectors, resid_norm={0: 2.0, 2: 3.0, 3: 5.0})
    layers = steering.layers
    wanted = {i: share for i, share in zip(layers, shares, strict=True) if share}
    edits = steering.over(layers, dose=-0.6, shape=shape, positions=response)
    assert {edit.site.layer: edit.scale for edit in edits} == pytest.approx(
        {i: -0.6 * share for i, share in wanted.items()}
    )
    for edit in edits:
        one = steering.at(edit.site.layer, dose=edit.scale, positions=response)
        assert torch.equal(edit.vector, one.vector)
        assert (edit.positions, edit.made_for) == (one.positions, one.made_for)


@pytest.mark.parametrize(
    ("layers", "shape", "what"),
    [
        ([], "constant", "name one or more"),
        ([0, 0], "constant", "each once"),
        ([0, 2], (1.0,), "one finite number a layer"),
        ([0, 2], (1.0, -1.0), "none below zero"),
        ([0, 2], (0.0, 0.0), "at least one above"),
        ([0, 99], "constant", "No vector at layer 99"),
    ],
)
def test_a_dose_that_cannot_be_spread_is_refused(steering, layers, shape, what):
    with pytest.raises(VectorError, match=what):
        steering.over(layers, dose=0.3, shape=shape)


def test_it_steers_the_model_it_was_made_for_and_others_only_when_allowed(steering, llama, tiny):
    other = tiny("qwen2")
    steering.at(2, dose=0.1).check(llama)
    with pytest.raises(VectorError, match="was made for the model with fingerprint"):
        steering.at(2, dose=0.1).check(other)
    steering.at(2, dose=0.1, any_model=True).check(other)


# --- refusals of the edit


def test_a_vector_without_a_recommendation_needs_a_layer_and_a_dose(llama):
    bare = make(llama, recommended=None)
    for arguments in ({}, {"layer": 2}, {"dose": 0.1}):
        with pytest.raises(
            VectorError, match=r"no recommended layer and dose. Pass layer \(one of 0, 2\) and dose"
        ):
            bare.at(**arguments)
    assert isinstance(bare.at(2, dose=0.1), Add)


def test_a_layer_that_is_not_held_is_refused(steering, llama):
    for layer in (1, 3, -3):
        with pytest.raises(VectorError, match=f"No vector at layer {layer}; this one has layers 0, 2"):
            steering.at(layer, dose=0.1)
    long = make(llama, vectors={i: torch.ones(D) for i in range(9)}, resid_norm=dict.fromkeys(range(9), 1.0))
    with pytest.raises(VectorError, match=r"this one has layers 0\.\.8"):
        long.at(9, dose=0.1)
    with pytest.raises(SiteNotFoundError), inject(llama, [long.at(8, dose=0.1)]):
        pass


@pytest.mark.parametrize(
    ("entry", "what"), [(0.0, "zero"), (math.nan, "not finite"), (math.inf, "not finite")]
)
def test_a_layer_of_zeros_or_nan_is_refused(llama, entry, what):
    bad = make(llama, vectors={0: torch.full((D,), entry), 2: torch.ones(D)})
    with pytest.raises(VectorError, match=f"The vector at layer 0 is {what}; it cannot steer"):
        bad.at(0, dose=0.1)
    bad.at(2, dose=0.1).check(llama)


@pytest.mark.parametrize("dose", [math.nan, math.inf])
def test_a_dose_that_is_not_finite_is_refused_before_anything_runs(llama, steering, dose):
    with (
        pytest.raises(VectorError, match=r"has the scale (nan|inf); pass a finite number"),
        inject(llama, [steering.at(2, dose=dose)]),
    ):
        pass


def test_a_vector_that_failed_its_sign_test_is_refused(llama):
    with pytest.raises(
        VectorError, match=r"failed its sign test on tokens: 40 at dose \+0.3, 90 plain, 85 at -0.3"
    ):
        make(llama, sign_test=FAILED).at(2, dose=0.1)
    make(llama, sign_test=None).at(2, dose=0.1).check(llama)


@pytest.mark.parametrize(
    ("plus", "minus", "low", "high", "passed"),
    [
        (40.0, 85.0, 30.0, 60.0, True),
        (85.0, 40.0, -60.0, -30.0, True),
        (40.0, 85.0, -1.0, 91.0, False),
        (61.0, 85.0, 12.0, 36.0, False),
        (40.0, 59.0, 5.0, 33.0, False),
        (60.0, 60.0, 0.0, 0.0, False),
    ],
)
def test_the_sign_test_asks_that_up_and_down_move_the_outcome_apart(plus, minus, low, high, passed):
    assert SignTest("tokens", 0.3, plus, 60.0, minus, low, high, 25).passed is passed


def test_a_vector_that_works_backwards_fails_its_sign_test():
    forwards = replace(PASSED, first_pole="lowers")
    assert forwards.passed
    assert not replace(forwards, first_pole="raises").passed
    assert not replace(forwards, plus=85.0, minus=40.0, low=-60.0, high=-30.0).passed


def test_layers_need_a_norm_each_and_one_width(llama):
    with pytest.raises(VectorError, match="needs at least one layer"):
        make(llama, vectors={}, resid_norm={})
    with pytest.raises(VectorError, match=r"Vectors at layers \[0, 2\] and residual norms at \[0\]"):
        make(llama, resid_norm={0: 1.0})
    with pytest.raises(VectorError, match=r"shapes \[\(31,\), \(32,\)\]; one width is needed"):
        make(llama, vectors={0: torch.ones(31), 2: torch.ones(32)})


# --- arithmetic

MEASURED = ("reliability", "length_control", "recommended", "sign_test")


def measured(vector):
    return [name for name in MEASURED if getattr(vector, name)]


def test_minus_turns_every_layer_and_its_poles(steering):
    turned = -steering
    assert turned.poles == steering.poles[::-1]
    assert all(torch.equal(turned.vectors[i], -steering.vectors[i]) for i in (0, 2))
    assert measured(turned) == []
    assert measured(steering) == list(MEASURED)
    assert (-turned).poles == steering.poles


def test_sums_and_differences_are_taken_layer_by_layer(llama, steering):
    other = make(
        llama, seed=5, poles=("glad", "sad"), estimator="pca", pairs_hash="aa", n_pairs=8, read="last(1)"
    )
    for i in (0, 2):
        assert torch.equal((steering + other).vectors[i], steering.vectors[i] + other.vectors[i])
        assert torch.equal((steering - other).vectors[i], steering.vectors[i] - other.vectors[i])
    assert (steering + other).poles == ("brief + glad", "läng — 長い\n + sad")
    assert (steering - other).poles == ("brief + sad", "läng — 長い\n + glad")
    both = steering + other
    assert (both.estimator, both.pairs_hash, both.n_pairs) == ("mean_difference + pca", "00ff + aa", 20)
    assert both.read == f"{steering.read} + last(1)"
    assert measured(both) == []


def test_a_factor_scales_and_keeps_plus_toward_the_first_pole(steering):
    for product in (2.0 * steering, steering * 2.0):
        assert all(torch.equal(product.vectors[i], 2 * steering.vectors[i]) for i in (0, 2))
        assert product.poles == steering.poles
    turned = -2.0 * steering
    assert turned.poles == steering.poles[::-1], "the vector turned and its poles did not"
    assert all(torch.equal(turned.vectors[i], -2 * steering.vectors[i]) for i in (0, 2))


def test_a_sum_of_nothing_cannot_steer(steering):
    with pytest.raises(VectorError, match="The vector at layer 2 is zero"):
        (steering - steering).at(2, dose=0.1)
    with pytest.raises(VectorError, match="The vector at layer 2 is zero"):
        (0.0 * steering).at(2, dose=0.1)


def test_vectors_of_other_models_kinds_or_layers_cannot_be_added(steering, tiny):
    others = [
        make(tiny("qwen2")),
        replace(steering, kind="mlp_out"),
        replace(steering, vectors={0: torch.ones(D)}, resid_norm={0: 1.0}),
    ]
    for other in others:
        with pytest.raises(
            VectorError, match=rf"Cannot add a vector of {other.model} .* to one of tiny-llama"
        ):
            steering + other
        with pytest.raises(VectorError, match="Cannot add a vector"):
            steering - other


def test_a_row_that_was_generated_is_what_the_dose_was_measured_on(llama):
    """A row of a prompt and a response: its generated positions begin at the last prompt token."""
    vector, row = make(llama), Row((9, 10, 11, 12, 13), 3)
    single = pad_left([row], [0], pad_id=0, device=torch.device("cpu"))
    with inject(llama, [vector.at(2, dose=0.5)]) as injection:
        injection.tracker.begin(single.row, single.prompt_length)
        run_to(llama, single, [Site(2, "resid_post")])
    assert injection.receipt().position.tolist() == [2, 3, 4]
