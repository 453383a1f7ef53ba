"""The inputs that the benchmarks share: built-in problems as token rows, and pairs of them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from analyses.pairs import builtin_pairs
from analyses.tasks import word_problems
from hooks import LanguageModel
from hooks.chat import prompt_row, response_row
from hooks.errors import InputError
from hooks.positions import last
from hooks.rows import Batch, Row, pad_left
from interp import Pair, SteeringVector, contrast

Item = TypeVar("Item")


def mixed_rows(lm: LanguageModel, n: int) -> list[Row]:
    """Problems with a brief and a long solution in turn: rows of mixed length."""
    return [
        response_row(lm.tokenizer, p.prompt, p.solutions["long" if i % 2 else "brief"])
        for i, p in enumerate(word_problems(n))
    ]


def equal_prompts(lm: LanguageModel, n: int) -> list[Row]:
    """Prompts of one length, so that a library which cannot pad runs the same batch."""
    by_length: dict[int, list[Row]] = defaultdict(list)
    for problem in word_problems():
        row = prompt_row(lm.tokenizer, problem.prompt)
        by_length[len(row.tokens)].append(row)
    most = max(by_length.values(), key=len)
    if len(most) < n:
        raise InputError(
            f"{n} prompts of one length were asked for; this tokenizer makes {len(most)} of them."
        )
    return most[:n]


def whole_batch(lm: LanguageModel, rows: Sequence[Row]) -> Batch:
    """All rows in one batch."""
    return pad_left(rows, range(len(rows)), pad_id=lm.pad_id, device=lm.device)


def pairs_of_solutions(n: int) -> list[Pair]:
    """Brief and long solutions of the same problems."""
    return builtin_pairs("verbosity", word_problems(), n, 0)


def a_vector(lm: LanguageModel) -> SteeringVector:
    """A contrast vector at every layer, quickly made."""
    return contrast(lm, pairs_of_solutions(4), read=last(1), n_null=0)


def evenly(items: Sequence[Item], n: int) -> list[Item]:
    """``n`` of the items, evenly spread from the first to the last; all of them if there are fewer."""
    if n >= len(items):
        return list(items)
    if n == 1:
        return [items[len(items) // 2]]
    return [items[round(i * (len(items) - 1) / (n - 1))] for i in range(n)]


def small_vector(lm: LanguageModel, seed: int = 0) -> torch.Tensor:
    """A random vector so short that adding it leaves the completions, and so the work, as they were."""
    noise = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(seed))
    return (1e-4 * noise).to(lm.device, lm.dtype)


def endless(lm: LanguageModel) -> LanguageModel:
    """The same model, for which no token ends a response: every row makes its whole budget."""
    same = replace(lm)
    vars(same)["stop_ids"] = frozenset()
    return same


def text_rows(lm: LanguageModel, rows: int, tokens: int) -> list[Row]:
    """Different stretches of one text, each of so many tokens."""
    text = "\n".join(p.solutions["long"] for p in word_problems(96))
    ids = tuple(int(i) for i in lm.tokenizer(text, add_special_tokens=False).input_ids)
    ids *= 1 + (tokens + rows) // len(ids)
    return [Row(ids[start : start + tokens], tokens) for start in range(rows)]
