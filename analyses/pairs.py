"""Contrast pairs: built from worked solutions, or read from a file."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from analyses.tasks.problem import Problem
from analyses.tasks.sources import json_lines
from hooks.chat import Message, Prompt
from hooks.errors import InputError
from interp.pairs import Pair

Concept = Literal["verbosity", "reasoning"]

POLES: dict[Concept, tuple[str, str]] = {
    "verbosity": ("brief", "long"),
    "reasoning": ("step by step", "at once"),
}
"""What the two ends of a concept are called; the vector points to the first."""

_STYLES: dict[Concept, tuple[str, str]] = {
    "verbosity": ("brief", "long"),
    "reasoning": ("long", "direct"),
}
"""Which worked solutions stand at the two ends."""

_EXAMPLE = '{"prompt": "...", "positive": "...", "negative": "..."}'


def builtin_pairs(concept: Concept, problems: Sequence[Problem], n: int, seed: int) -> list[Pair]:
    """Pairs of worked solutions to the same problem: brief - long, or step by step - at once.

    Only the problems given are used, so pass those of the ``fit`` split. The order in which they
    come does not matter.

    Raises:
        InputError: if the concept is unknown, ``n`` is below 2, or fewer than ``n`` of the
            problems carry both solutions.
    """
    if concept not in _STYLES:
        raise InputError(
            f"There are no built-in pairs for {concept!r}. {' or '.join(map(repr, _STYLES))} would "
            "work, or a file of your own for load_pairs."
        )
    if n < 2:
        raise InputError(f"n={n} pairs were asked for; a contrast needs at least 2.")
    positive, negative = _STYLES[concept]
    usable = sorted(
        (problem for problem in problems if {positive, negative} <= set(problem.solutions)),
        key=lambda problem: (problem.prompt, problem.id),
    )
    if len(usable) < n:
        raise InputError(
            f"n={n} {concept} pairs were asked for, but {len(usable)} of the {len(problems)} "
            f"problems given carry both a {positive} and a {negative} solution. A smaller n or "
            "more problems of the source 'word-problems' would work."
        )
    return [
        Pair(problem.prompt, problem.solutions[positive], problem.solutions[negative])
        for problem in random.Random(seed).sample(usable, n)
    ]


def load_pairs(path: Path | str) -> list[Pair]:
    """Read pairs from a JSONL file of ``{"prompt"?, "positive", "negative"}``.

    The prompt is a text or a list of chat messages. The two responses are texts, or both are
    conversations: the messages with which both begin then belong to the prompt, and what remains
    is one assistant message each, the response.

    Raises:
        InputError: with the line number, if a line is not such a pair, its responses are equal or
            one is empty; or if there are fewer than 2 pairs.
    """
    path = Path(path).expanduser()
    pairs = [_pair(row, f"{path}:{number}") for number, row in json_lines(path)]
    if len(pairs) < 2:
        raise InputError(
            f"{path} holds {len(pairs)} pairs; a contrast needs at least 2, one to a line, such as {_EXAMPLE}"
        )
    return pairs


def _pair(row: Mapping[str, Any], where: str) -> Pair:
    for key in ("positive", "negative"):
        if key not in row:
            raise InputError(
                f"{where} has no {key!r}. It has {', '.join(row) or 'no keys'}; {_EXAMPLE} would work."
            )
    prompt: Prompt = row.get("prompt", "")
    if not isinstance(prompt, str):
        prompt = _messages(prompt, f"{where}: 'prompt'")
    positive, negative = row["positive"], row["negative"]
    if isinstance(positive, list) and isinstance(negative, list):
        prompt, positive, negative = _split(
            prompt,
            _messages(positive, f"{where}: 'positive'"),
            _messages(negative, f"{where}: 'negative'"),
            where,
        )
    if not isinstance(positive, str) or not isinstance(negative, str):
        raise InputError(
            f"{where} has a {type(positive).__name__} as 'positive' and a "
            f"{type(negative).__name__} as 'negative'. Two texts or two lists of messages would "
            "work."
        )
    for key, text in (("positive", positive), ("negative", negative)):
        if not text.strip():
            raise InputError(f"{where} has an empty {key!r}. A response of some text would work.")
    if positive.strip() == negative.strip():
        raise InputError(_same(where))
    return Pair(prompt, positive, negative)


def _same(where: str) -> str:
    return (
        f"{where} has the same text as 'positive' and 'negative', so there is no contrast. "
        "Two that differ in the concept would work."
    )


def _messages(value: object, where: str) -> list[Message]:
    """Check that this is a list of chat messages."""
    if not isinstance(value, list):
        raise InputError(
            f"{where} is a {type(value).__name__}. A text or a list of chat messages would work."
        )
    for message in value:
        good = (
            isinstance(message, dict)
            and message.get("role") in ("system", "user", "assistant")
            and isinstance(message.get("content"), str)
        )
        if not good:
            raise InputError(
                f"{where} holds {json.dumps(message)[:80]}, which is no chat message. "
                '{"role": "user", "content": "..."} would work, and so would the roles system and '
                "assistant."
            )
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _split(
    prompt: Prompt, positive: list[Message], negative: list[Message], where: str
) -> tuple[Prompt, str, str]:
    """Part two conversations into what they share and the one answer in which they differ."""
    if positive == negative:
        raise InputError(_same(where))
    shared = 0
    while shared < min(len(positive), len(negative)) and positive[shared] == negative[shared]:
        shared += 1
    for key, messages in (("positive", positive), ("negative", negative)):
        rest = [message["role"] for message in messages[shared:]]
        if rest != ["assistant"]:
            raise InputError(
                f"{where}: after the {shared} messages that both sides share, {key!r} goes on with "
                f"{', '.join(rest) or 'nothing'}. The same messages on both sides and then one "
                "assistant message each, with different texts, would work."
            )
    before: list[Message] = list(_turns(prompt))
    repeated = positive[: len(before)] == before  # conversations that begin with the prompt
    before = positive[:shared] if repeated else before + positive[:shared]
    return before or "", positive[-1]["content"], negative[-1]["content"]


def _turns(prompt: Prompt) -> Sequence[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if prompt.strip() else []
    return prompt
