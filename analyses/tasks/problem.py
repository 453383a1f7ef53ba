"""A problem: a prompt, the answer that is right, and the split its text falls into."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hooks.errors import InputError

Split = Literal["fit", "select", "confirm"]
"""``fit`` estimates a direction, ``select`` chooses its layer and dose, ``confirm`` scores it."""

SHARES = (0.4, 0.2, 0.4)
"""Of ``fit``, ``select`` and ``confirm``."""


@dataclass(frozen=True)
class Problem:
    """One question with one right answer."""

    id: str
    """Unique within its source."""

    prompt: str
    """The question as the model reads it, without instructions or a chat template."""

    answer: str
    """The gold answer alone: ``"18"``, not the working that leads there."""

    source: str
    """What it was loaded from, as it was asked for."""

    level: str = ""
    """The source's own difficulty; empty where it has none."""

    solutions: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Worked solutions by style, ``long``, ``brief`` and ``direct``, where the source has them."""

    verifier: str = field(default="answer", repr=False)
    """Which of ``analyses.tasks.judge.VERIFIERS`` reads a response; "answer" compares the stated answer."""

    facts: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """What that verifier needs to know beside the answer, in plain types."""

    def asked(self, instruction: str = "") -> str:
        """The prompt, with an instruction after a blank line; as it stands where that is empty."""
        return f"{self.prompt}\n\n{instruction}" if instruction else self.prompt


def split_of(problem: Problem, shares: tuple[float, float, float] = SHARES, salt: str = "") -> Split:
    """The split a problem belongs to, read off a SHA-256 of its prompt.

    Neither the id, the position nor the rest of the set has a say, so a duplicate always lands
    beside its twin, and a problem stays where it is when the set grows. Case and white space do
    not count.

    Args:
        shares: Of ``fit``, ``select`` and ``confirm``; they sum to 1.
        salt: Another salt makes another, independent partition.

    Raises:
        InputError: if the shares are negative or do not sum to 1.
    """
    if any(not 0 <= share <= 1 for share in shares) or not math.isclose(sum(shares), 1):
        raise InputError(
            f"shares={shares} cannot split problems. Shares of fit, select and confirm lie in 0..1 "
            f"and sum to 1; {SHARES} would work."
        )
    text = " ".join(problem.prompt.split()).casefold()
    digest = hashlib.sha256(f"{salt}\0{text}".encode()).digest()
    place = int.from_bytes(digest[:6], "big") / 2**48  # uniform in [0, 1)
    if place < shares[0]:
        return "fit"
    return "select" if place < shares[0] + shares[1] else "confirm"


def by_split(
    problems: Sequence[Problem],
    shares: tuple[float, float, float] = SHARES,
    salt: str = "",
) -> dict[Split, list[Problem]]:
    """The problems of each split, in the order given; every split is a key, even an empty one."""
    splits: dict[Split, list[Problem]] = {"fit": [], "select": [], "confirm": []}
    for problem in problems:
        splits[split_of(problem, shares, salt)].append(problem)
    return splits
