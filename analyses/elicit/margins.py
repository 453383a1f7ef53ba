"""Does the margin of CoT-decoding tell right paths from wrong ones, and better than what is simpler?

    delta      the mean margin over the tokens of the answer, which is the method
    margin     the same over all tokens of the path: what it is often taken for
    logprob    the mean log-probability of the tokens
    first      how early the path's first token ranks: greedy decoding takes the first
    random     numbers of chance

Of each the AUROC for "this path is right": over all paths, and within problems, the mean over those that
have right paths and wrong ones, where no problem's difficulty can help. Intervals are bootstraps over
problems.

Source: Wang and Zhou 2024, arXiv:2402.10200, whose margin it is.
Differs from the source: AUROC, the simpler scores, and within problems.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from analyses.elicit.decodings import Path, voted
from interp.stats import Interval, mean_interval, wilson

N_RESAMPLES = 2000


def margins(replies: Sequence[Sequence[Path]], *, seed: int = 0) -> dict[str, Any]:
    """AUROC of every score, and what each way of choosing a path solves.

    Args:
        replies: The paths of each problem, those of the likeliest first tokens first.
    """
    right = [np.array([path.correct for path in paths]) for paths in replies]
    rng = np.random.default_rng(seed)
    scores = {
        "delta": [np.array([path.weight for path in paths]) for paths in replies],
        "margin": [np.array([path.mean_margin for path in paths], dtype=float) for paths in replies],
        "logprob": [np.array([path.mean_logprob for path in paths], dtype=float) for paths in replies],
        "first": [-np.arange(len(paths), dtype=float) for paths in replies],
        "random": [rng.random(len(paths)) for paths in replies],
    }
    mixed = [place for place, of in enumerate(right) if of.any() and not of.all()]
    return {
        "n": len(replies),
        "paths": sum(len(of) for of in right),
        "right": int(sum(of.sum() for of in right)),
        "mixed": len(mixed),
        "pooled": {name: _pooled(right, of, seed) for name, of in scores.items()},
        "within": {
            name: mean_interval(
                np.array([_auroc(right[place], of[place]) for place in mixed]), seed=seed
            ).as_dict()
            if mixed
            else None
            for name, of in scores.items()
        },
        "chosen": _chosen(replies, seed),
    }


def _pooled(
    right: Sequence[Bool[np.ndarray, " path"]], score: Sequence[Float[np.ndarray, " path"]], seed: int
) -> dict[str, Any] | None:
    """Over all paths; None where all are right or none is."""
    everyone = np.concatenate(right)
    if everyone.all() or not everyone.any():
        return None
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(N_RESAMPLES):
        pick = rng.integers(0, len(right), len(right))
        truth = np.concatenate([right[i] for i in pick])
        if truth.any() and not truth.all():
            drawn.append(_auroc(truth, np.concatenate([score[i] for i in pick])))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(_auroc(everyone, np.concatenate(score)), float(low), float(high), len(right)).as_dict()


def _auroc(right: Bool[np.ndarray, " path"], score: Float[np.ndarray, " path"]) -> float:
    """The share of pairs, a right path and a wrong one, where the right one is higher; ties count half."""
    n = int(right.sum())
    return float((rankdata(score)[right].sum() - n * (n + 1) / 2) / (n * (len(right) - n)))


def _chosen(replies: Sequence[Sequence[Path]], seed: int) -> Mapping[str, Any]:
    """The share of problems solved by the first path, the surest, the vote, any, and one of chance."""
    n = len(replies)

    def share(solved: Sequence[bool]) -> dict[str, Any]:
        return wilson(sum(solved), n).as_dict()

    stated = [[path for path in paths if path.stated is not None] or list(paths[:1]) for paths in replies]
    spoken = [voted(paths) for paths in replies]
    return {
        "greedy": share([paths[0].correct for paths in replies]),
        "largest delta": share([max(of, key=lambda path: path.weight).correct for of in stated]),
        "sum of delta": share([path is not None and path.correct for path in spoken]),
        "any path": share([any(path.correct for path in paths) for paths in replies]),
        "a random path": mean_interval(
            np.array([np.mean([path.correct for path in paths]) for paths in replies]), seed=seed
        ).as_dict(),
    }
