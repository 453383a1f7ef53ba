"""A contrast pair: one prompt, two responses that differ in the concept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Message = Mapping[str, str]
"""``{"role": "user" | "assistant" | "system", "content": text}``."""

Prompt = str | Sequence[Message]
"""A text, rendered as one user turn where the model has a chat template; or the turns themselves."""


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt. A contrast vector points from ``negative`` to ``positive``."""

    prompt: Prompt
    """What both responses answer; empty for two bare texts."""

    positive: str
    """The response at the first pole."""

    negative: str
    """The response at the second pole."""
