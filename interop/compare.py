"""How far apart are two programs' logits on the same tokens, and is a misplaced vector farther?

For every position, with p our next-token distribution and q theirs,

    KL(p || q) = sum_t p(t) (log p(t) - log q(t))      nats,

and beside it the largest differences of a log-probability, over the tokens that we find likely, and of a
logit. Computed in float64 from the float32 logits of both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from jaxtyping import Float

FLOOR = 1e-3
"""Log-probabilities are compared for the tokens that are at least this likely to us."""

ROUNDING = 1e-9
"""Nats. Below this mean KL two programs differ by float32 rounding, whatever the yardstick."""

WITHIN = 2.0
"""The steered difference may be this many times the unsteered one: an edit changes what is unsure."""

APART = 3.0
"""A misplaced vector is told apart where its KL is this many times that of the right one."""

ROWS = 16
"""Positions in float64 at a time: the rest stays in the files that the logits come from."""


@dataclass(frozen=True)
class Difference:
    """What lies between our logits and another program's."""

    kl: float
    """Mean over positions, nats."""

    kl_max: float
    kl_of_prompts: tuple[float, ...]
    """Mean over the positions of each prompt."""

    logprob_mean: float
    """Mean absolute difference over tokens with p >= FLOOR."""

    logprob_max: float
    logit_max: float
    """Over all tokens at all positions."""

    top1: float
    """Share of positions where both find the same token likeliest."""

    positions: int
    tokens: int
    """Cells with p >= FLOOR."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Difference":
        return cls(**{**value, "kl_of_prompts": tuple(value["kl_of_prompts"])})

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def difference(
    ours: Float[np.ndarray, "pos d_vocab"], theirs: Float[np.ndarray, "pos d_vocab"], lengths: Sequence[int]
) -> Difference:
    """Compare logits position by position.

    Args:
        lengths: Positions of each prompt, in the order in which they follow each other.

    Raises:
        ValueError: if the shapes differ, the lengths do not add up, or a logit is not finite.
    """
    if ours.shape != theirs.shape or sum(lengths) != len(ours) or not all(lengths):
        raise ValueError(
            f"Logits of shape {ours.shape} and {theirs.shape} for prompts of {list(lengths)} positions."
        )
    kl, same, likely, logit = np.empty(len(ours)), np.empty(len(ours), dtype=bool), [], 0.0
    for start in range(0, len(ours), ROWS):
        here = slice(start, start + ROWS)
        a, b = ours[here].astype(np.float64), theirs[here].astype(np.float64)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError(f"Logits that are no numbers at positions {start} to {start + len(a) - 1}.")
        log_p, log_q = _log_softmax(a), _log_softmax(b)
        kl[here] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
        same[here] = a.argmax(axis=1) == b.argmax(axis=1)
        likely.append(np.abs(log_p - log_q)[log_p >= np.log(FLOOR)])
        logit = max(logit, float(np.abs(a - b).max()))
    logprobs = np.concatenate(likely)
    return Difference(
        kl=float(kl.mean()),
        kl_max=float(kl.max()),
        kl_of_prompts=tuple(float(part.mean()) for part in np.split(kl, np.cumsum(lengths)[:-1])),
        logprob_mean=float(logprobs.mean()),
        logprob_max=float(logprobs.max()),
        logit_max=logit,
        top1=float(same.mean()),
        positions=len(kl),
        tokens=len(logprobs),
    )


def _log_softmax(x: Float[np.ndarray, "pos d_vocab"]) -> Float[np.ndarray, "pos d_vocab"]:
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def common_prefix(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two continuations share from their beginning."""
    return sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(ours, theirs, strict=False)))


@dataclass(frozen=True)
class Verdict:
    """What one dose shows of one program."""

    within: bool
    """The vector at its own layer is no farther from ours than the unsteered programs are."""

    apart: Mapping[str, bool]
    """Whether each misplaced vector is farther than the right one: in every prompt, and APART times over."""


def judge(unsteered: Difference, right: Difference, misplaced: Mapping[str, Difference]) -> Verdict:
    """Hold the steered difference to the unsteered one, and the misplaced ones to the steered."""
    bound = max(right.kl, ROUNDING)
    return Verdict(
        within=right.kl <= WITHIN * max(unsteered.kl, ROUNDING),
        apart={
            name: wrong.kl >= APART * bound
            and all(w > r for w, r in zip(wrong.kl_of_prompts, right.kl_of_prompts, strict=True))
            for name, wrong in misplaced.items()
        },
    )


def holds(verdicts: Mapping[float, Verdict], *, exact: bool) -> bool:
    """The criterion of one program over all doses.

    Args:
        exact: The program computes with the same float32 weights, so every misplacement must show at every
            dose. Else quantised arithmetic may hide one at a small dose, and it must show at one or more.
    """
    named = {name for verdict in verdicts.values() for name in verdict.apart}
    enough = all if exact else any
    return (
        bool(named)
        and all(verdict.within for verdict in verdicts.values())
        and all(
            enough(verdict.apart[name] for verdict in verdicts.values() if name in verdict.apart)
            for name in named
        )
    )
