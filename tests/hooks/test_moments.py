"""Sums that were merged are those of all tokens at once, whatever the order and the parts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooks import adopt
from hooks.capture import stream
from hooks.errors import EmptySelectionError, InputError
from hooks.moments import Moments, moments
from hooks.positions import answer, everything, first, last, response, think
from hooks.rows import Row
from hooks.sites import Site

SITES = [Site(0, "mlp_out"), Site(-1, "resid_post")]


def draw(n, seed=0, *, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 0.01, 3.0, 1.0])
    mix = torch.randn(4, 4, generator=generator)
    return (torch.randn(n, 4, generator=generator) * scale) @ mix + offset


def assert_same(left, right, **tolerance):
    assert left.count == right.count
    torch.testing.assert_close(left.mean, right.mean, **tolerance)
    torch.testing.assert_close(left.scatter, right.scatter, **tolerance)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.randoms(use_true_random=False), st.booleans())
def test_parts_merged_in_any_order_are_numpys_moments_of_all(sizes, random, covariance):
    x = draw(sum(sizes) + 2)
    parts = [Moments.of(part, covariance=covariance) for part in x.split([*sizes, 2])]
    random.shuffle(parts)
    while len(parts) > 1:  # merged in a random tree: associative, and in any order
        left = parts.pop(random.randrange(len(parts)))
        parts.append(left.merge(parts.pop(random.randrange(len(parts)))))
    (found,) = parts
    assert found.count == len(x)
    assert found.mean.dtype == torch.float64
    wide = x.double().numpy()
    np.testing.assert_allclose(found.mean, wide.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.variance, wide.var(0), rtol=1e-10)
    np.testing.assert_allclose(found.std, wide.std(0), rtol=1e-10)
    if covariance:
        np.testing.assert_allclose(found.covariance, np.cov(wide.T, bias=True), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("covariance", [False, True])
def test_a_large_mean_does_not_drown_the_variance(covariance):
    """Σx² - n mean², of which this would leave four digits at an offset of 1e6."""
    x = draw(1000).double()
    shifted = x + 1e6
    found = Moments.of(shifted[:0], covariance=covariance)
    for part in shifted.split(7):
        found = found.merge(Moments.of(part, covariance=covariance))
    np.testing.assert_allclose(found.variance, x.numpy().var(0), rtol=1e-7)
    np.testing.assert_allclose(found.mean - 1e6, x.numpy().mean(0), rtol=0, atol=1e-9)
    naive = (shifted**2).mean(0) - shifted.mean(0) ** 2
    assert (naive / x.var(0, correction=0) - 1).abs().max() > 1e-5, "so the test could fail"


def test_nothing_merged_with_nothing_is_nothing_and_changes_nothing():
    none, some = Moments.of(draw(0)), Moments.of(draw(5))
    assert_same(none.merge(none), none, rtol=0, atol=0)
    assert_same(none.merge(some), some, rtol=0, atol=1e-15)
    assert_same(some.merge(none), some, rtol=0, atol=0)


def texts(lm):
    said = [
        ("ab<think>the inn</think>in the end", 2),
        ("x<think>still an inn", 1),
        ("no thoughts at all", 4),
        ("cd<think>a</think>b", 2),
    ]
    return [Row(tuple(lm.tokenizer(text, add_special_tokens=False).input_ids), n) for text, n in said]


def kept(lm, rows, site, chosen):
    """Activations of the tokens ``chosen(row, position)``, one row at a time."""
    found = []
    for batch, acts in stream(lm, rows, [site], max_rows=1):
        number = int(batch.row)
        found += [acts[site][0, p] for p in range(len(rows[number].tokens)) if chosen(number, p)]
    return torch.stack(found).double().numpy()


def test_they_are_those_of_the_tensors_that_a_capture_would_keep(lm):
    rows = texts(lm)
    found = moments(lm, iter(rows), SITES, covariance=True)
    assert set(found) == set(SITES)
    for site in SITES:
        x = kept(lm, rows, site, lambda _n, _p: True)
        assert found[site].count == len(x) == sum(len(row.tokens) for row in rows)
        np.testing.assert_allclose(found[site].mean, x.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[site].covariance, np.cov(x.T, bias=True), rtol=1e-3, atol=1e-3)


def test_each_selection_has_its_own(llama):
    rows = texts(llama)
    opened, closed = (llama.tokenizer.convert_tokens_to_ids(t) for t in ("<think>", "</think>"))

    def thought(number, position):
        tokens = rows[number].tokens[: position + 1]
        return opened in tokens and closed not in tokens

    def rules(number, position):
        generated = position >= rows[number].prompt_length - 1
        return {
            "think": thought(number, position),
            "answer": generated and not thought(number, position),
            "start": position < 2,
        }

    found = moments(llama, rows, SITES[:1], positions={"think": think, "answer": answer, "start": first(2)})
    for name in ("think", "answer", "start"):
        x = kept(llama, rows, SITES[0], lambda n, p, name=name: rules(n, p)[name])
        assert found[name][SITES[0]].count == len(x)
        np.testing.assert_allclose(found[name][SITES[0]].mean, x.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[name][SITES[0]].variance, x.var(0), rtol=1e-3, atol=1e-4)


def test_the_order_of_the_rows_and_the_pieces_they_run_in_do_not_matter(tiny, monkeypatch):
    lm = tiny("gemma3")
    rows = texts(lm)
    scopes = {"all": everything, "response": response, "end": last(3)}
    one = moments(lm, rows, SITES, positions=scopes, covariance=True)
    monkeypatch.setattr(
        "hooks.moments.stream", lambda *args, **_options: stream(*args, piece=4, max_rows=2, window=3)
    )
    monkeypatch.setattr("hooks.moments.BLOCK", 3)
    seen = []
    other = moments(lm, rows[::-1], SITES, positions=scopes, covariance=True, on_tokens=seen.append)
    assert len(seen) > len(rows), "nothing was cut"
    assert sum(seen) == sum(len(row.tokens) for row in rows)
    for name in scopes:
        for site in SITES:
            assert_same(one[name][site], other[name][site], rtol=1e-3, atol=1e-3)


def test_sums_are_wide_where_the_model_is_narrow(model_of, tokenizer_with):
    lm = adopt(model_of("llama").to(torch.bfloat16), tokenizer_with())
    found = moments(lm, texts(lm), SITES[:1])[SITES[0]]
    x = kept(lm, texts(lm), SITES[0], lambda _n, _p: True)
    assert found.mean.dtype == found.scatter.dtype == torch.float64
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=0.05, atol=0.05)


def test_a_selection_that_matches_nothing_is_refused(llama):
    with pytest.raises(EmptySelectionError, match="The selection think matches no token of any row"):
        moments(llama, texts(llama)[2:3], SITES, positions={"all": everything, "think": think})


def test_moments_of_different_kinds_are_not_merged_and_no_covariance_is_made_up():
    with pytest.raises(InputError, match=r"scatter \(4,\) and \(4, 4\) cannot be merged"):
        Moments.of(draw(3)).merge(Moments.of(draw(3), covariance=True))
    with pytest.raises(InputError, match="have a variance only"):
        _ = Moments.of(draw(3)).covariance
