"""What is on screen, as a value: a prompt, what is added to the model, how tokens are drawn; all in bounds.

A state comes from a form, a link or a file, so nothing of it is believed: every field has a kind and a bound.
"""

import math
import re
from dataclasses import dataclass

from hooks.errors import InputError
from hooks.positions import Positions, parse_positions
from hooks.sampling import Sampling

MAX_PROMPT, MAX_SYSTEM, MAX_POSITIONS, MAX_NAME = 8000, 4000, 200, 120
"""Characters of the prompt, the system prompt, the positions, and the name of a vector or a dictionary."""

MAX_EDITS = 4
MAX_DOSE = 1.5
MAX_VALUE = 10_000.0
MAX_NEW_TOKENS = 1024
MAX_TEMPERATURE = 2.0
MAX_SEED = 2**31 - 1
MAX_LAYER, MAX_LATENT = 9999, 10**7

_LONG_NUMBER = re.compile(r"\d{7}")


@dataclass(frozen=True, kw_only=True)
class VectorEdit:
    """A steering vector, added at one layer."""

    vector: str
    """The name that the page gives it."""

    layer: int
    dose: float
    """Fraction of the median residual norm there; below zero toward the second pole."""

    on: bool = True

    def __post_init__(self) -> None:
        _check_text("the name of a vector", self.vector, MAX_NAME)
        _check_number("layer", self.layer, -MAX_LAYER, MAX_LAYER)
        _check_number("dose", self.dose, -MAX_DOSE, MAX_DOSE)


@dataclass(frozen=True, kw_only=True)
class LatentEdit:
    """A latent of a dictionary, held at a value."""

    dictionary: str
    """The name that the page gives it."""

    latent: int
    value: float
    """What the latent is set to, in its own units; 0 ablates it."""

    on: bool = True

    def __post_init__(self) -> None:
        _check_text("the name of a dictionary", self.dictionary, MAX_NAME)
        _check_number("latent", self.latent, 0, MAX_LATENT)
        _check_number("value", self.value, -MAX_VALUE, MAX_VALUE)


AnyEdit = VectorEdit | LatentEdit


@dataclass(frozen=True, kw_only=True)
class State:
    """All that decides what the two columns say. One that exists is in bounds."""

    prompt: str
    edits: tuple[AnyEdit, ...] = ()
    positions: str = "generated"
    """As :func:`hooks.positions.parse_positions` reads it; of every edit."""

    system: str = ""
    think: bool | None = None
    """None leaves the template's default."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        _check_text("the prompt", self.prompt, MAX_PROMPT, empty=True)
        _check_text("the system prompt", self.system, MAX_SYSTEM, empty=True)
        if len(self.edits) > MAX_EDITS:
            raise InputError(f"{len(self.edits)} edits; this page takes up to {MAX_EDITS} at once.")
        _check_number("temperature", self.temperature, 0, MAX_TEMPERATURE)
        _check_number("seed", self.seed, 0, MAX_SEED)
        _check_number("max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        _ = self.selection, self.sampling

    @property
    def on(self) -> tuple[AnyEdit, ...]:
        """The edits that are switched on."""
        return tuple(edit for edit in self.edits if edit.on)

    @property
    def selection(self) -> Positions:
        _check_text("positions", self.positions, MAX_POSITIONS)
        if not self.positions.isprintable() or _LONG_NUMBER.search(self.positions):
            raise InputError(
                f"Cannot read {self.positions[:60]!r} as positions: see `generated` or steps(0, 8)."
            )
        return parse_positions(self.positions)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.seed)


def _check_text(what: str, text: str, most: int, *, empty: bool = False) -> None:
    if len(text) > most or not (text or empty):
        size = f"{len(text)} characters long" if text else "empty"
        raise InputError(f"{what[0].upper()}{what[1:]} is {size}; this page takes 1 to {most} characters.")
    if re.search(r"[\ud800-\udfff]", text):
        raise InputError(f"{what[0].upper()}{what[1:]} has half a character in it; write it again.")


def _check_number(what: str, number: int | float, low: int | float, high: int | float) -> None:
    if not (math.isfinite(number) and low <= number <= high):
        raise InputError(f"{what}={number}: this page takes {low:g} to {high:g}.")
