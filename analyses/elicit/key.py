"""A key: what is done to the prompt, inside the model, or to the choice of tokens, so that it may reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from analyses.configs import ElicitConfig
from analyses.elicit.decodings import Decoding
from analyses.tasks import Problem
from hooks import LanguageModel
from hooks.chat import Prompt
from hooks.edits import Edit
from hooks.errors import InputError


@runtime_checkable
class Writes(Protocol):
    """How a problem is put to the model."""

    def __call__(self, problem: Problem) -> Prompt: ...


@dataclass(frozen=True)
class Suffix:
    """The problem, and an instruction after it; alone where the instruction is empty."""

    text: str = ""

    def __call__(self, problem: Problem) -> Prompt:
        return problem.asked(self.text)


@dataclass(frozen=True)
class Key:
    """What is done; a part that is None is left to another key, or to the problem alone, greedily."""

    name: str
    says: str
    """What it does, in a few words."""

    prompt: Writes | None = None
    edits: tuple[Edit, ...] = ()
    decoding: Decoding | None = None
    tuned: bool = False
    """Tried on the tuned model."""

    controls: Mapping[str, tuple[Edit, ...]] = field(default_factory=dict, hash=False)
    """The same with edits that mean nothing: random directions, matched random latents."""

    chosen: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What was fitted on fit problems or chosen on select problems, in plain types."""

    def __add__(self, other: "Key") -> "Key":
        """Both at once.

        Raises:
            InputError: if both set the same part, or edits of one model meet another.
        """
        for part in ("prompt", "edits", "decoding"):
            if getattr(self, part) and getattr(other, part):
                raise InputError(
                    f"{self.name!r} and {other.name!r} both set the {part}; combine keys that set different "
                    "parts, such as a prompt with a vector or a decoding."
                )
        if (self.tuned or other.tuned) and (self.edits or other.edits):
            raise InputError(f"{self.name}+{other.name}: the edits were made for the base model.")
        return Key(
            f"{self.name}+{other.name}",
            f"{self.says}; {other.says}",
            self.prompt or other.prompt,
            self.edits or other.edits,
            self.decoding or other.decoding,
            self.tuned or other.tuned,
        )


@runtime_checkable
class Bench(Protocol):
    """What a key may be made from: fit problems to estimate with, select problems to choose by."""

    @property
    def config(self) -> ElicitConfig: ...
    @property
    def lm(self) -> LanguageModel: ...
    @property
    def fit(self) -> Sequence[Problem]: ...

    def select(self, candidates: Sequence[Key]) -> Mapping[str, Bool[np.ndarray, " problem"]]:
        """Which select problems each candidate opens, by its name."""
        ...


class Maker(NamedTuple):
    """How a key is made."""

    make: Callable[[Bench], Key]
    needs: str = ""
    """The setting without which there is no such key."""


def best(bench: Bench, candidates: Sequence[Key]) -> tuple[Key, list[dict[str, Any]]]:
    """The candidate that opens most select problems, the first of equals, and what each opens."""
    opened = bench.select(candidates)
    table = [{"candidate": c.name, **c.chosen, "opened": int(opened[c.name].sum())} for c in candidates]
    return max(candidates, key=lambda c: int(opened[c.name].sum())), table


def combined(name: str, made: Mapping[str, Key]) -> Key:
    """The key of a name such as ``cot+vector``."""
    return reduce(lambda a, b: a + b, (made[part] for part in name.split("+")))
