"""A planted direction is found, a slow loop agrees, and length is told apart from the concept."""

import importlib
import itertools
import random
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch

from hooks import adopt
from hooks.capture import stream
from hooks.chat import prompt_row, response_row
from hooks.errors import EmptySelectionError, InputError, SiteNotFoundError, VectorError
from hooks.positions import after, everything, last, response
from interp import Pair, contrast, contrasts
from interp.contrast import Recipe
from interp.estimators import ESTIMATORS
from interp.pairs import pairs_hash

module = importlib.import_module("interp.contrast")  # the package's attribute is the function
D = 32
FIRST, SECOND = "ABCDEFGHIJKLM", "NOPQRSTUVWXYZ"  # two halves of a vocabulary that no merge joins


def cos(a, b):
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def unit(seed=0):
    u = torch.randn(D, generator=torch.Generator().manual_seed(seed))
    return u / u.norm()


def make_pairs(n, *, first=(4, 9), second=(4, 9), end="", seed=0):
    """Responses in the letters of one half each, of lengths drawn from a range."""
    rng = random.Random(seed)

    def text(letters, low, high):
        return "".join(rng.choices(letters, k=rng.randint(low, high))) + end

    return [
        Pair(
            "".join(rng.choices("0123456789", k=rng.randint(2, 6))),
            text(FIRST, *first),
            text(SECOND, *second),
        )
        for _ in range(n)
    ]


def swapped(pair):
    return Pair(pair.prompt, pair.negative, pair.positive)


PAIRS = make_pairs(10, end=".?")


@pytest.fixture(scope="module")
def planted(model_of, tokenizer_with):
    """A Llama in which the letters of one half carry +2u and the others -2u; its blocks write little."""
    model, tokenizer = model_of("llama"), tokenizer_with()
    lm = adopt(model, tokenizer, name="planted")
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight *= 0.002
            block.mlp.down_proj.weight *= 0.002
        embedding = model.model.embed_tokens.weight
        for letters, sign in ((FIRST, 2.0), (SECOND, -2.0)):
            ids = tokenizer.convert_tokens_to_ids(list(letters))
            noise = embedding[ids] - embedding[ids].mean(0)
            embedding[ids] = noise - (noise @ unit())[:, None] * unit() + sign * unit()
    return lm


@pytest.fixture(scope="module")
def drifting(model_of, tokenizer_with):
    """Makes GPT-2s whose stream is ``drift * position + concept * (+-u) + noise``, and nothing else."""

    def make(*, drift, concept, noise=0.0, along=1):
        model, tokenizer = model_of("gpt2"), tokenizer_with()
        lm = adopt(model, tokenizer, name="drifting")
        with torch.no_grad():
            for block in model.transformer.h:
                for layer in (block.attn.c_proj, block.mlp.c_proj):
                    layer.weight.zero_()
                    layer.bias.zero_()
            places = torch.arange(len(model.transformer.wpe.weight))
            model.transformer.wpe.weight.copy_(drift * places[:, None] * unit(along))
            words = model.transformer.wte.weight
            words.copy_(noise * torch.randn(words.shape, generator=torch.Generator().manual_seed(9)))
            for letters, sign in ((FIRST, 1.0), (SECOND, -1.0)):
                words[tokenizer.convert_tokens_to_ids(list(letters))] += sign * concept * unit()
        return lm

    return make


# --- planted truth


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_planted_direction_is_recovered_by_every_estimator_at_every_layer(planted, estimator):
    pairs, n_null = make_pairs(16), 10 if estimator in ("mean_difference", "pca") else 3
    found = contrast(planted, pairs, estimator=estimator, n_null=n_null)
    mixed = [swapped(pair) if i % 2 else pair for i, pair in enumerate(pairs)]
    nothing = contrast(planted, mixed, estimator=estimator, layers=[1], n_null=n_null)
    assert found.layers == [0, 1, 2]
    for layer in found.layers:
        recovered = cos(found.direction(layer), unit())
        assert recovered > 0.95, f"{estimator}, layer {layer}: cosine {recovered:.3f} (sign turned?)"
        assert found.reliability[layer].trusted
        assert found.reliability[layer].auroc == 1.0
    assert not nothing.reliability[1].trusted, f"{estimator}: a vector of half the labels swapped is trusted"


@pytest.mark.parametrize("estimator", ["mean_difference", "logistic", "lda"])
def test_a_vector_of_shuffled_labels_does_not_find_it(planted, estimator):
    """The control to steer with: made in the same pass, and of nothing."""
    made = contrasts(
        planted, make_pairs(16), estimators=(estimator,), reads=(response,), n_null=0, with_shuffled=True
    )
    found, nothing = (made[Recipe("resid_post", estimator, response, shuffled)] for shuffled in (False, True))
    assert nothing.estimator == f"{estimator} of shuffled labels"
    for layer in found.layers:
        assert abs(cos(nothing.vectors[layer], unit())) < 0.8
        assert nothing.vectors[layer].norm() < 0.2 * found.vectors[layer].norm()


def test_the_vector_has_the_length_that_was_planted(planted):
    """Plus and minus 2u lie 4 apart, so adding the vector takes one pole's mean to the other's."""
    vector = contrast(planted, make_pairs(24), kind="resid_pre", layers=[0], n_null=0).vectors[0]
    assert float(vector @ unit()) == pytest.approx(4.0, rel=0.1)


def test_swapping_the_poles_turns_the_vector_around(planted):
    backwards = [swapped(pair) for pair in PAIRS]
    for estimator in ESTIMATORS:
        there = contrast(planted, PAIRS, estimator=estimator, layers=[0, 2], n_null=1)
        back = contrast(planted, backwards, estimator=estimator, layers=[0, 2], n_null=1)
        for layer in there.layers:
            torch.testing.assert_close(back.vectors[layer], -there.vectors[layer], rtol=1e-2, atol=1e-3)
            assert back.reliability[layer].auroc == pytest.approx(there.reliability[layer].auroc)


# --- independent code: one text at a time, in the test's own words

PARTS = {  # the modules whose outputs are added to the stream, by name
    "llama": ("model.layers.{}.self_attn", "model.layers.{}.mlp"),
    "gemma2": ("model.layers.{}.post_attention_layernorm", "model.layers.{}.post_feedforward_layernorm"),
    "gpt2": ("transformer.h.{}.attn", "transformer.h.{}.mlp"),
}


def one(lm, family, pair, text):
    """``{kind: [layer, pos, d]}`` of one text run alone, its ids and where its response starts."""
    start = prompt_row(lm.tokenizer, pair.prompt).tokens
    ids = [*start, *lm.tokenizer(text, add_special_tokens=False).input_ids]
    outs, handles = {}, []
    for place, names in zip(("attn_out", "mlp_out"), PARTS[family], strict=True):
        for layer in range(3):

            def keep(_module, _args, out, at=(place, layer)):
                outs[at] = (out[0] if isinstance(out, tuple) else out)[0]

            handles.append(lm.model.get_submodule(names.format(layer)).register_forward_hook(keep))
    with torch.no_grad():
        hidden = lm.model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    for handle in handles:
        handle.remove()
    pre = torch.stack([h[0] for h in hidden[:3]])  # hidden_states[3] is after the final norm
    attn, mlp = (torch.stack([outs[place, layer] for layer in range(3)]) for place in ("attn_out", "mlp_out"))
    acts = {
        "resid_pre": pre,
        "attn_out": attn,
        "resid_mid": pre + attn,
        "mlp_out": mlp,
        "resid_post": pre + attn + mlp,
    }
    return acts, ids, len(start)


def slow(lm, family, pairs, select):
    """The mean over pairs of the difference of the means over ``select(ids, start)``."""
    total = 0.0
    for pair in pairs:
        for text, sign in ((pair.positive, 1), (pair.negative, -1)):
            acts, ids, start = one(lm, family, pair, text)
            places = select(ids, start)
            total = total + sign * torch.stack([a[:, places].double().mean(1) for a in acts.values()]) / len(
                pairs
            )
    return dict(zip(acts, total, strict=True))


def from_dot(lm):
    """Selects what follows the first full stop, itself included."""
    dot = lm.tokenizer.convert_tokens_to_ids(".")
    return lambda ids, _start: list(range(ids.index(dot), len(ids)))


@pytest.mark.parametrize("family", PARTS)
def test_every_kind_and_read_equals_a_loop_over_single_texts(tiny, family):
    lm = tiny(family)
    reads = {
        response: lambda ids, start: list(range(start, len(ids))),
        last(1): lambda ids, _start: [len(ids) - 1],
        last(3): lambda ids, _start: list(range(len(ids) - 3, len(ids))),
        everything: lambda ids, _start: list(range(len(ids))),
        after("."): from_dot(lm),
    }
    kinds = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    made = contrasts(lm, PAIRS, kinds=kinds, reads=tuple(reads), n_null=0)
    assert len(made) == len(kinds) * len(reads)
    for read, select in reads.items():
        expected = slow(lm, family, PAIRS, select)
        for kind in kinds:
            vector = made[Recipe(kind, "mean_difference", read)]
            for layer in range(3):
                found, truth = vector.vectors[layer].double(), expected[kind][layer]
                assert float((found - truth).norm()) <= 1e-5 * max(1.0, float(truth.norm())), (
                    f"{kind} {layer} {read}"
                )


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_dose_unit_is_the_median_norm_of_the_stream_over_response_tokens(tiny, family):
    """Of the stream that the site writes to; whatever is read."""
    lm = tiny(family)
    texts = [(pair, text) for pair in PAIRS for text in (pair.positive, pair.negative)]
    norms = {kind: [[], [], []] for kind in ("resid_pre", "resid_mid", "resid_post")}
    for pair, text in texts:
        acts, _, start = one(lm, family, pair, text)
        for kind, by_layer in norms.items():
            for layer in range(3):
                by_layer[layer] += acts[kind][layer, start:].norm(dim=-1).tolist()
    at = {
        "resid_pre": "resid_pre",
        "attn_out": "resid_mid",
        "resid_mid": "resid_mid",
        "mlp_out": "resid_post",
        "resid_post": "resid_post",
    }
    made = contrasts(lm, PAIRS, kinds=tuple(at), reads=(last(1), everything), n_null=0)
    for recipe, vector in made.items():
        for layer in range(3):
            expected = float(np.median(norms[at[recipe.kind]][layer]))
            assert vector.resid_norm[layer] == pytest.approx(expected, rel=1e-5), f"{recipe} {layer}"


def test_the_length_controls_equal_a_loop_over_single_texts(tiny):
    """Matched: the first m tokens of both. Position taken out: a slope fitted within each response."""
    lm = tiny("llama")
    sums, places, acts_of = [], [], []
    for pair in PAIRS:
        both = [one(lm, "llama", pair, text) for text in (pair.positive, pair.negative)]
        m = min(len(ids) - start for _, ids, start in both)
        sums.append([acts["resid_post"][:, start : start + m].double().mean(1) for acts, _, start in both])
        places.append([np.arange(start, len(ids)) for _, ids, start in both])
        acts_of.append([acts["resid_post"][:, start:].double() for acts, _, start in both])
    matched = torch.stack([p - m for p, m in sums]).mean(0)
    later = np.mean([p.mean() - m.mean() for p, m in places])
    x = np.concatenate([at - at.mean() for both in places for at in both])
    made = contrast(lm, PAIRS, n_null=0)
    for layer in range(3):
        y = torch.cat([a[layer] - a[layer].mean(0) for both in acts_of for a in both]).numpy()
        slope = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
        v = made.vectors[layer]
        assert made.length_control[layer]["cos_matched"] == pytest.approx(cos(v, matched[layer]), abs=1e-5)
        without = v.double() - torch.from_numpy(slope * later)
        assert made.length_control[layer]["cos_position_out"] == pytest.approx(cos(v, without), abs=1e-5)


# --- invariance


def assert_same(left, right, *, atol=1e-5):
    for layer in left.layers:
        torch.testing.assert_close(left.vectors[layer], right.vectors[layer], rtol=1e-4, atol=atol)
        assert left.resid_norm[layer] == pytest.approx(right.resid_norm[layer], rel=1e-5)
        assert left.length_control[layer] == pytest.approx(right.length_control[layer], abs=1e-4)
        ours, theirs = (v.reliability[layer].as_dict() for v in (left, right))
        assert ours == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize("max_rows", [1, 3])
def test_the_batch_does_not_matter(lm, monkeypatch, max_rows):
    """Nor does its padding, which a batch of one row has none of."""
    together = contrast(lm, PAIRS, n_null=3)
    monkeypatch.setattr(module, "stream", partial(stream, max_rows=max_rows))
    assert_same(together, contrast(lm, PAIRS, n_null=3))


@pytest.mark.parametrize(("piece", "same"), [(5, False), (1000, True)])
@pytest.mark.parametrize("family", ["llama", "gemma3", "phi"])
def test_rows_that_run_in_pieces_do_not_matter(tiny, monkeypatch, family, piece, same):
    """And those that fit give the same bits."""
    lm = tiny(family)
    reads = (response, last(1), after("."))
    whole = contrasts(lm, PAIRS, reads=reads, n_null=3)
    monkeypatch.setattr(module, "stream", partial(stream, piece=piece))
    for recipe, cut in contrasts(lm, PAIRS, reads=reads, n_null=3).items():
        assert_same(whole[recipe], cut, atol=1e-4)
        bits = [torch.equal(cut.vectors[layer], whole[recipe].vectors[layer]) for layer in cut.layers]
        assert all(bits) == same, "nothing was cut" if all(bits) else "a row that fits was changed"


def test_a_recipe_does_not_depend_on_what_else_is_made_in_the_same_pass(llama):
    every = contrasts(
        llama, PAIRS, kinds=("resid_post", "mlp_out"), estimators=("mean_difference", "pca"),
        reads=(response, last(1), after(".")), layers=[1], n_null=2,
    )  # fmt: skip
    assert len(every) == 12
    for recipe, vector in every.items():
        alone = contrast(
            llama, PAIRS, kind=recipe.kind, estimator=recipe.estimator, read=recipe.read, layers=[1], n_null=2
        )
        assert_same(alone, vector)
        assert (vector.kind, vector.estimator, vector.read) == (
            recipe.kind,
            recipe.estimator,
            str(recipe.read),
        )
    assert str(Recipe("mlp_out", "pca", after("."))) == "mlp_out.pca.after('.')"


def test_layers_can_be_chosen_and_count_from_either_end(llama):
    every, some = contrast(llama, PAIRS, n_null=0), contrast(llama, PAIRS, layers=[-1, 0], n_null=0)
    assert some.layers == [0, 2]
    for layer in some.layers:
        torch.testing.assert_close(some.vectors[layer], every.vectors[layer])


def test_a_prompt_may_be_its_chat_turns(llama):
    turns = [Pair([{"role": "user", "content": p.prompt}], p.positive, p.negative) for p in PAIRS]
    assert_same(contrast(llama, PAIRS, n_null=3), contrast(llama, turns, n_null=3))


def test_the_mean_is_over_all_pairs_while_few_are_held(planted, monkeypatch):
    every = contrast(planted, PAIRS, n_null=2)
    monkeypatch.setattr(module, "KEPT", 6)
    made = contrasts(planted, PAIRS, estimators=("mean_difference", "pca"), reads=(response,), n_null=2)
    few = made[Recipe("resid_post", "mean_difference", response)]
    for layer in every.layers:
        assert torch.equal(few.vectors[layer], every.vectors[layer])
        assert every.reliability[layer].n_pairs == 10
        assert few.reliability[layer].n_pairs == 6
        assert few.resid_norm[layer] == pytest.approx(every.resid_norm[layer], rel=0.2)
    assert few.n_pairs == 10
    pca = made[Recipe("resid_post", "pca", response)]
    assert min(cos(pca.vectors[layer], unit()) for layer in pca.layers) > 0.95


def test_memory_does_not_grow_with_the_pairs(planted, monkeypatch):
    held = []
    original = module.reliability

    def spy(estimator, positive, negative, **options):
        held.append((positive.shape, negative.shape))
        return original(estimator, positive, negative, **options)

    monkeypatch.setattr(module, "KEPT", 5)
    monkeypatch.setattr(module, "reliability", spy)
    contrast(planted, make_pairs(30), n_null=1)
    assert set(held) == {((5, D), (5, D))}


def test_progress_counts_every_token_once(llama):
    seen = []
    contrast(llama, PAIRS, n_null=0, on_tokens=seen.append)
    rows = [response_row(llama.tokenizer, p.prompt, t) for p in PAIRS for t in (p.positive, p.negative)]
    assert sum(seen) == sum(len(row.tokens) for row in rows)


# --- length


LONG = {"first": (14, 20), "second": (4, 8)}


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_vector_of_nothing_but_length_is_exposed(drifting, noise):
    """The stream drifts with position, and the poles differ in nothing else."""
    lm = drifting(drift=0.5, concept=0.0, noise=noise)
    made = contrast(lm, make_pairs(20, **LONG), n_null=5)
    for layer in made.layers:
        assert cos(made.vectors[layer], unit(1)) > 0.99, "the drift itself"
        assert made.reliability[layer].trusted, "reliable, and still about length alone"
        assert abs(made.length_control[layer]["cos_matched"]) < 0.5
        assert abs(made.length_control[layer]["cos_position_out"]) < 0.5
        if not noise:
            assert set(made.length_control[layer].values()) == {0.0}, "what rounding leaves has no direction"


def test_a_concept_without_drift_stands_though_its_poles_differ_in_length(drifting):
    made = contrast(drifting(drift=0.0, concept=1.0, noise=0.1), make_pairs(20, **LONG), n_null=5)
    for layer in made.layers:
        assert min(made.length_control[layer].values()) > 0.95


def test_where_both_are_at_work_the_cosines_are_the_concepts_share(drifting):
    lm = drifting(drift=0.05, concept=0.4)
    pairs = make_pairs(20, **LONG)
    made = contrast(lm, pairs, n_null=0)
    apart = np.mean([len(p.positive) - len(p.negative) for p in pairs]) / 2
    v = 2 * 0.4 * unit() + apart * 0.05 * unit(1)
    for layer in made.layers:
        torch.testing.assert_close(made.vectors[layer], v, atol=1e-4, rtol=1e-4)
        for name, value in made.length_control[layer].items():
            assert value == pytest.approx(cos(v, unit()), abs=1e-3), f"{name}: drift was not taken out"


# --- what is written beside the vector


def test_the_vector_says_what_it_was_made_of(llama):
    made = contrast(llama, PAIRS, poles=("early", "late"), kind="mlp_out", read=last(1), n_null=3, seed=7)
    assert made.poles == ("early", "late")
    assert (made.kind, made.read, made.estimator, made.seed, made.n_pairs) == (
        "mlp_out",
        "last(1)",
        "mean_difference",
        7,
        10,
    )
    assert made.pairs_hash == pairs_hash(PAIRS)
    made.require(llama)
    assert set(made.reliability) == set(made.length_control) == {0, 1, 2}
    assert made.versions["torch"] == torch.__version__
    assert all(v.dtype == torch.float32 for v in made.vectors.values())


def test_the_hash_changes_with_any_text_and_with_the_order():
    others = [
        PAIRS[1:],
        PAIRS[::-1],
        [Pair(PAIRS[0].prompt + " ", PAIRS[0].positive, PAIRS[0].negative), *PAIRS[1:]],
        [Pair(PAIRS[0].prompt, PAIRS[0].negative, PAIRS[0].positive), *PAIRS[1:]],
        [
            Pair([{"role": "user", "content": PAIRS[0].prompt}], PAIRS[0].positive, PAIRS[0].negative),
            *PAIRS[1:],
        ],
    ]
    assert len({pairs_hash(p) for p in [PAIRS, *others]}) == 6
    assert pairs_hash(list(PAIRS)) == pairs_hash(PAIRS)


def test_shuffling_swaps_half_of_the_pairs_by_the_seed(llama):
    """Of four pairs, which two are swapped is one of six ways; the vector is that one's."""
    differences = [
        slow(llama, "llama", [pair], lambda ids, start: range(start, len(ids))) for pair in PAIRS[:4]
    ]
    ways = [set(two) for two in itertools.combinations(range(4), 2)]
    seen = []
    for seed in range(4):
        made = contrasts(llama, PAIRS[:4], reads=(response,), n_null=0, with_shuffled=True, seed=seed)
        vector = made[Recipe("resid_post", "mean_difference", response, True)].vectors[1].double()
        sums = [
            sum(d["resid_post"][1] * (-1 if i in way else 1) for i, d in enumerate(differences)) / 4
            for way in ways
        ]
        seen += [ways[i] for i, v in enumerate(sums) if torch.allclose(v, vector, atol=1e-5)]
    assert len(seen) == 4, "not the vector of exactly half of the labels swapped"
    assert len({tuple(way) for way in seen}) > 1


# --- refusals


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_where_all_responses_end_alike_there_is_no_vector(llama, estimator):
    """Before the first block, the last token's activation is its embedding: the same for every one."""
    made = contrast(llama, PAIRS, kind="resid_pre", layers=[0], read=last(1), estimator=estimator, n_null=1)
    assert not made.reliability[0].trusted
    with pytest.raises(VectorError, match="The vector at layer 0 is zero; it cannot steer"):
        made.at(0, dose=0.1)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_rounding_leaves_is_no_vector(llama, estimator):
    """The same tokens in another order have the same mean there, up to the last bit."""
    pairs = [Pair(p.prompt, p.positive, p.positive[::-1]) for p in make_pairs(12, first=(7, 12))]
    made = contrast(llama, pairs, kind="resid_pre", layers=[0], estimator=estimator, n_null=0)
    with pytest.raises(VectorError, match="The vector at layer 0 is zero; it cannot steer"):
        made.at(0, dose=0.1)


def test_too_few_pairs_and_pairs_without_a_contrast_are_refused(llama):
    with pytest.raises(InputError, match="3 pairs are too few to estimate a vector"):
        contrast(llama, PAIRS[:3])
    with pytest.raises(InputError, match=r"Pair 1 has two equal texts \('AA'\): it shows no contrast"):
        contrast(llama, [PAIRS[0], Pair("1", "AA", "AA"), *PAIRS[2:]])
    with pytest.raises(InputError, match="An empty response to '1'"):
        contrast(llama, [*PAIRS, Pair("1", "AA", "")])


@pytest.mark.parametrize("nothing", ["kinds", "layers", "estimators", "reads"])
def test_a_request_for_nothing_is_refused(llama, nothing):
    with pytest.raises(InputError, match="at least one site kind, one layer, one estimator and one read"):
        contrasts(llama, PAIRS, **{nothing: ()})


def test_shuffled_labels_are_refused_for_pca_whose_direction_does_not_see_them(planted):
    found, mixed = make_pairs(12), [swapped(pair) if i % 2 else pair for i, pair in enumerate(make_pairs(12))]
    there, same = (
        contrast(planted, p, estimator="pca", layers=[1], n_null=0).vectors[1] for p in (found, mixed)
    )
    assert abs(cos(there, same)) > 0.999, "the reason: at the same dose, the same edit or its opposite"
    with pytest.raises(InputError, match="Shuffled labels are no control for pca"):
        contrasts(planted, PAIRS, estimators=("lda", "pca"), with_shuffled=True)


def test_a_site_that_is_not_there_is_refused_before_anything_runs(tiny):
    seen = []
    with pytest.raises(SiteNotFoundError, match="in parallel, so nothing lies between them"):
        contrast(tiny("phi"), PAIRS, kind="resid_mid", on_tokens=seen.append)
    with pytest.raises(SiteNotFoundError, match=r"this model has layers 0\.\.2"):
        contrast(tiny("llama"), PAIRS, layers=[0, 3], on_tokens=seen.append)
    assert not seen


def test_a_read_that_matches_nothing_names_the_response(llama):
    pairs = [
        Pair(p.prompt, p.positive, p.negative.replace("?", "!") if i == 4 else p.negative)
        for i, p in enumerate(PAIRS)
    ]
    with pytest.raises(
        EmptySelectionError, match=r"The read after\('\?'\) matches no token of the second response of pair 4"
    ):
        contrast(llama, pairs, read=after("?"))


# --- the bundled model

CAPITALS = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Spain": "Madrid"}
PLANTED = 17


@contextmanager
def biased(lm, bias, word):
    """``bias`` is added to what the MLP of one block writes wherever the model reads ``word``."""
    (token,) = lm.tokenizer(word, add_special_tokens=False).input_ids
    found = {}
    reads = lm.model.get_input_embeddings().register_forward_pre_hook(
        lambda _module, args: found.update(here=(args[0] == token)[..., None])
    )
    writes = lm.anatomy.blocks[PLANTED].mlp.down_proj.register_forward_hook(
        lambda _module, _args, out: out + found["here"] * bias
    )
    try:
        yield
    finally:
        reads.remove()
        writes.remove()


def test_a_bias_in_one_block_of_the_bundled_model_is_found_with_its_direction_and_layer(smollm2, hook_count):
    """Where all first responses have a word that no second one has. Below the block no bit moves; the last
    token, which is another, has it from the next attention. Of a word of both, the contrast takes it out."""
    pairs = [
        Pair(f"What is the capital of {country}?", f"It is {city}, of course.", f"It is {city}, I think.")
        for country, city in CAPITALS.items()
    ]
    kinds = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    make = partial(contrasts, smollm2, pairs, kinds=kinds, reads=(response, last(1)), n_null=0)
    plain, hooks = make(), hook_count(smollm2.model)
    bias = torch.randn(smollm2.d_model, generator=torch.Generator().manual_seed(3))
    recipe = Recipe("resid_post", "mean_difference", response)
    bias *= 0.3 * plain[recipe].resid_norm[PLANTED] / bias.norm()
    with biased(smollm2, bias, " course"):
        of_one = make()
    with biased(smollm2, bias, " is"):
        of_both = make()
    assert hook_count(smollm2.model) == hooks

    def moved(made, kind, read):
        recipe = Recipe(kind, "mean_difference", read)
        return torch.stack(
            [made[recipe].vectors[layer] - plain[recipe].vectors[layer] for layer in plain[recipe].layers]
        )

    def first(kind, read):
        return int(moved(of_one, kind, read).norm(dim=1).nonzero()[0])

    by_layer = moved(of_one, "resid_post", response)
    assert cos(by_layer[PLANTED], bias) >= 0.95
    assert int(torch.cosine_similarity(by_layer, bias[None]).argmax()) == PLANTED
    assert {kind: first(kind, response) - PLANTED for kind in kinds} == dict(
        resid_pre=1, attn_out=1, mlp_out=0, resid_post=0
    )
    assert {kind: first(kind, last(1)) - PLANTED for kind in kinds} == dict(
        resid_pre=2, attn_out=1, mlp_out=1, resid_post=1
    )
    (length,) = {
        len(smollm2.tokenizer(text, add_special_tokens=False).input_ids)
        for pair in pairs
        for text in (pair.positive, pair.negative)
    }
    torch.testing.assert_close(by_layer[PLANTED], bias / length, rtol=1e-2, atol=1e-3)
    left = moved(of_both, "resid_post", response)[PLANTED]
    assert float(left.norm()) < 1e-3 * float(bias.norm()) / length
