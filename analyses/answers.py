"""Put problems to a model under many conditions, and score what comes back.

A condition is what is done to the model or to the prompt. Rows of different conditions share a
batch, each with its own edits, and every edited row is held against its receipt.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from analyses.progress import Stage
from analyses.run_folder import Record, RunFolder
from analyses.tasks import Problem, judge
from analyses.work import Work, record
from analyses.workers import Progress, Workers
from hooks.edits import Edit
from hooks.generate import generate
from hooks.language_model import LanguageModel
from hooks.positions import Positions
from hooks.receipts import Receipt
from hooks.sites import Site


@dataclass(frozen=True)
class Condition:
    """What is done before a problem is answered."""

    name: str
    edits: tuple[Edit, ...] = ()
    suffix: str = ""
    """Added to the problem's text."""


@dataclass(frozen=True)
class Scores:
    """The answers to some problems under one condition, in aligned columns."""

    correct: Bool[np.ndarray, " problems"]
    tokens: Float[np.ndarray, " problems"]
    """Generated tokens, the end of turn included."""

    truncated: Bool[np.ndarray, " problems"]
    failed: Bool[np.ndarray, " problems"]
    """The model's numbers were lost on the way; counted as wrong, with the tokens before."""

    repetition: Float[np.ndarray, " problems"]

    @staticmethod
    def of(records: Sequence[Record]) -> "Scores":
        return Scores(
            correct=np.array([r["correct"] for r in records], dtype=bool),
            tokens=np.array([r["tokens"] for r in records], dtype=float),
            truncated=np.array([r["finish"] == "length" for r in records], dtype=bool),
            failed=np.array([r["finish"] == "nan" for r in records], dtype=bool),
            repetition=np.array([r["repetition"] for r in records], dtype=float),
        )

    def first(self, n: int) -> "Scores":
        """The same of the first ``n`` problems."""
        return Scores(*(column[:n] for column in vars(self).values()))


Block = tuple[Sequence[Condition], Sequence[Problem]]
"""Conditions, and the problems that are answered under each of them."""


@dataclass(frozen=True)
class Answers:
    """One chunk of work: each problem under the condition beside it."""

    conditions: tuple[Condition, ...]
    problems: tuple[Problem, ...]
    max_new_tokens: int
    think: bool | None

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """The fields of each answer's record."""
        pairs = list(zip(self.conditions, self.problems, strict=True))
        made = generate(
            lm,
            [problem.prompt + condition.suffix for condition, problem in pairs],
            edits=[list(condition.edits) for condition in self.conditions],
            max_new_tokens=self.max_new_tokens,
            think=self.think,
            max_rows=len(pairs),
            on_tokens=on_tokens,
        )
        for row, condition in enumerate(self.conditions):
            _check(made.receipt.of_rows(range(row, row + 1)), lm, condition.edits)
        written = Counter(made.receipt.row.tolist())
        fields = []
        for row, (problem, completion) in enumerate(zip(self.problems, made, strict=True)):
            verdict = judge(problem, completion.text)
            fields.append(
                {
                    "correct": verdict.correct and completion.finish != "nan",
                    "stated": verdict.stated,
                    "rule": verdict.rule,
                    "tokens": len(completion.tokens),
                    "first_token": completion.tokens[0] if completion.tokens else None,
                    "words": len(completion.text.split()),
                    "seconds": round(completion.seconds, 4),
                    "finish": completion.finish,
                    "repetition": round(repetition(completion.tokens), 4),
                    "written": written[row],
                    "text": completion.text,
                    **({"halvings": made.halvings} if made.halvings else {}),
                    **({"receipt": made.receipt.of_row(row)} if completion.finish == "nan" else {}),
                }
            )
        return fields


def _check(receipt: Receipt, lm: LanguageModel, edits: Sequence[Edit]) -> None:
    """Hold the receipt of one row against its edits."""
    wanted: dict[Site, Positions] = {}
    for edit in edits:
        site = lm.anatomy.resolve(edit.site)
        wanted[site] = wanted[site] | edit.positions if site in wanted else edit.positions
    assert wanted.keys() >= set(receipt.sites), (receipt.sites, list(wanted))
    for site, positions in wanted.items():
        mine = receipt.of_site(site) if site in receipt.sites else receipt
        mine.check(positions, rows=[0], sites=[site])


def answers(
    run: RunFolder,
    workers: Workers,
    blocks: Sequence[Block],
    *,
    max_new_tokens: int,
    think: bool | None,
    chunk: int,
    stage: Stage,
) -> list[dict[str, Scores]]:
    """The scores of each block, by condition; what is on disk already is not run again.

    Blocks share batches. Within one the work goes problem by problem, so that a run cut short has
    whole problems, each under every condition.
    """
    by_name = {condition.name: condition for conditions, _ in blocks for condition in conditions}
    by_id = {problem.id: problem for _, problems in blocks for problem in problems}
    work = [
        (condition.name, problem.id)
        for conditions, problems in blocks
        for problem in problems
        for condition in conditions
    ]
    todo: list[Work] = [
        (
            part,
            Answers(
                tuple(by_name[name] for name, _ in part),
                tuple(by_id[item] for _, item in part),
                max_new_tokens,
                think,
            ),
        )
        for part in run.missing(work, chunk=chunk)
    ]
    record(todo, workers, run, stage)
    return [
        {c.name: Scores.of([run.get(c.name, problem.id) for problem in problems]) for c in conditions}
        for conditions, problems in blocks
    ]


def repetition(tokens: Sequence[int], n: int = 4) -> float:
    """Share of the n-grams of a response that occurred in it before; 0 for a short one."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
