"""A contrast pair: one prompt, two responses that differ in the concept."""

from dataclasses import dataclass

from hooks.chat import Prompt


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt. A contrast vector points from ``negative`` to ``positive``."""

    prompt: Prompt
    """What both responses answer; empty for two bare texts."""

    positive: str
    """The response at the first pole."""

    negative: str
    """The response at the second pole."""
