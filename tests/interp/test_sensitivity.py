"""Injection sensitivity equals the slow loop, and names the layer in which it was planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hooks.errors import InputError, VectorError
from hooks.inject import inject
from hooks.positions import last
from hooks.rows import pad_left
from interp.dose import LastTokens, doses_for_kl, kl_nats
from interp.prompt_pairs import answer_logprob
from interp.sensitivity import sensitivity
from interp.steering_vector import SteeringVector


def vector_for(lm, *, seed=3, fingerprint=None):
    generator = torch.Generator().manual_seed(seed)
    return SteeringVector(
        vectors={layer: torch.randn(lm.d_model, generator=generator) for layer in range(lm.n_layers)},
        resid_norm=dict.fromkeys(range(lm.n_layers), 3.0),
        kind="resid_post",
        poles=("a", "b"),
        model=lm.name,
        fingerprint=fingerprint or lm.fingerprint,
        tokenizer_hash=lm.tokenizer_hash,
        template_hash=lm.template_hash,
        estimator="random",
        read="last(1)",
        pairs_hash="0",
        n_pairs=4,
        seed=seed,
    )


@torch.no_grad()
def by_hand(lm, pair, vector, layer, dose):
    inputs = pad_left([pair.clean], [0], pad_id=lm.pad_id, device=lm.device).inputs
    edits = [vector.at(layer, dose=dose, positions=last(1))] if dose else []
    with inject(lm, edits):
        return lm.model(**inputs, use_cache=False).logits[:, -1]


def test_it_equals_a_loop_of_full_runs_on_every_family(lm, pairs):
    vector = vector_for(lm)
    found = sensitivity(lm, pairs, vector, dose=0.1, kl_target=0.02)
    for i, pair in enumerate(pairs):
        plain = by_hand(lm, pair, vector, 0, 0.0)
        for j, layer in enumerate(found.layers):
            up, down = (by_hand(lm, pair, vector, layer, sign * 0.1) for sign in (1, -1))
            slope = float(answer_logprob(up, [pair]) - answer_logprob(down, [pair])) / 0.2
            assert found.slope[i, j] == pytest.approx(slope, abs=2e-2)
            assert found.kl[i, j] == pytest.approx(float(kl_nats(plain, up)), abs=1e-3)
            matched = by_hand(lm, pair, vector, layer, float(found.dose_at_kl[j]))
            effect = float(answer_logprob(matched, [pair]) - answer_logprob(plain, [pair]))
            assert found.effect_at_kl[i, j] == pytest.approx(effect, abs=2e-3)


def test_the_doses_at_equal_kl_have_it(llama, pairs):
    vector = replace(vector_for(llama), resid_norm=dict.fromkeys(range(3), 60.0))
    found = sensitivity(llama, pairs, vector, kl_target=0.02)
    np.testing.assert_allclose(found.kl_at_dose.mean(0), 0.02, rtol=0.1)
    assert found.dose_at_kl.max() > 2 * found.dose_at_kl.min()


def test_a_layer_that_cannot_move_the_output_so_far_says_so(llama, pairs):
    weak = replace(vector_for(llama), resid_norm=dict.fromkeys(range(3), 0.1))
    found = sensitivity(llama, pairs, weak, kl_target=0.02)
    assert found.dose_at_kl.tolist() == [4.0] * 3
    assert found.kl_at_dose.mean(0).max() < 0.02


def test_plus_and_minus_are_told_apart(llama, pairs):
    one, other = (
        sensitivity(llama, pairs, v, kl_target=None) for v in (vector_for(llama), -vector_for(llama))
    )
    np.testing.assert_allclose(one.slope, -other.slope, atol=1e-3)
    assert one.effect_at_kl is None


def test_what_cannot_be_measured_is_refused(llama, pairs):
    with pytest.raises(InputError, match="at least one pair and a dose above 0; got 0 and"):
        sensitivity(llama, [], vector_for(llama))
    with pytest.raises(VectorError, match="was made for the model"):
        sensitivity(llama, pairs, vector_for(llama, fingerprint="other"))


def test_doses_that_were_found_before_are_used(lm, pairs):
    vector = vector_for(lm)
    doses = doses_for_kl(LastTokens(lm, [pair.clean for pair in pairs]), vector, vector.layers, 0.02)
    found = sensitivity(lm, pairs[:1], vector, kl_target=0.02, doses=doses)
    whole = sensitivity(lm, pairs, vector, kl_target=0.02)
    np.testing.assert_array_equal(found.dose_at_kl, whole.dose_at_kl)
    np.testing.assert_allclose(found.effect_at_kl[0], whole.effect_at_kl[0], atol=1e-4)
