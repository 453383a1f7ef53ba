"""A graft equals a host with the donor's tensors; a change planted in one block is found there alone."""

import copy
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import disk_offload
from scipy.special import rel_entr, softmax
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from hooks.edits import Add
from hooks.errors import InputError
from hooks.inject import inject
from hooks.load import adopt
from hooks.positions import everything
from hooks.rows import Row, pad_left
from hooks.sites import Site
from interp.grafting import Grafting, graft, weight_change
from interp.prompt_pairs import Outcomes, PromptPair, answer_logprob, logit_difference

SHAPES = ("layer", "prefix", "suffix")
BLOCKS = r"\.(?:layers|h)\.(\d+)\."
BLOCK_1 = r"\.(?:layers|h)\.1\."
ATTENTION, MLP = r"\.(?:attn|self_attn|attention)\.", r"\.mlp\."


@pytest.fixture(scope="module")
def tuned_of(model_of, tokenizer_with):
    """The tiny model of a family, with noise on every parameter whose name ``only`` is found in."""

    def make(family, only="", *, dtype=torch.float32):
        model = model_of(family)
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if re.search(only, name):
                    weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
        return adopt(model.to(dtype), tokenizer_with(), name=f"tuned-{family}")

    return make


def family_of(lm):
    return lm.name.removeprefix("tiny-")


def grafts_of(base, tuned, pairs):
    """Every shape, both ways."""
    return {
        (shape, into): graft(base, tuned, pairs, shape=shape, into=into)
        for shape in SHAPES
        for into in ("base", "tuned")
    }


@torch.no_grad()
def by_hand(host, donor, pair, layers):
    """Next-token logits of the host run alone, unpadded, with the donor's tensors of these layers."""
    named = {**dict(donor.model.named_buffers()), **donor.model.state_dict()}
    moved = {n: t for n, t in named.items() if (at := re.search(BLOCKS, n)) and int(at[1]) in layers}
    inputs = pad_left([pair.clean], [0], pad_id=host.pad_id, device=host.device).inputs
    return functional_call(host.model, moved, (), {**inputs, "use_cache": False}).logits[:, -1]


def kl_of(p, q):
    """In numpy, by scipy."""
    p, q = (softmax(z[0].double().numpy()) for z in (p, q))
    return rel_entr(p, q).sum()


# --- grafting


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("into", ["base", "tuned"])
def test_every_graft_equals_a_full_run_with_the_donors_tensors(lm, tuned_of, pairs, shape, into):
    """Embedding, final norm and unembedding differ too, and stay the host's."""
    tuned = tuned_of(family_of(lm))
    host, donor = (lm, tuned) if into == "base" else (tuned, lm)
    made = graft(lm, tuned, pairs, shape=shape, into=into)
    for i, pair in enumerate(pairs):
        target, plain = (by_hand(one, one, pair, ()) for one in (donor, host))
        m = {name: float(answer_logprob(z, [pair])) for name, z in (("donor", target), ("host", plain))}
        assert made.donor.logprob[i] == pytest.approx(m["donor"], abs=1e-3)
        assert made.host.logprob[i] == pytest.approx(m["host"], abs=1e-3)
        assert made.kl_host[i] == pytest.approx(kl_of(target, plain), abs=1e-3, rel=1e-3)
        for layer in range(3):
            moved = {"layer": [layer], "prefix": range(layer + 1), "suffix": range(layer, 3)}[shape]
            found = by_hand(host, donor, pair, moved)
            logprob, difference = (float(f(found, [pair])) for f in (answer_logprob, logit_difference))
            assert made.grafted.logprob[i, layer] == pytest.approx(logprob, abs=1e-3)
            assert made.grafted.logit_difference[i, layer] == pytest.approx(difference, abs=1e-3)
            assert made.kl[i, layer] == pytest.approx(kl_of(target, found), abs=1e-3, rel=1e-3)
            share = (logprob - m["host"]) / (m["donor"] - m["host"])
            assert made.carried[i, layer] == pytest.approx(share, abs=5e-3, rel=5e-3)


def test_all_blocks_are_the_donor_where_nothing_else_differs(lm, tuned_of, pairs):
    made = grafts_of(lm, tuned_of(family_of(lm), BLOCKS), pairs)
    for into in ("base", "tuned"):
        for shape, layer in (("prefix", -1), ("suffix", 0)):
            one = made[shape, into]
            assert (one.kl_host > 0.01).all()
            assert (one.kl[:, layer] == 0).all()
            assert one.carried_kl[layer] == pytest.approx(1, abs=1e-12)
            assert np.array_equal(one.grafted.logprob[:, layer], one.donor.logprob)


def test_a_prefix_of_one_into_the_other_is_the_suffix_that_is_left_the_other_way(lm, tuned_of, pairs):
    made = grafts_of(lm, tuned_of(family_of(lm), BLOCKS), pairs)
    for one, other in (("base", "tuned"), ("tuned", "base")):
        prefix, suffix = made["prefix", one].grafted, made["suffix", other].grafted
        assert np.array_equal(prefix.logprob[:, :-1], suffix.logprob[:, 1:])
        assert np.array_equal(prefix.logit_difference[:, :-1], suffix.logit_difference[:, 1:])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_block_that_was_changed_carries_all_and_the_others_nothing(tiny, tuned_of, pairs, family):
    base, tuned = tiny(family), tuned_of(family, BLOCK_1)
    made = grafts_of(base, tuned, pairs)
    for into in ("base", "tuned"):
        for shape, expected in (("layer", [0, 1, 0]), ("prefix", [0, 1, 1]), ("suffix", [1, 1, 0])):
            assert_carries(made[shape, into], expected)
    assert "tuned into base, by layer, 3 pairs; carried_kl is largest at layer 1, 1.00" in repr(
        made["layer", "base"]
    )
    assert "base into tuned" in repr(made["layer", "tuned"])


def assert_carries(made, expected):
    """Nothing to the bit, or all but for rounding, at each layer."""
    expected = np.array(expected)
    none, everything_ = expected == 0, expected == 1
    assert made.usable.any()
    assert made.undefined is None
    assert (made.carried_kl[none] == 0).all()
    np.testing.assert_allclose(made.carried_kl[everything_], 1, atol=1e-12)
    assert (made.carried[made.usable][:, none] == 0).all()
    assert (made.carried[made.usable][:, everything_] == 1).all()
    for interval, share in zip(made.intervals(n_resamples=100), expected, strict=True):
        np.testing.assert_allclose([interval.estimate, interval.low, interval.high], share, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_grafted_into_itself_changes_no_bit(lm, pairs, shape):
    made = graft(lm, lm, pairs, shape=shape)
    assert (made.kl == 0).all()
    for measure in ("logprob", "logit_difference"):
        grafted, host, donor = (getattr(run, measure) for run in (made.grafted, made.host, made.donor))
        assert (grafted == host[:, None]).all()
        assert np.array_equal(host, donor)


def test_two_models_that_say_the_same_have_nothing_to_carry(llama, pairs):
    made = graft(llama, llama, pairs)
    assert "say the same on all 3 prompts (mean KL 0 nats)" in made.undefined
    assert "there is nothing to carry" in repr(made)
    assert not made.usable.any()
    assert np.isnan(made.carried).all()
    assert np.isnan(made.carried_kl).all()
    assert np.isnan([(x.estimate, x.low, x.high) for x in made.intervals()]).all()


def test_a_block_goes_with_the_rotary_angles_of_its_own_model(llama, model_of, tokenizer_with, pairs):
    """No weight differs, and all of the difference is carried by blocks."""
    model = model_of("llama")
    model.model.rotary_emb.inv_freq.mul_(0.5)
    slower = adopt(model, tokenizer_with())
    assert not weight_change(llama, slower).blocks.any()
    made = graft(llama, slower, pairs, shape="prefix")
    assert (made.kl_host > 1e-3).all()
    assert (made.kl[:, -1] == 0).all()


def test_blocks_of_another_dtype_compute_in_their_own(llama, tuned_of, pairs):
    """The other blocks carry what their rounding to eight bits does: less than a sixth of the change."""
    tuned = tuned_of("llama", BLOCK_1, dtype=torch.bfloat16)
    for into in ("base", "tuned"):
        made = graft(llama, tuned, pairs, into=into)
        np.testing.assert_allclose(made.carried_kl, [0, 1, 0], atol=0.15)


def test_it_does_not_depend_on_what_else_runs(llama, tuned_of, pairs):
    tuned = tuned_of("llama")
    done = []
    together = graft(llama, tuned, pairs, on_pairs=done.append)
    assert sum(done) == len(pairs)
    for i, pair in enumerate(pairs):
        alone = graft(llama, tuned, [pair])
        np.testing.assert_allclose(alone.grafted.logprob[0], together.grafted.logprob[i], atol=1e-4)
        np.testing.assert_allclose(alone.kl[0], together.kl[i], atol=1e-4)


def test_neither_model_is_altered(lm, tuned_of, pairs, batch, hook_count):
    tuned = tuned_of(family_of(lm))
    models = (lm.model, tuned.model)

    @torch.no_grad()
    def state():
        tensors = [{n: t.clone() for n, t in model.state_dict().items()} for model in models]
        ids = [[id(t) for t in model.parameters()] for model in models]
        logits = [model(**batch.inputs, use_cache=False).logits for model in models]
        own = [[vars(m).get("forward") for m in model.modules()] for model in models]
        return tensors, logits, (ids, own, [hook_count(model) for model in models])

    tensors, logits, others = state()
    grafts_of(lm, tuned, pairs)
    weight_change(lm, tuned)
    found = state()
    assert found[2] == others
    for before, after in zip(tensors, found[0], strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before | after)
    assert all(map(torch.equal, logits, found[1]))


def test_weights_that_wait_on_disk_are_grafted_and_measured(llama, tuned_of, pairs, tmp_path):
    plain, offloaded = tuned_of("llama"), tuned_of("llama")
    disk_offload(offloaded.model, str(tmp_path))
    offloaded = adopt(offloaded.model, offloaded.tokenizer)
    assert offloaded.model.device.type == "meta"
    for into in ("base", "tuned"):
        theirs, mine = (graft(llama, one, pairs, into=into) for one in (plain, offloaded))
        assert np.array_equal(theirs.kl, mine.kl)
    theirs, mine = (weight_change(llama, one) for one in (plain, offloaded))
    assert np.array_equal(theirs.blocks, mine.blocks)
    assert theirs.outside == mine.outside
    assert offloaded.model.device.type == "meta"


def test_the_interval_is_a_paired_bootstrap_over_prompts():
    """Against a loop, on KLs that vary much together: resampled apart, it would be several times as wide."""
    rng = np.random.default_rng(0)
    kl_host = rng.lognormal(size=60)
    kl = kl_host[:, None] * [0.1, 0.7, 1.3] + 0.05 * rng.random((60, 3))
    none = Outcomes(np.zeros(60), np.zeros(60))
    made = Grafting("layer", "base", Outcomes(0 * kl, 0 * kl), none, none, kl, kl_host)
    drawn = []
    for _ in range(4000):
        i = rng.integers(60, size=60)
        drawn.append(1 - kl[i].mean(0) / kl_host[i].mean())
    expected = np.quantile(drawn, [0.05, 0.95], axis=0)
    found = made.intervals(level=0.9, n_resamples=4000)
    assert [x.n for x in found] == [60] * 3
    np.testing.assert_allclose([x.estimate for x in found], made.carried_kl)
    np.testing.assert_allclose([x.estimate for x in found], 1 - kl.mean(0) / kl_host.mean())
    np.testing.assert_allclose(np.array([(x.low, x.high) for x in found]).T, expected, atol=2e-3)
    assert made.carried_kl[2] < 0


# --- weights


@torch.no_grad()
def test_each_part_moves_by_its_share_of_the_norm(lm, tuned_of):
    """Against float64 sums over parameters, told apart by their names."""
    tuned = tuned_of(family_of(lm))
    made = weight_change(lm, tuned)
    before, after = (dict(model.named_parameters()) for model in (lm.model, tuned.model))

    def moved(*patterns):
        names = [n for n in before if all(re.search(p, n) for p in patterns)]
        change = sum(float((after[n].double() - before[n].double()).square().sum()) for n in names)
        return math.sqrt(change / sum(float(before[n].double().square().sum()) for n in names))

    for layer in range(3):
        here = rf"\.(?:layers|h)\.{layer}\."
        assert made.blocks[layer] == pytest.approx(moved(here), rel=1e-6)
        assert made.attention[layer] == pytest.approx(moved(here, ATTENTION), rel=1e-6)
        assert made.mlp[layer] == pytest.approx(moved(here, MLP), rel=1e-6)
    outside = [name for name in before if not re.search(BLOCKS, name)]
    assert list(made.outside) == outside
    assert made.outside == {name: pytest.approx(moved(f"^{name}$"), rel=1e-6) for name in outside}


@pytest.mark.parametrize(("part", "pattern"), [("attention", ATTENTION), ("mlp", MLP)])
def test_a_planted_change_shows_where_it_was_made_and_nowhere_else(lm, tuned_of, part, pattern):
    tuned = tuned_of(family_of(lm), BLOCK_1.removesuffix(r"\.") + pattern)
    made = weight_change(lm, tuned)
    for name in ("blocks", part):
        assert (getattr(made, name) > 0).tolist() == [False, True, False]
    assert not getattr(made, {"attention": "mlp", "mlp": "attention"}[part]).any()
    assert not any(made.outside.values())


def test_a_weight_that_was_all_zero_moves_infinitely_far_or_not_at_all(model_of, tokenizer_with):
    models = [model_of("gpt2") for _ in range(2)]
    with torch.no_grad():
        for model in models:
            model.transformer.ln_f.bias.zero_()
            model.transformer.ln_f.weight.zero_()
        models[1].transformer.ln_f.bias.add_(1)
    base, tuned = (adopt(model, tokenizer_with(), check=False) for model in models)
    outside = weight_change(base, tuned).outside
    assert outside["transformer.ln_f.bias"] == math.inf
    assert outside["transformer.ln_f.weight"] == 0


# --- refusals


def test_models_that_cannot_be_compared_are_refused(llama, tiny, model_of, reading, tokenizer_with, pairs):
    shorter = model_of("llama")
    shorter.model.layers = shorter.model.layers[:2]
    shorter.config.num_hidden_layers = 2
    wider = model_of("llama")
    wider.resize_token_embeddings(120)
    refused = [
        (
            adopt(shorter, tokenizer_with(), name="short"),
            r"\(tiny-llama\) has 3 layers and tuned \(short\) 2",
        ),
        (adopt(wider, tokenizer_with(), name="wide"), r"embed_tokens.weight is .* in tuned \(wide\)"),
        (tiny("qwen2"), r"q_proj.bias is missing in base \(tiny-llama\) and \(32,\) in tuned \(tiny-qwen2\)"),
        (reading(llama, "!", 60), r"The tokenizers differ: '!' is 6 in base .* and 60 in tuned"),
    ]
    for other, message in refused:
        with pytest.raises(InputError, match=message):
            graft(llama, other, pairs)
        with pytest.raises(InputError, match=message):
            weight_change(llama, other)
    with pytest.raises(InputError, match=r"embed_tokens.weight is \(111, 32\) .* and missing in tuned"):
        weight_change(llama, tiny("gpt2"))
    other = replace(reading(llama, "!", 60), tokenizer=llama.tokenizer)
    assert not weight_change(llama, other).blocks.any()


def test_no_pairs_are_refused(llama):
    with pytest.raises(InputError, match="at least one pair"):
        graft(llama, llama, [])


def test_a_graft_under_an_open_edit_is_refused(llama, pairs, vector):
    with inject(llama, [Add(Site(0, "resid_pre"), vector, positions=everything)]) as injection:
        with pytest.raises(InputError, match="inside an open `inject`"):
            graft(llama, llama, pairs)
        injection.tracker.begin(torch.tensor([0]), torch.tensor([1]))
        llama.model(torch.tensor([[9]]))


def test_quantised_weights_have_no_distance(llama, model_of, tokenizer_with):
    tuned = adopt(model_of("llama"), tokenizer_with())
    codes = tuned.model.lm_head.weight.detach().to(torch.int8)
    tuned.model.lm_head.weight = torch.nn.Parameter(codes, requires_grad=False)
    with pytest.raises(InputError, match=r"lm_head.weight holds quantised weights \(torch.int8\)"):
        weight_change(llama, tuned)


# --- the bundled model

COUNTRIES = {"France": " Paris", "Italy": " Rome", "Japan": " Tokyo", "Spain": " Madrid"}
TRAINED = 20


def trained_in_one_block(base, pairs):
    """A copy in which a rank-4 change of one MLP's output projection was trained to give other answers."""
    model = copy.deepcopy(base.model).requires_grad_(False)
    weight = model.model.layers[TRAINED].mlp.down_proj.weight
    name = f"model.layers.{TRAINED}.mlp.down_proj.weight"
    generator = torch.Generator().manual_seed(0)
    A = (torch.randn(4, weight.shape[1], generator=generator) / weight.shape[1] ** 0.5).requires_grad_()
    B = torch.zeros(weight.shape[0], 4, requires_grad=True)
    batch = pad_left([p.clean for p in pairs], range(len(pairs)), pad_id=base.pad_id, device=base.device)
    target = torch.tensor([p.answer for p in pairs])
    optimizer = torch.optim.Adam([A, B], lr=0.02)
    for _ in range(15):
        inputs = {**batch.inputs, "use_cache": False, "logits_to_keep": 1}
        loss = cross_entropy(functional_call(model, {name: weight + B @ A}, (), inputs).logits[:, -1], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        weight.add_(B @ A)
    return adopt(model, base.tokenizer, name="trained")


def test_training_of_one_block_is_found_in_its_weights_and_carried_by_it_alone(smollm2):
    ids = {word: smollm2.tokenizer(word)["input_ids"] for word in COUNTRIES.values()}
    rows = [Row(tuple(smollm2.tokenizer(f"The capital of {c} is")["input_ids"]), 5) for c in COUNTRIES]
    true = [ids[word][0] for word in COUNTRIES.values()]
    made_up = true[1:] + true[:1]
    pairs = [PromptPair(row, rows[i - 1], made_up[i], true[i], subject=(3, 4)) for i, row in enumerate(rows)]
    tuned = trained_in_one_block(smollm2, pairs)
    change = weight_change(smollm2, tuned)
    here = np.arange(smollm2.n_layers) == TRAINED
    assert ((change.blocks > 0) == here).all()
    assert ((change.mlp > 0) == here).all()
    assert not change.attention.any()
    assert not any(change.outside.values())
    layers = np.arange(smollm2.n_layers)
    for shape, into, expected in (
        ("layer", "base", here),
        ("layer", "tuned", here),
        ("prefix", "base", layers >= TRAINED),
        ("suffix", "base", layers <= TRAINED),
    ):
        made = graft(smollm2, tuned, pairs, shape=shape, into=into)
        before, after = (made.host, made.donor) if into == "base" else (made.donor, made.host)
        assert (before.logprob < math.log(0.2)).all(), "the base does not give the other answers"
        assert (after.logprob > math.log(0.5)).all(), "training made the tuned model give them"
        assert_carries(made, expected.astype(int))
