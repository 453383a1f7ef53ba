"""A model whose layers wait on disk gives what the plain one gives, to the bit, and is left as it was."""

import numpy as np
import pytest
import torch
from accelerate import disk_offload

from hooks import Add, Clamp, Patch, ProjectOut, Site, adopt, generate, load
from hooks.capture import run_to
from hooks.errors import InputError
from hooks.generate import generate_rows
from hooks.inject import inject
from hooks.placement import weights_of
from hooks.positions import everything, generated, last, response
from hooks.replay import Replay, Variant
from hooks.sampling import Sampling
from hooks.self_check import self_check
from interp import Pair
from interp.contrast import contrasts
from interp.dose import LastTokens, kl_cap, kl_throughout
from saes import ClampLatents, ScaleLatents, TopKSAE

KINDS = ("resid_pre", "attn_out", "mlp_out", "resid_post")


@pytest.fixture(scope="module")
def plain(lm):
    """The tiny model of every family."""
    return lm


@pytest.fixture(scope="module")
def offloaded(plain, tmp_path_factory):
    """The same model from a folder, with everything on disk where weights are tied, else half its layers."""
    folder = tmp_path_factory.mktemp("offloaded") / plain.name
    plain.model.save_pretrained(folder)
    plain.tokenizer.save_pretrained(folder)
    return load(folder, device_map={"": "disk"} if plain.model.config.tie_word_embeddings else _layers(plain))


def _layers(lm):
    """Every second block on disk, and all else in memory."""
    names = {module: name for name, module in lm.model.named_modules()}
    blocks = [block.module for block in lm.anatomy.blocks]
    prefix = lm.model.base_model_prefix
    others = {f"{prefix}.{name}": "cpu" for name, child in lm.model.base_model.named_children()}
    others = {n: d for n, d in others.items() if not names[blocks[0]].startswith(f"{n}.")}
    return {names[b]: ("cpu", "disk")[i % 2] for i, b in enumerate(blocks)} | others | {_head(lm): "cpu"}


def _head(lm):
    return next(n for n, m in lm.model.named_modules() if m is lm.model.get_output_embeddings())


@pytest.fixture(autouse=True)
def nothing_stays(request, hook_count):
    """Whatever a test does, weights that waited on disk do so afterwards, and no hook is left."""
    if "offloaded" not in request.fixturenames:
        yield
        return
    model = request.getfixturevalue("offloaded").model
    before = [(name, weight.device) for name, weight in model.named_parameters()]
    hooks = hook_count(model)
    assert any(device.type == "meta" for _, device in before)
    yield
    assert [(name, weight.device) for name, weight in model.named_parameters()] == before
    assert hook_count(model) == hooks


def test_its_fingerprint_and_device_are_the_models(plain, offloaded):
    assert offloaded.fingerprint == plain.fingerprint
    assert offloaded.device == torch.device("cpu")
    assert offloaded.devices == (torch.device("cpu"),)
    assert offloaded.anatomy.parallel == plain.anatomy.parallel


def test_each_weight_is_read_once(plain, offloaded):
    weights = dict(plain.model.named_parameters())
    read = [(name, torch.equal(weight, weights[name])) for name, weight in weights_of(offloaded.model)]
    assert sorted(read) == sorted((name, True) for name in weights)


def test_the_same_activations_at_every_site(plain, offloaded, batch):
    sites = [Site(layer, kind) for layer in range(3) for kind in plain.anatomy.kinds]
    theirs, mine = run_to(plain, batch, sites), run_to(offloaded, batch, sites)
    assert all(torch.equal(theirs[site], mine[site]) for site in sites)


def test_the_same_tokens_and_receipts_under_every_edit(plain, offloaded, rows, vector):
    per_row = [
        [Add(Site(1, "resid_post"), vector, 0.5), Add(Site(2, "attn_out"), vector, positions=everything)],
        [ProjectOut(Site(1, "mlp_out"), vector), Clamp(Site(0, "resid_post"), vector, 3.0)],
        [],
        [Patch(Site(1, "resid_pre"), vector.expand(5, -1)), Add(Site(0, "mlp_out"), -vector)],
    ]
    sampled = Sampling(temperature=1.0, top_p=0.9, seed=3)
    for edits, sampling in ((per_row, Sampling()), (per_row[0], sampled)):
        options = {"edits": edits, "max_new_tokens": 8, "sampling": sampling, "logprobs": True}
        theirs, mine = (generate_rows(model, rows, **options) for model in (plain, offloaded))
        assert [c.tokens for c in mine] == [c.tokens for c in theirs]
        assert [c.logprobs for c in mine] == [c.logprobs for c in theirs]
        for column in ("site", "row", "position", "ratio"):
            assert np.array_equal(getattr(mine.receipt, column), getattr(theirs.receipt, column))


def test_the_same_contrast_vectors(plain, offloaded):
    pairs = [Pair(f"{a} and {a}?", f"{2 * a}.", f"Add {a}, then {a}: it is {2 * a}.") for a in range(6)]
    options = {"kinds": KINDS, "reads": (response, last(1)), "n_null": 0}
    theirs, mine = (contrasts(model, pairs, **options) for model in (plain, offloaded))
    assert theirs.keys() == mine.keys()
    for recipe, vector in theirs.items():
        found = mine[recipe]
        assert all(torch.equal(found.vectors[i], vector.vectors[i]) for i in vector.layers)
        assert (found.resid_norm, found.fingerprint) == (vector.resid_norm, vector.fingerprint)


def test_it_passes_the_self_check(offloaded):
    self_check(offloaded).require()


# --- what does not depend on the family


@pytest.fixture(scope="module")
def on_disk(model_of, tokenizer_with, tmp_path_factory):
    """A tiny Llama that accelerate moved to disk after it was made."""
    model = model_of("llama")
    disk_offload(model, str(tmp_path_factory.mktemp("weights")))
    return adopt(model, tokenizer_with())


def test_a_model_that_was_moved_to_disk_in_memory_is_taken_as_it_is(llama, on_disk):
    prompts = ["the thing", "an ant is in the inn"]
    assert on_disk.model.device.type == "meta"
    assert on_disk.fingerprint == llama.fingerprint
    assert (
        generate(on_disk, prompts, max_new_tokens=9).texts == generate(llama, prompts, max_new_tokens=9).texts
    )


def test_resid_mid_is_read_and_written(llama, on_disk, batch, vector):
    def logits(lm):
        with inject(lm, [Add(Site(1, "resid_mid"), vector, positions=everything)]):
            return lm.model(**batch.inputs).logits

    with torch.no_grad():
        assert torch.equal(logits(on_disk), logits(llama))


def test_latents_are_edited(llama, on_disk, rows):
    dictionary = TopKSAE(32, 100, 8)
    for edit in (
        ScaleLatents(Site(1, "resid_post"), dictionary, {3: 0.0, 7: 4.0}),
        ClampLatents(Site(2, "resid_pre"), dictionary, {5: 9.0}),
    ):
        theirs, mine = (generate_rows(lm, rows, edits=[edit], max_new_tokens=8) for lm in (llama, on_disk))
        assert [c.tokens for c in mine] == [c.tokens for c in theirs]
        mine.receipt.check(generated)


def test_doses_are_capped_and_measured(llama, on_disk, rows):
    pairs = [Pair(f"{a} and {a}?", f"{2 * a}.", f"Add {a}, then {a}: it is {2 * a}.") for a in range(6)]
    (vector,) = contrasts(llama, pairs, reads=(response,), n_null=0).values()
    caps = [kl_cap(LastTokens(lm, rows), vector, 1) for lm in (llama, on_disk)]
    assert caps[0] == caps[1]
    edits = [vector.at(1, dose=0.5)]
    assert kl_throughout(llama, rows, edits) == kl_throughout(on_disk, rows, edits)


def test_auto_is_a_device_map_too(llama, tmp_path):
    llama.model.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    for spread in (load(tmp_path, device="auto"), load(tmp_path, device_map="auto")):
        assert spread.fingerprint == llama.fingerprint
    with pytest.raises(InputError, match=r"device=cpu and device_map=auto: pass one of them"):
        load(tmp_path, device="cpu", device_map="auto")


def test_a_replay_gives_the_same(plain, offloaded, batch, vector):
    edits = [Add(Site(i, kind), vector, positions=last(1)) for i in range(3) for kind in KINDS]
    variants = [Variant(place % 4, (edit,)) for place, edit in enumerate(edits)]
    expected, found = (
        Replay(lm, batch, since=5).run(variants, lambda logits, _: logits).values for lm in (plain, offloaded)
    )
    assert torch.equal(found, expected)
