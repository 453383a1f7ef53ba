"""Linear probes: can a label be read off the activations, in groups that the probe has not seen?

A logistic regression on activations standardised by the training groups, its strength of regularisation
chosen inside them, is scored on groups that were held out whole: an item's near-copies (its template, its
entity, its question) are never on both sides. Beside its accuracy stand

    chance        the share of the commonest label,
    control       the same on a task without meaning: each *type* is dealt a label at random, and all
                  its rows carry it; mean over several deals,
    selectivity   accuracy - control, with a bootstrap over groups.

Types are the groups unless given. Then no type of a held-out fold was seen in training, and the control
shows what this many groups and this balance of labels give without signal. Types that recur across
groups (the subject, the last word) make it Hewitt and Liang's: what the probe can learn by heart.

Source: Hewitt and Liang 2019, "Designing and Interpreting Probes with Control Tasks", arXiv:1909.03368;
scikit-learn for the fits.
Differs from the source: folds are groups; labels are dealt to types in the proportions of the real
ones, where the source draws each on its own, so that no deal lacks a label.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.positions import Positions
from hooks.rows import Row
from hooks.sites import Site
from interp.stats import Interval
from interp.token_activations import last_token, token_activations

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Values of C tried: the inverse of the L2 penalty on standardised activations."""

Splits = list[tuple[Int[np.ndarray, " _train"], Int[np.ndarray, " _test"]]]
"""Rows to train on, and to test on."""

INNER_FOLDS = 3
N_RESAMPLES = 2000


@dataclass(frozen=True)
class Probe:
    """How well a label is read at one site, in held-out groups, and what it is worth."""

    accuracy: Interval
    """Over rows, with a bootstrap over groups; ``n`` counts groups."""

    control: float
    """Mean accuracy on the control task."""

    controls: tuple[float, ...]
    """Accuracy under each deal of random labels."""

    selectivity: Interval
    """``accuracy - control``, on the same resampled groups."""

    chance: float
    """The share of the commonest label."""

    strengths: tuple[float, ...]
    """The C that each fold's training groups chose."""

    gain: Float[np.ndarray, " row"] = field(compare=False)
    """Of each row: 1 where it is read rightly, 0 where not, less the mean of the same on the control task."""

    @property
    def n_rows(self) -> int:
        return len(self.gain)


def probe(
    features: Float[np.ndarray, "row d"],
    labels: Sequence[Hashable],
    groups: Sequence[Hashable],
    *,
    types: Sequence[Hashable] | None = None,
    folds: int = 5,
    n_control: int = 5,
    level: float = 0.95,
    seed: int = 0,
) -> Probe:
    """One probe on the activations of one site.

    The interval resamples groups under the fitted probes: it holds the luck of the groups, not that of
    the folds or of the training.

    Args:
        labels: What is to be read, one of each row; two or more kinds.
        groups: Rows of one group are never on both sides of a split.
        types: Rows of one type share their label in the control task; ``groups`` unless given.

    Raises:
        InputError: if rows, labels, groups and types differ in number, a feature is not finite, all labels
            are the same, or a label, real or of the control, is in fewer groups than there are folds.
    """
    (found,) = probe_layers(
        features[None], labels, groups, types=types, folds=folds, n_control=n_control, level=level, seed=seed
    )
    return found


def probe_layers(
    features: Float[np.ndarray, "site row d"],
    labels: Sequence[Hashable],
    groups: Sequence[Hashable],
    *,
    types: Sequence[Hashable] | None = None,
    folds: int = 5,
    n_control: int = 5,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Probe, ...]:
    """A probe at each site, on the same folds, the same deals of control labels and the same resamples.

    Raises:
        InputError: as :func:`probe`.
    """
    types = groups if types is None else types
    lengths = {"labels": labels, "groups": groups, "types": types}
    for name, values in lengths.items():
        if len(values) != features.shape[1]:
            raise InputError(
                f"{features.shape[1]} rows of features and {len(values)} {name}; pass one for each row."
            )
    if not np.isfinite(features).all():
        raise InputError("Features have NaN or infinite entries; leave those rows out, and say how many.")
    if folds < 2 or n_control < 1:
        raise InputError(f"A probe needs 2 folds and 1 control or more; got {folds} and {n_control}.")
    y, group, kind = (_numbered(values) for values in (labels, groups, types))
    if y.max() == 0:
        raise InputError(f"All {len(y)} labels are {labels[0]!r}; a probe tells two kinds or more apart.")
    rng = np.random.default_rng(seed)
    deals = [_deal(y, kind, rng) for _ in range(n_control)]
    n_groups = int(group.max()) + 1
    picks = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=N_RESAMPLES)
    with threadpool_limits(1):  # threads wait for each other longer than so small a fit takes
        return tuple(
            _probe(x.astype(np.float64), y, deals, group, picks, folds=folds, level=level, seed=seed)
            for x in features
        )


def probe_sites(
    lm: LanguageModel,
    rows: Sequence[Row],
    sites: Sequence[Site],
    labels: Sequence[Hashable],
    groups: Sequence[Hashable],
    *,
    types: Sequence[Hashable] | None = None,
    read: Positions = last_token,
    folds: int = 5,
    n_control: int = 5,
    level: float = 0.95,
    seed: int = 0,
) -> dict[Site, Probe]:
    """Run a model over rows, and probe the one token of each that ``read`` selects, at each site.

    Raises:
        InputError: as :func:`probe` and :func:`interp.token_activations.token_activations`.
    """
    features = token_activations(lm, rows, sites, read=read)
    found = probe_layers(
        features, labels, groups, types=types, folds=folds, n_control=n_control, level=level, seed=seed
    )
    return dict(zip(sites, found, strict=True))


def held_out_auroc(
    features: Float[np.ndarray, "row d"],
    labels: Bool[np.ndarray, " row"],
    groups: Sequence[Hashable],
    *,
    folds: int = 5,
    seed: int = 0,
) -> Float[np.ndarray, " row"]:
    """How well a probe ranks true rows above false ones in held-out groups; the mean over rows is its AUROC.

    Rows are compared within a fold only. Of row r, with v_r the share of the other label's rows in its fold
    that it lies on the right side of, n_r the rows of its own label and N all,

        u_r = AUROC + (v_r - mean of v over its label) N / n_r,

    so that a bootstrap of u over groups has DeLong's variance, which counts both labels.

    Raises:
        InputError: as :func:`probe`.
    """
    if not len(features) == len(labels) == len(groups):
        raise InputError(
            f"{len(features)} rows of features, {len(labels)} labels and {len(groups)} groups; pass one of "
            "each for each row."
        )
    if labels.all() or not labels.any():
        raise InputError(f"All {len(labels)} labels are {bool(labels.any())}; a probe tells two kinds apart.")
    side = np.zeros(len(labels))
    y, group = labels.astype(np.int64), _numbered(groups)
    with threadpool_limits(1):
        for test, held, model in _fits(features.astype(np.float64), y, group, folds, seed):
            score, true = model.decision_function(held), labels[test]
            gap = score[true][:, None] - score[~true][None]
            above = (gap > 0) + (gap == 0) / 2
            side[test[true]], side[test[~true]] = above.mean(1), above.mean(0)
    auroc = np.full(len(y), side[labels].mean())
    for own in (labels, ~labels):
        auroc[own] += (side[own] - side[own].mean()) * len(y) / own.sum()
    return auroc


def _probe(
    x: Float[np.ndarray, "row d"],
    y: Int[np.ndarray, " row"],
    deals: list[Int[np.ndarray, " row"]],
    group: Int[np.ndarray, " row"],
    picks: Int[np.ndarray, "draw group"],
    *,
    folds: int,
    level: float,
    seed: int,
) -> Probe:
    right, strengths = _held_out(x, y, group, folds, seed)
    controls = np.stack([_held_out(x, dealt, group, folds, seed)[0] for dealt in deals])
    gain = right - controls.mean(0)
    return Probe(
        accuracy=_over_groups(right.astype(float), group, picks, level),
        control=float(controls.mean()),
        controls=tuple(float(value) for value in controls.mean(1)),
        selectivity=_over_groups(gain, group, picks, level),
        chance=float(np.bincount(y).max() / len(y)),
        strengths=strengths,
        gain=gain,
    )


def _held_out(
    x: Float[np.ndarray, "row d"],
    y: Int[np.ndarray, " row"],
    group: Int[np.ndarray, " row"],
    folds: int,
    seed: int,
) -> tuple[Bool[np.ndarray, " row"], tuple[float, ...]]:
    """Whether each row is read rightly by the probe that has not seen its group, and each fold's C."""
    right, strengths = np.zeros(len(y), bool), []
    for test, held, model in _fits(x, y, group, folds, seed):
        right[test] = model.predict(held) == y[test]
        strengths.append(float(model.C))
    return right, tuple(strengths)


def _fits(
    x: Float[np.ndarray, "row d"],
    y: Int[np.ndarray, " row"],
    group: Int[np.ndarray, " row"],
    folds: int,
    seed: int,
) -> Iterator[tuple[Int[np.ndarray, " test"], Float[np.ndarray, "test rank"], LogisticRegression]]:
    """Of each fold: its rows, their features, and the probe that has not seen their groups."""
    for train, test in _splits(y, group, folds, seed):
        seen, held = _standardised(x[train], x[test])
        inner = _splits(y[train], group[train], INNER_FOLDS, seed)
        chosen = max(STRENGTHS, key=partial(_score, seen, y[train], inner))
        yield test, held, _fitted(seen, y[train], chosen)


def _standardised(
    train: Float[np.ndarray, "train d"], test: Float[np.ndarray, "test d"]
) -> tuple[Float[np.ndarray, "train rank"], Float[np.ndarray, "test rank"]]:
    """Both by the scale of the first, in coordinates of its rows' span, where there are fewer rows than d.

    The weights of an L2 penalty lie in that span and its size does not change under a rotation, so the
    fits are the same, and several times as fast.
    """
    scaler = StandardScaler().fit(train)
    seen, held = scaler.transform(train), scaler.transform(test)
    if len(seen) >= seen.shape[1]:
        return seen, held
    basis = np.linalg.svd(seen, full_matrices=False)[2].T
    return seen @ basis, held @ basis


def _fitted(x: Float[np.ndarray, "row d"], y: Int[np.ndarray, " row"], strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=5000).fit(x, y)


def _score(x: Float[np.ndarray, "row d"], y: Int[np.ndarray, " row"], splits: Splits, strength: float) -> int:
    """Rows read rightly when held out; of equal strengths the first, the most regularised, is taken."""
    return sum(
        int((_fitted(x[train], y[train], strength).predict(x[test]) == y[test]).sum())
        for train, test in splits
    )


def _splits(y: Int[np.ndarray, " row"], group: Int[np.ndarray, " row"], folds: int, seed: int) -> Splits:
    """Rows to train on and to test on; no group is in both, and no label is missing from the first."""
    present = np.unique(y)
    fewest = min(len(np.unique(group[y == label])) for label in present)
    if fewest < folds:
        raise InputError(
            f"A label is in {fewest} groups only, and {folds} folds are asked for: some would be trained "
            "without it. Pass more groups or fewer folds, or leave the label out."
        )
    parts = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(y[:, None], y, group))
    if any(len(np.unique(y[train])) < len(present) for train, _ in parts):
        raise InputError(
            f"With {len(np.unique(group))} groups in {folds} folds, one is trained without one of the "
            "labels. Pass more groups of fewer rows, or another seed."
        )
    return parts


def _deal(
    y: Int[np.ndarray, " row"], kind: Int[np.ndarray, " row"], rng: np.random.Generator
) -> Int[np.ndarray, " row"]:
    """A label for each type, in the proportions of ``y``: its quantiles, shuffled."""
    n_types = kind.max() + 1
    deck = np.sort(y)[((np.arange(n_types) + 0.5) * len(y) / n_types).astype(int)]
    return np.asarray(rng.permutation(deck)[kind])


def _numbered(values: Sequence[Hashable]) -> Int[np.ndarray, " row"]:
    """0, 1, 2, ... for each distinct value, in the order in which they first occur."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(value, len(number)) for value in values])


def _over_groups(
    score: Float[np.ndarray, " row"],
    group: Int[np.ndarray, " row"],
    picks: Int[np.ndarray, "draw group"],
    level: float,
) -> Interval:
    """The mean over rows, with a percentile bootstrap over groups."""
    total, count = np.bincount(group, score), np.bincount(group)
    resampled = (picks @ total) / (picks @ count)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(score.mean()), float(low), float(high), len(count), level)
