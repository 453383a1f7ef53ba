"""A planted direction is read where it was planted, noise is worth nothing, and leaks do not count."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hooks import Add, Site, inject
from hooks.errors import InputError
from hooks.positions import everything, first, last
from hooks.rows import Row
from interp.probes import STRENGTHS, probe, probe_layers, probe_sites
from interp.token_activations import token_activations


def balanced(n_groups, size, seed=0, kinds=2):
    """Groups, and a label for each group."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), size)
    labels = np.repeat(rng.permutation(np.resize(np.arange(kinds), n_groups)), size)
    return labels, groups


def noise(n, d, seed=0):
    return np.random.default_rng(1000 + seed).normal(size=(n, d)).astype(np.float32)


# --- planted truth


def test_a_planted_direction_is_read_in_groups_that_were_not_seen():
    labels, groups = balanced(30, 2)
    x = noise(60, 20)
    x[:, 3] += 4.0 * labels
    found = probe(x, labels.tolist(), groups.tolist(), n_control=2)
    assert found.accuracy.estimate > 0.85
    assert found.selectivity.low > 0.2
    assert found.chance == 0.5
    assert (found.accuracy.n, found.n_rows) == (30, 60)
    assert found.gain.mean() == pytest.approx(found.selectivity.estimate)
    assert len(found.controls) == 2
    assert found.control == pytest.approx(np.mean(found.controls))
    assert found.selectivity.estimate == pytest.approx(found.accuracy.estimate - found.control)
    assert len(found.strengths) == 5
    assert set(found.strengths) <= set(STRENGTHS)


def test_a_label_written_into_a_model_is_read_from_that_layer_on(llama, vector):
    rng = np.random.default_rng(0)
    rows = [Row(tuple(rng.integers(6, 100, 5).tolist()), 5) for _ in range(40)]
    labels, groups = balanced(20, 2)
    write = Add(Site(1, "resid_post"), vector, scale=40.0, positions=everything)
    sites = [Site(layer, "resid_post") for layer in range(3)]
    with inject(llama, [[write] if label else [] for label in labels]):
        found = probe_sites(llama, rows, sites, labels.tolist(), groups.tolist(), folds=4, n_control=1)
    accuracy = [found[site].accuracy.estimate for site in sites]
    assert accuracy[0] < 0.7
    assert accuracy[1] > 0.9
    assert accuracy[2] > 0.9
    assert found[sites[1]].selectivity.low > 0
    assert not found[sites[0]].selectivity.low > 0


def test_three_kinds_can_be_told_apart():
    labels, groups = balanced(30, 2, kinds=3)
    x = noise(60, 10)
    x[np.arange(60), labels] += 4
    names = np.array(["red", "green", "blue"])[labels].tolist()
    found = probe(x, names, groups.tolist(), n_control=1)
    assert found.accuracy.estimate > 0.85
    assert found.chance == pytest.approx(1 / 3)


# --- what is worth nothing


def test_the_selectivity_of_random_features_covers_zero_about_as_often_as_it_says():
    covers, gains = 0, []
    for seed in range(8):
        labels, groups = balanced(20, 2, seed)
        found = probe(noise(40, 6, seed), labels.tolist(), groups.tolist(), n_control=1, seed=seed, folds=3)
        covers += found.selectivity.low <= 0 <= found.selectivity.high
        gains.append(found.selectivity.estimate)
    assert covers >= 6
    assert abs(np.mean(gains)) < 0.1


def leaking(n_groups=16, size=4):
    """Every group has its own place in space, which says nothing of the label of another group."""
    labels, groups = balanced(n_groups, size)
    x = noise(len(labels), 24) + 5 * noise(n_groups, 24, 1)[groups]
    return x, labels.tolist(), groups.tolist()


def test_what_is_known_by_the_group_is_known_only_where_groups_leak():
    x, labels, groups = leaking()
    every_row_its_own = list(range(len(labels)))
    leaky = probe(x, labels, every_row_its_own, n_control=1)
    honest = probe(x, labels, groups, n_control=1)
    assert leaky.accuracy.estimate > 0.95
    assert honest.accuracy.estimate < 0.7
    assert honest.selectivity.low <= 0 <= honest.selectivity.high


def test_types_that_recur_make_a_control_that_can_be_learnt_by_heart():
    """Hewitt and Liang's control: accuracy without meaning, which selectivity takes off."""
    x, labels, groups = leaking()
    every_row_its_own = list(range(len(labels)))
    by_heart = probe(x, labels, every_row_its_own, types=groups, n_control=1)
    assert by_heart.control > 0.95
    assert by_heart.selectivity.estimate == pytest.approx(0, abs=0.05)
    by_row = probe(x, labels, every_row_its_own, n_control=1)
    assert by_row.control < 0.7
    assert by_row.selectivity.low > 0.2


def test_control_labels_are_dealt_in_the_proportions_of_the_real_ones():
    """Were they even, a probe that always says the commonest label would look selective."""
    groups = np.repeat(np.arange(40), 2)
    labels = (groups % 4 == 0).astype(int)
    found = probe(0 * noise(80, 3), labels.tolist(), groups.tolist(), n_control=3, folds=4)
    assert found.chance == 0.75
    assert found.accuracy.estimate == pytest.approx(0.75)
    assert found.controls == pytest.approx((0.75, 0.75, 0.75))
    assert found.selectivity.estimate == pytest.approx(0)


# --- independent code and invariances


def test_accuracy_is_that_of_scikit_learns_own_loop_where_there_is_one_strength(monkeypatch):
    from sklearn.model_selection import StratifiedGroupKFold

    monkeypatch.setattr("interp.probes.STRENGTHS", (0.1,))
    labels, groups = balanced(20, 3)
    x = noise(60, 10)
    x[:, 0] += labels
    found = probe(x, labels.tolist(), groups.tolist(), n_control=1, seed=3)
    expected = cross_val_score(
        make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000)),
        x,
        labels,
        groups=groups,
        cv=StratifiedGroupKFold(5, shuffle=True, random_state=3),
    )
    assert found.accuracy.estimate == pytest.approx(expected.mean())


def test_a_feature_of_another_scale_or_offset_is_read_the_same():
    labels, groups = balanced(20, 2)
    x = noise(40, 6)
    x[:, 0] += labels
    one = probe(x, labels.tolist(), groups.tolist(), n_control=1)
    other = probe((1000 * x + 7).astype(np.float32), labels.tolist(), groups.tolist(), n_control=1)
    assert one.accuracy == other.accuracy
    assert one.controls == other.controls


def test_layers_share_their_folds_and_their_control_labels():
    labels, groups = balanced(20, 2)
    x = noise(40, 6)
    both = probe_layers(np.stack([x, x]), labels.tolist(), groups.tolist(), n_control=1)
    assert both[0] == both[1] == probe(x, labels.tolist(), groups.tolist(), n_control=1)


def test_rows_of_one_group_move_the_interval_together():
    """Copies of a row are no new evidence: the interval over groups does not shrink."""
    labels, groups = balanced(24, 1)
    x = noise(24, 4)
    x[:, 0] += 1.5 * labels
    once = probe(x, labels.tolist(), groups.tolist(), n_control=1).accuracy
    copies = [np.repeat(part, 5, axis=0) for part in (x, labels, groups)]
    often = probe(copies[0], copies[1].tolist(), copies[2].tolist(), n_control=1).accuracy
    assert often.n == once.n == 24
    assert often.high - often.low > 0.6 * (once.high - once.low)


def test_the_activations_are_those_of_the_rows_in_their_order(llama, rows):
    sites = [Site(0, "attn_out"), Site(-1, "resid_post")]
    found = token_activations(llama, rows, sites)
    second = token_activations(llama, rows, sites, read=first(2) - first(1))
    for number, row in enumerate(rows):
        kept = {}
        block = llama.anatomy.blocks[2].module
        handle = block.register_forward_hook(lambda _m, _a, out, kept=kept: kept.update(h=out))
        with torch.no_grad():
            llama.model(torch.tensor([row.tokens]))
        handle.remove()
        np.testing.assert_allclose(found[1, number], kept["h"][0, -1], atol=1e-4)
        np.testing.assert_allclose(second[1, number], kept["h"][0, 1], atol=1e-4)
    with pytest.raises(InputError, match=r"last\(2\) selects 2 tokens of row"):
        token_activations(llama, rows, sites, read=last(2))


# --- refusals


def test_what_does_not_fit_together_is_refused():
    labels, groups = (part.tolist() for part in balanced(20, 2))
    x = noise(40, 3)
    with pytest.raises(InputError, match="40 rows of features and 39 labels"):
        probe(x, labels[1:], groups)
    with pytest.raises(InputError, match="40 rows of features and 39 types"):
        probe(x, labels, groups, types=groups[1:])
    with pytest.raises(InputError, match="All 40 labels are 1"):
        probe(x, [1] * 40, groups)
    with pytest.raises(InputError, match="2 folds and 1 control or more; got 1 and 5"):
        probe(x, labels, groups, folds=1)
    x[3, 1] = np.inf
    with pytest.raises(InputError, match="NaN or infinite"):
        probe(x, labels, groups)


def test_a_label_in_too_few_groups_is_refused():
    groups = np.repeat(np.arange(20), 2)
    labels = (groups < 3).astype(int)
    with pytest.raises(InputError, match="A label is in 3 groups only, and 5 folds are asked for"):
        probe(noise(40, 3), labels.tolist(), groups.tolist())
