"""The columns of the comparison: what each key opens, what it costs, and what is left at equal cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from analyses.elicit.decodings import Path, voted
from analyses.elicit.replies import paths_of
from analyses.run_folder import Record, known
from interp.stats import (
    gap_recovered,
    holm,
    mcnemar,
    mean_interval,
    minimum_detectable_difference,
    paired_bootstrap,
    wilson,
)

VOTERS = ("self-consistency", "cot+self-consistency")
"""What a key is compared with at as many tokens: votes of samples, of which it can buy so many."""


@dataclass(frozen=True)
class Opened:
    """What a key came to on some problems, in aligned columns."""

    paths: tuple[tuple[Path, ...], ...]
    correct: Bool[np.ndarray, " problem"]
    prompt_tokens: Float[np.ndarray, " problem"]
    reading: str | None
    """Which way of reading the answer counts, where there are several."""

    @staticmethod
    def of(records: Sequence[Record]) -> "Opened":
        """Of several readings the one by which most are right."""
        paths = tuple(tuple(paths_of(record)) for record in records)
        correct = np.array([_right(of) for of in paths], dtype=bool)
        reading = None
        if records and "readings" in records[0]:
            by_name = {
                name: np.array([r["readings"][name] for r in records], dtype=bool)
                for name in records[0]["readings"]
            }
            reading = max(by_name, key=lambda name: int(by_name[name].sum()))
            correct = by_name[reading]
        prompt = np.array([record["prompt_tokens"] for record in records], dtype=float)
        return Opened(paths, correct, prompt, reading)

    @property
    def tokens(self) -> Float[np.ndarray, " problem"]:
        """Generated tokens of all paths."""
        return np.array([sum(path.tokens for path in of) for of in self.paths], dtype=float)

    def within(self, budget: int) -> Bool[np.ndarray, " problem"]:
        """What would be right if no more than so many tokens were paid for; the paths that fit in vote."""
        afforded = [
            tuple(
                p for p, so_far in zip(of, accumulate(p.tokens for p in of), strict=True) if so_far <= budget
            )
            for of in self.paths
        ]
        kept = np.array([len(some) == len(of) for some, of in zip(afforded, self.paths, strict=True)])
        return np.where(kept, self.correct, np.array([_right(some) for some in afforded], dtype=bool))

    def first(self, n: int) -> Bool[np.ndarray, " problem"]:
        """What is right if the first ``n`` paths vote."""
        return np.array([_right(of[:n]) for of in self.paths], dtype=bool)


def _right(paths: Sequence[Path]) -> bool:
    spoken = voted(paths)
    return spoken is not None and spoken.correct


def table(
    opened: Mapping[str, Opened],
    ids: Sequence[str],
    *,
    reference: str,
    tuned: str | None,
    budget: int,
    seed: int,
) -> dict[str, Any]:
    """All columns of all keys, on one set of problems.

    Args:
        reference: The key that gains are measured from.
        tuned: The key that the gap is measured to.
    """
    base, n = opened[reference], len(ids)
    right: np.ndarray = np.stack([of.correct for of in opened.values()])
    others = [name for name in opened if name != reference]
    p = {name: mcnemar(opened[name].correct, base.correct).p_value for name in others}
    adjusted = dict(zip(others, holm(np.array([p[name] for name in others])), strict=True)) if others else {}
    rows = {}
    for place, (name, of) in enumerate(opened.items()):
        only: np.ndarray = right[place] & ~np.delete(right, place, axis=0).any(0)
        within = of.within(budget)
        share = None
        if tuned is not None and name not in (tuned, reference):
            share = gap_recovered(of.correct, base.correct, opened[tuned].correct, seed=seed)
        rows[name] = {
            "n": n,
            "accuracy": wilson(int(of.correct.sum()), n).as_dict(),
            "reading": of.reading,
            "tokens": mean_interval(of.tokens, seed=seed).as_dict(),
            "prompt_tokens": float(of.prompt_tokens.mean()),
            "truncated": float(np.mean([path.truncated for paths in of.paths for path in paths])),
            "paths": float(np.mean([len(paths) for paths in of.paths])),
            "within_budget": wilson(int(within.sum()), n).as_dict(),
            "any_path": wilson(sum(any(p.correct for p in paths) for paths in of.paths), n).as_dict(),
            "gain": None
            if name == reference
            else paired_bootstrap(of.correct, base.correct, seed=seed).as_dict(),
            "p": p.get(name),
            "p_holm": float(adjusted[name]) if name in adjusted else None,
            "against_votes": _against_votes(name, of, opened, seed),
            "gap_share": None if share is None else share.as_dict(),
            "only": [problem for problem, yes in zip(ids, only, strict=True) if yes],
        }
    none = np.logical_not(right.any(0))
    detectable = minimum_detectable_difference(n, p=float(np.clip(base.correct.mean(), 0.02, 0.98)))
    return {
        "n": n,
        "keys": rows,
        "none": [problem for problem, yes in zip(ids, none, strict=True) if yes],
        "any_key": wilson(int((~none).sum()), n).as_dict(),
        "gap": None
        if tuned is None
        else paired_bootstrap(opened[tuned].correct, base.correct, seed=seed).as_dict(),
        "detectable": known(detectable),
        "opened": {name: "".join("1" if x else "0" for x in of.correct) for name, of in opened.items()},
        "problems": list(ids),
    }


def _against_votes(name: str, of: Opened, opened: Mapping[str, Opened], seed: int) -> dict[str, Any] | None:
    """The key less the vote of as many samples as its tokens would buy; None where there are no votes.

    ``samples`` is that number, of those that were drawn: at least one, at most all.
    """
    voters = [voter for voter in VOTERS if voter in opened and voter != name]
    if not voters or name in VOTERS:
        return None
    votes = opened[voters[0]]
    drawn = len(votes.paths[0])
    each = votes.tokens.mean() / drawn
    samples = int(np.clip(round(of.tokens.mean() / each), 1, drawn)) if each else drawn
    difference = paired_bootstrap(of.correct, votes.first(samples), seed=seed)
    return {"voter": voters[0], "samples": samples, **difference.as_dict()}
