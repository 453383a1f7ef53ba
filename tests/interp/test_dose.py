"""The bound holds and inverts, derivatives are the model's own, and measured KLs equal slow loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import rel_entr, softmax
from torch.nn.attention import SDPBackend, sdpa_kernel

from hooks import adopt, inject
from hooks.errors import EmptySelectionError, InputError
from hooks.positions import everything, generated, last, mask, step
from hooks.rows import Row, pad_left
from interp import SteeringVector
from interp.dose import (
    SMALLEST,
    LastTokens,
    MeasuredKL,
    dose_for_kl,
    exact_cap,
    kl_cap,
    kl_nats,
    kl_throughout,
    measure_kl,
)

D, CPU = 32, torch.device("cpu")


def vector_for(lm, *, norm=1.0, seed=4, layers=(0, 1, 2)):
    """Random directions; a dose of one adds ``norm``."""
    generator = torch.Generator().manual_seed(seed)
    return SteeringVector(
        vectors={i: torch.randn(D, generator=generator) for i in layers},
        kind="resid_post",
        poles=("first", "second"),
        estimator="random",
        read="response",
        resid_norm=dict.fromkeys(layers, norm),
        n_pairs=4,
        pairs_hash="",
        seed=0,
        model=lm.name,
        fingerprint=lm.fingerprint,
        tokenizer_hash=lm.tokenizer_hash,
        template_hash=lm.template_hash,
    )


def alone(rows, number, start=None):
    """A batch of one row, its prompt ending at ``start``."""
    row = rows[number] if start is None else Row(rows[number].tokens, start)
    return pad_left([row], [0], pad_id=0, device=CPU)


@torch.no_grad()
def full_forward(lm, batch, edits=()):
    """Logits [pos, d_vocab] of one row, without a cache."""
    with inject(lm, list(edits)) as injection:
        injection.tracker.begin(batch.row, batch.prompt_length)
        return lm.model(**batch.inputs, use_cache=False).logits[0]


def kl_of(plain, edited):
    """In numpy, by scipy."""
    p, q = (softmax(z.double().numpy(), axis=-1) for z in (plain, edited))
    return rel_entr(p, q).sum(-1)


# --- the bound and its inverse

A = (1e-6, 0.1, 1.0, 7.0, 300.0)
CURVATURES = (0.0, 1e-12, 1e-6, 0.1, 1.0, 20.0, 1e4)
EPSILONS = (1e-6, 1e-3, 0.1, 1.0)


def bound(x, a, L):
    return (x * a + x * x * L / 2) ** 2 / 4


@pytest.mark.parametrize("a", [0.0, *A])
@pytest.mark.parametrize("L", CURVATURES)
def test_the_capped_dose_meets_the_bound_exactly_and_is_the_root(a, L):
    for eps in EPSILONS:
        x = exact_cap(a, L, eps)
        if a == L == 0:
            assert x == math.inf
            continue
        assert bound(x, a, L) == pytest.approx(eps, rel=1e-9)
        high = 1.0
        while bound(high, a, L) < eps:
            high *= 2
        root = brentq(
            lambda x, eps=eps: math.sqrt(bound(x, a, L)) - math.sqrt(eps), 0, high, xtol=1e-300, rtol=1e-13
        )
        assert x == pytest.approx(root, rel=1e-9)


@pytest.mark.parametrize(
    ("a", "L", "expected"),
    [
        (1.0, 0.1, 0.0631),
        (1.0, 1.0, 0.0614),
        (1.0, 5.0, 0.0555),
        (1.0, 20.0, 0.0439),
        (1.0, 100.0, 0.0269),
        (0.1, 10.0, 0.103),
    ],
)
def test_the_capped_dose_is_that_of_the_published_comparison(a, L, expected):
    """methods.md, 6.1, where the paper's shrunk root is .0630 .0605 .0520 .0353 .0069 and 0."""
    assert exact_cap(a, L, 1e-3) == pytest.approx(expected, rel=5e-3)


def test_without_curvature_the_cap_is_the_first_order_one():
    for a in A:
        assert exact_cap(a, 0.0, 1e-3) == pytest.approx(2 * math.sqrt(1e-3) / a, rel=1e-12)
        assert exact_cap(a, 1e-13 * a * a, 1e-3) == pytest.approx(2 * math.sqrt(1e-3) / a, rel=1e-6)
    assert exact_cap(0.0, 4.0, 1e-3) == pytest.approx((16e-3) ** 0.25 / 2, rel=1e-12)


@given(st.integers(0, 10_000), st.floats(1e-3, 30), st.floats(1e-4, 30))
def test_the_kl_is_at_most_a_quarter_of_the_squared_change_of_the_logits(seed, size, change):
    generator = torch.Generator().manual_seed(seed)
    z = size * torch.randn(20, generator=generator, dtype=torch.float64)
    dz = change * torch.randn(20, generator=generator, dtype=torch.float64)
    dz = dz - dz.mean()
    assert float(kl_nats(z, z + dz)) <= float(dz @ dz) / 4 + 1e-12


# --- the KL itself


@given(st.integers(0, 10_000), st.floats(0.01, 60))
def test_the_kl_is_scipys_relative_entropy(seed, size):
    z = size * torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = kl_nats(z[0], z[1])
    np.testing.assert_allclose(found.numpy(), kl_of(z[0], z[1]), rtol=1e-6, atol=1e-12)


def test_the_kl_of_equal_logits_is_zero_and_does_not_see_a_constant():
    z = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kl_nats(z, z), torch.zeros(5, dtype=torch.float64))
    assert kl_nats(z, z + 3).abs().max() < 1e-12
    assert kl_nats(z, z.roll(1, -1)).min() > 0


def test_a_token_that_is_masked_out_has_no_share():
    z = torch.tensor([1.0, 2.0, -math.inf, 0.5])
    other = torch.tensor([0.0, 2.5, -math.inf, 0.5])
    expected = kl_of(z[[0, 1, 3]], other[[0, 1, 3]])
    assert float(kl_nats(z, other)) == pytest.approx(float(expected))
    assert float(kl_nats(z, z.nan_to_num(neginf=-3.0))) == pytest.approx(
        float(-np.log1p(-float(torch.tensor([1.0, 2, -3, 0.5]).softmax(0)[2]))), rel=1e-6
    )


def test_the_summary_counts_every_state():
    kl = np.array([0.0, 1.0, 2.0, 3.0, 10.0])
    found = MeasuredKL.of(kl, eps=2.0)
    assert (found.mean, found.median, found.share_above, found.n, found.eps) == (3.2, 2.0, 0.4, 5, 2.0)
    assert found.p95 == pytest.approx(np.quantile(kl, 0.95))


@pytest.fixture(scope="module")
def double(model_of, tokenizer_with):
    """A GPT-2 in float64; the norms of a Llama compute in float32 whatever its dtype."""
    return adopt(model_of("gpt2").double(), tokenizer_with(), name="double")


# --- the last tokens, run again and again


def test_the_last_tokens_logits_are_those_of_a_full_pass(lm, rows):
    """Rows of different lengths, some longer than a sliding window."""
    states = LastTokens(lm, rows)
    assert len(states) == 4
    for number in range(4):
        expected = full_forward(lm, alone(rows, number))[-1]
        torch.testing.assert_close(states.plain[number], expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_dose_edits_the_last_position_alone(lm, rows, layer):
    """Each state its own dose."""
    states, vector, doses = LastTokens(lm, rows), vector_for(lm, norm=4.0), [0.5, -1.0, 0.0, 2.0]
    found = states.at_doses(vector, layer, doses)
    for number, dose in enumerate(doses):
        edit = vector.at(layer, dose=dose, positions=last(1))
        expected = full_forward(lm, alone(rows, number), [edit])[-1]
        torch.testing.assert_close(found[number], expected, atol=2e-3, rtol=1e-3)
        if dose:
            everywhere = full_forward(
                lm, alone(rows, number), [vector.at(layer, dose=dose, positions=everything)]
            )
            assert layer == 2 or not torch.allclose(found[number], everywhere[-1], atol=2e-3, rtol=1e-3)
    assert torch.equal(found[2], states.plain[2])


def test_they_can_be_run_again_with_the_same_result(lm, rows):
    """The cache is not consumed, sliding or not; what ran in between does not matter."""
    states, vector = LastTokens(lm, rows), vector_for(lm)
    before, plain = states.at_doses(vector, 0, [0.5] * 4), states.plain.clone()
    for dose in (3.0, -2.0, 0.1):
        states.at_doses(vector, 1, [dose] * 4)
    assert torch.equal(states.at_doses(vector, 0, [0.5] * 4), before)
    assert torch.equal(states.at_doses(vector, 1, [0.0] * 4), plain)


def test_a_float64_model_keeps_its_digits(double, rows):
    states, vector = LastTokens(double, rows), vector_for(double)
    found = states.at_doses(vector, 1, [0.5] * 4)
    assert found.dtype == states.plain.dtype == torch.float64
    for number in range(4):
        edit = vector.at(1, dose=0.5, positions=last(1))
        expected = full_forward(double, alone(rows, number), [edit])[-1]
        torch.testing.assert_close(found[number], expected, atol=1e-11, rtol=1e-11)


def test_states_need_two_tokens(llama):
    for rows in ([], [Row((7, 8), 1), Row((9,), 1)]):
        with pytest.raises(InputError, match="States need one row or more, each of two tokens or more"):
            LastTokens(llama, rows)


# --- derivatives


def derivatives(lm, rows, number, vector, layer, at):
    """z, z' and z'' of the centred logits at a dose, by autograd and a hook of the test's own.

    <z, w> is differentiated by the dose, and the result, linear in w, by w.
    """
    direction = (vector.direction(layer) * vector.resid_norm[layer]).double()
    ids = torch.tensor([rows[number].tokens])
    is_last = (torch.arange(ids.shape[1]) == ids.shape[1] - 1).double()[:, None]
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    block = lm.model.transformer.h[layer]
    handle = block.register_forward_hook(lambda _module, _args, out: out + x * is_last * direction)
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated twice
            logits = lm.model(ids, use_cache=False).logits[0, -1]
    finally:
        handle.remove()
    z = logits - logits.mean()
    w = torch.ones_like(z).requires_grad_()
    (once,) = torch.autograd.grad((z * w).sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad(once, x, create_graph=True)
    first, second = (torch.autograd.grad(g, w, retain_graph=True)[0] for g in (once, twice))
    return z.detach(), first, second


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_slope_and_curvature_are_what_autograd_finds(double, rows, layer):
    vector, eps = vector_for(double, norm=20.0), 1e-3
    cap = kl_cap(LastTokens(double, rows), vector, layer, eps=eps)
    for number in range(4):
        _, first, second = derivatives(double, rows, number, vector, layer, 0.0)
        a, L = float(first.norm()), float(second.norm())
        assert cap.slope[number] == pytest.approx(a, rel=5e-3)
        further = float(
            derivatives(double, rows, number, vector, layer, min(exact_cap(a, L, eps), 1.0))[2].norm()
        )
        assert cap.curvature[number] == pytest.approx(max(L, further), rel=2e-2)
        assert cap.per_state[number] == pytest.approx(
            exact_cap(cap.slope[number], cap.curvature[number], eps)
        )


def test_in_single_precision_they_are_nearly_the_same(tiny, double, rows):
    """At a dose unit of the size of the stream, as every vector's is."""
    gpt2 = tiny("gpt2")
    vector = vector_for(gpt2, norm=20.0)
    single = kl_cap(LastTokens(gpt2, rows), vector, 1)
    same = kl_cap(LastTokens(double, rows), replace(vector, fingerprint=double.fingerprint), 1)
    assert single.slope == pytest.approx(same.slope, rel=1e-3)
    assert single.curvature == pytest.approx(same.curvature, rel=2e-2)
    assert single.dose == pytest.approx(same.dose, rel=1e-2)


def test_the_local_dose_is_where_the_second_order_kl_reaches_eps(double, rows):
    """Half the Fisher information of one state, and the KL itself for a small eps."""
    vector, eps = vector_for(double, norm=2.0), 1e-6
    for number in range(4):
        states = LastTokens(double, [rows[number]])
        local = kl_cap(states, vector, 1, eps=eps).local
        z, first, _ = derivatives(double, rows, number, vector, 1, 0.0)
        p = z.softmax(0)
        variance = float((p * first**2).sum() - (p * first).sum() ** 2)
        assert local == pytest.approx(math.sqrt(2 * eps / variance), rel=1e-2)
        assert measure_kl(states, vector, 1, local).mean == pytest.approx(eps, rel=0.05)


# --- the cap


@pytest.mark.parametrize("eps", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "phi"])
def test_at_the_capped_dose_the_measured_kl_stays_below_eps(tiny, family, eps):
    """Intervention: at all but the quantile of the states that it was fitted on."""
    lm, generator = tiny(family), torch.Generator().manual_seed(3)
    rows = [Row(tuple(torch.randint(6, 100, (n,), generator=generator).tolist()), n) for n in range(3, 23)]
    states, vector = LastTokens(lm, rows), vector_for(lm, norm=3.0)
    for quantile in (0.0, 0.2):
        cap = kl_cap(states, vector, 1, eps=eps, quantile=quantile)
        found = measure_kl(states, vector, 1, cap.dose, eps=eps)
        assert found.mean > 0
        assert found.share_above <= quantile
        assert sum(x < cap.dose for x in cap.per_state) <= quantile * 20
        assert cap.dose in cap.per_state
    assert found.n == 20


def test_every_states_own_cap_keeps_its_kl_below_eps(lm, rows):
    states, vector = LastTokens(lm, rows), vector_for(lm, norm=3.0)
    cap = kl_cap(states, vector, 1, eps=1e-2)
    kl = kl_nats(states.plain, states.at_doses(vector, 1, cap.per_state))
    assert float(kl.max()) <= 1e-2


def test_the_cap_does_not_depend_on_the_unit_of_the_dose(llama, rows):
    states = LastTokens(llama, rows)
    one, two = (kl_cap(states, vector_for(llama, norm=norm), 1).dose for norm in (2.0, 4.0))
    assert one == pytest.approx(2 * two, rel=2e-2)


@pytest.mark.parametrize(
    ("eps", "quantile"), [(0.0, 0.05), (-1.0, 0.05), (1e-3, 1.0), (1e-3, -0.1), (math.nan, 0.05)]
)
def test_an_eps_or_quantile_that_means_nothing_is_refused(llama, rows, eps, quantile):
    with pytest.raises(InputError, match=r"eps is above 0 and quantile in \[0, 1\)"):
        kl_cap(LastTokens(llama, rows), vector_for(llama), 1, eps=eps, quantile=quantile)


# --- a dose for a KL


@pytest.mark.parametrize("target", [1e-3, 0.05, 1.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_dose_for_a_kl_hits_it_within_two_percent_of_the_dose(llama, rows, target, sign):
    states, vector = LastTokens(llama, rows), vector_for(llama, norm=3.0)
    dose = dose_for_kl(states, vector, 1, target, largest=100.0, sign=sign)
    below, above = (measure_kl(states, vector, 1, sign * dose * f).mean for f in (0.975, 1.025))
    assert below <= target <= above


def test_a_kl_out_of_reach_gives_the_largest_dose(llama, rows):
    states = LastTokens(llama, rows)
    assert dose_for_kl(states, vector_for(llama, norm=1e-3), 1, 1.0, largest=0.7) == 0.7


def test_a_kl_that_cannot_be_aimed_at_is_refused(llama, rows):
    states = LastTokens(llama, rows)
    for target in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match=f"A KL of {target} nats cannot be aimed at"):
            dose_for_kl(states, vector_for(llama), 1, target)
    with pytest.raises(InputError, match=f"A KL of 1e-06 nats is passed at a dose of {SMALLEST} already"):
        dose_for_kl(states, vector_for(llama, norm=3e3), 1, 1e-6)


# --- throughout responses


def responses(n, seed=6):
    generator = torch.Generator().manual_seed(seed)
    lengths = [3 + (7 * i) % 11 for i in range(n)]
    return [
        Row(tuple(torch.randint(6, 100, (k,), generator=generator).tolist()), 1 + k // 3) for k in lengths
    ]


def slow_throughout(lm, rows, edits_of):
    """Every row alone, at each token that produces a token of its response."""
    kl = []
    for number, row in enumerate(rows):
        batch = alone(rows, number)
        plain, edited = full_forward(lm, batch), full_forward(lm, batch, edits_of(number))
        kl.append(kl_of(plain, edited)[row.prompt_length - 1 :])
    return np.concatenate(kl)


@pytest.mark.parametrize("family", ["llama", "gemma3", "neox"])
def test_the_kl_throughout_responses_equals_a_loop_over_single_rows(tiny, family):
    lm, rows = tiny(family), responses(11)
    edit, seen = vector_for(lm, norm=2.0).at(1, dose=0.5), []
    found = kl_throughout(lm, rows, [edit], eps=0.02, on_tokens=seen.append)
    kl = slow_throughout(lm, rows, lambda _number: [edit])
    assert found.n == len(kl) == sum(len(r.tokens) - r.prompt_length + 1 for r in rows)
    assert (found.mean, found.median, found.p95) == pytest.approx(
        (kl.mean(), np.median(kl), np.quantile(kl, 0.95)), rel=2e-2
    )
    assert found.share_above == pytest.approx((kl > 0.02).mean(), abs=0.02)
    assert sum(seen) == 2 * sum(len(r.tokens) for r in rows)


def test_without_edits_there_is_no_kl(llama):
    assert kl_throughout(llama, responses(3), []).mean == 0.0


def test_a_mask_means_the_rows_that_were_given_whatever_batch_they_run_in(llama):
    """Eleven rows run in two batches, longest first; the mask counts them as they were passed."""
    rows = responses(11)
    table = torch.zeros(11, 20, dtype=torch.bool)
    for number, row in enumerate(rows):
        table[number, number % len(row.tokens)] = True
    edit = vector_for(llama, norm=2.0).at(0, dose=1.0, positions=mask(table))

    def own(number):
        return [replace(edit, positions=mask(table[number, None]))]

    found = kl_throughout(llama, rows, [edit])
    assert found.mean == pytest.approx(slow_throughout(llama, rows, own).mean(), rel=1e-3)


def test_the_kl_throughout_is_above_that_of_one_position(llama):
    """Edits add up over a response: the reason why it is measured at all."""
    rows, vector = responses(8), vector_for(llama, norm=2.0)
    every = kl_throughout(llama, rows, [vector.at(0, dose=0.2)]).mean
    first = kl_throughout(llama, rows, [vector.at(0, dose=0.2, positions=step(0))]).mean
    assert every > first > 0


def test_an_edit_that_matches_nothing_is_refused(llama):
    with pytest.raises(EmptySelectionError):
        kl_throughout(
            llama, responses(3), [vector_for(llama).at(0, dose=0.2, positions=generated - everything)]
        )
