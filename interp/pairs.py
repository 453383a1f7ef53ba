"""A contrast pair: one prompt and two responses that differ in the concept, or two prompts that do."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from hooks.chat import Prompt, prompt_row, response_row
from hooks.rows import Row


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt. A contrast vector points from ``negative`` to ``positive``."""

    prompt: Prompt
    """What both responses answer; empty for two bare texts."""

    positive: str
    """The response at the first pole."""

    negative: str
    """The response at the second pole."""

    def rows(self, tokenizer: PreTrainedTokenizerBase) -> tuple[Row, Row]:
        """What the model reads, the first pole before the second."""
        positive, negative = (
            response_row(tokenizer, self.prompt, text) for text in (self.positive, self.negative)
        )
        return positive, negative


@dataclass(frozen=True)
class AskedPair:
    """Two prompts, read up to where the response begins."""

    positive: str
    """The prompt at the first pole."""

    negative: str
    """The prompt at the second pole."""

    def rows(self, tokenizer: PreTrainedTokenizerBase) -> tuple[Row, Row]:
        """As of :class:`Pair`: what both begin with counts as the prompt, and the rest as the response."""
        positive, negative = (prompt_row(tokenizer, text).tokens for text in (self.positive, self.negative))
        alike = takewhile(lambda two: two[0] == two[1], zip(positive, negative, strict=False))
        same = sum(1 for _ in alike)
        shared = max(1, min(same, len(positive) - 1, len(negative) - 1))
        return Row(positive, shared), Row(negative, shared)


def pairs_hash(pairs: Sequence[Pair | AskedPair]) -> str:
    """SHA-256, in hexadecimal, of the pairs as canonical JSON; it depends on their order."""
    table = [
        [_plain(pair.prompt) if isinstance(pair, Pair) else None, pair.positive, pair.negative]
        for pair in pairs
    ]
    text = json.dumps(table, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(prompt: Prompt) -> str | list[dict[str, str]]:
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
