"""Random directions share everything with the vector they stand beside, but the direction."""

import pytest
import torch

from interp import Pair, SteeringVector, contrast
from interp.controls import random_directions, redirected


@pytest.fixture(scope="module")
def steering(tiny) -> SteeringVector:
    pairs = [Pair(str(i), "ABC"[: i + 1] + "D", "XYZ" + "W" * i) for i in range(4)]
    return contrast(tiny("llama"), pairs, kind="mlp_out", layers=[0, 2], n_null=1)


def test_at_an_equal_dose_they_have_the_vectors_norm_at_every_layer(steering):
    for control in random_directions(steering, 5):
        for layer in (0, 2):
            (ours,), (theirs,) = (v.at(layer, dose=0.4).parameters() for v in (steering, control))
            assert float(theirs.norm()) == pytest.approx(float(ours.norm()), rel=1e-5)
            assert control.at(layer, dose=0.4).site == steering.at(layer, dose=0.4).site


def test_they_fit_the_same_model_and_claim_nothing_that_was_measured(steering, tiny):
    for control in random_directions(steering, 2):
        control.require(tiny("llama"))
        control.at(0, dose=0.4).check(tiny("llama"))
        assert (control.estimator, control.poles) == ("random direction", steering.poles)
        measured = ("reliability", "length_control", "recommended", "sign_test")
        assert not any(getattr(control, name) for name in measured)
    assert steering.reliability


def test_their_directions_are_uniform_and_independent(steering):
    """In d dimensions, cosines of independent directions have mean 0 and variance 1/d."""
    controls = random_directions(steering, 150)
    units = torch.stack([c.direction(layer) for c in controls for layer in (0, 2)])
    cosines = (units @ units.T)[~torch.eye(300, dtype=torch.bool)]
    assert abs(float(cosines.mean())) < 0.01
    assert float(cosines.var()) * 32 == pytest.approx(1, rel=0.1)
    assert units.mean(0).abs().max() < 0.05


def test_the_seed_fixes_them(steering):
    one, again, other = (random_directions(steering, 3, seed=seed) for seed in (1, 1, 2))
    for i in range(3):
        assert torch.equal(one[i].vectors[2], again[i].vectors[2])
        assert not torch.equal(one[i].vectors[2], other[i].vectors[2])
    assert torch.equal(random_directions(steering, 9, seed=1)[2].vectors[0], one[2].vectors[0]), (
        "more draws, same first ones"
    )


def test_a_redirected_change_keeps_its_norm_at_each_position_and_loses_its_direction():
    change = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)) * torch.arange(50)[:, None]
    found = redirected(change, seed=3, draw=(7, 1))
    torch.testing.assert_close(found.norm(dim=-1), change.norm(dim=-1))
    cosines = torch.cosine_similarity(found[1:], change[1:], dim=-1)
    assert abs(float(cosines.mean())) < 0.06
    assert float(cosines.var()) * 64 == pytest.approx(1, rel=0.5)
    assert torch.equal(found, redirected(change, seed=3, draw=(7, 1)))
    assert not torch.equal(found, redirected(change, seed=3, draw=(7, 2)))
    assert not torch.equal(found, redirected(change, seed=4, draw=(7, 1)))
