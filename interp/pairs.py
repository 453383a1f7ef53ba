"""A contrast pair: one prompt, two responses that differ in the concept."""

import hashlib
import json
from collections.abc import Sequence
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


def pairs_hash(pairs: Sequence[Pair]) -> str:
    """SHA-256, in hexadecimal, of the pairs as canonical JSON; it depends on their order."""
    table = [[_plain(pair.prompt), pair.positive, pair.negative] for pair in pairs]
    text = json.dumps(table, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(prompt: Prompt) -> str | list[dict[str, str]]:
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
