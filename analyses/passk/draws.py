"""Samples of problems, each with random numbers of its own, and how a model reads what was sampled.

Draw i of a problem takes the numbers of one stream, that depends on the problem, the setting and i alone:
it is the same whichever draws run beside it (up to rounding), and with more problems or more draws. Base,
screen and the second setting draw apart, so that their samples are independent. Draws of one problem stand
side by side and share the prefill of their prompt.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from analyses.configs import PasskConfig
from analyses.progress import Stage
from analyses.run_folder import Key, RunFolder
from analyses.tasks import Problem, judge
from analyses.work import Work, record
from analyses.workers import Progress, Records, Task, Workers
from hooks.chat import prompt_row
from hooks.edits import Add
from hooks.generate import generate_rows
from hooks.language_model import LanguageModel
from hooks.rows import Row
from hooks.sampling import Sampling
from interp.passk import trace_perplexity

KEPT = 4
"""Of each problem so many first responses are kept whole, and beside them every right one."""

PLACES = 3
"""Settings whose streams take turns: base, the second, and screen."""

Draw = tuple[Problem, int]
"""A problem, and the number of the draw."""


@dataclass(frozen=True)
class Setting:
    """What is sampled from: a model, edited or not, and what is added to each problem."""

    name: str
    place: int
    """Its turn among the streams of a problem."""

    suffix: str = ""
    edits: tuple[Add, ...] = ()

    def prompt(self, problem: Problem) -> str:
        """What the model is asked."""
        return problem.asked(self.suffix)

    def key(self, problem: Problem, draw: int) -> Key:
        """Where the record of a draw is."""
        return self.name, f"{problem.source}/{problem.id}/{draw}"

    def stream(self, problem: Problem, draw: int) -> int:
        """The random stream of a draw: no two draws of one problem share one."""
        digest = hashlib.sha256(f"{problem.id}\0{problem.prompt}".encode()).digest()
        return int.from_bytes(digest[:4], "big") + PLACES * draw + self.place


@dataclass(frozen=True)
class Draws:
    """One chunk of samples under one setting."""

    setting: Setting
    draws: tuple[Draw, ...]
    config: PasskConfig
    tokens_kept: bool
    """Keep the token ids of what is kept, for another model to read."""

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> Records:
        """The fields of each draw's record."""
        config, setting = self.config, self.setting

        @cache
        def row(prompt: str) -> Row:
            return prompt_row(lm.tokenizer, prompt, think=config.think)

        made = generate_rows(
            lm,
            [row(setting.prompt(problem)) for problem, _ in self.draws],
            edits=list(setting.edits),
            streams=[setting.stream(problem, draw) for problem, draw in self.draws],
            max_new_tokens=config.max_new_tokens,
            sampling=Sampling(config.temperature, config.top_p, config.seed),
            logprobs=config.n_traces > 0,
            on_tokens=on_tokens,
        )
        for edit in setting.edits:
            made.receipt.check(edit.positions)
        fields = []
        for (problem, draw), completion in zip(self.draws, made, strict=True):
            verdict = judge(problem, completion.text)
            correct = verdict.correct and completion.finish != "nan"
            kept: dict[str, Any] = {}
            if correct or draw < KEPT:
                kept["text"] = completion.text
                if self.tokens_kept:
                    kept["ids"] = " ".join(map(str, completion.tokens))
            fields.append(
                {
                    "correct": correct,
                    "stated": verdict.stated,
                    "tokens": len(completion.tokens),
                    "finish": completion.finish,
                    "nats": -float(np.mean(completion.logprobs)) if completion.logprobs else None,
                    **kept,
                }
            )
        return fields


@dataclass(frozen=True)
class Traces:
    """One chunk of given responses, as token ids, that a model reads after prompts of its own template."""

    prompts: tuple[str, ...]
    responses: tuple[tuple[int, ...], ...]
    think: bool | None

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> Records:
        """Nats a token of each."""
        rows = []
        for prompt, response in zip(self.prompts, self.responses, strict=True):
            start = prompt_row(lm.tokenizer, prompt, think=self.think)
            rows.append(Row(start.tokens + response, start.prompt_length))
        found = trace_perplexity(lm, rows)
        on_tokens(sum(len(row.tokens) for row in rows))
        return [{"nats": float(nats)} for nats in found.nats]


def in_chunks(
    run: RunFolder,
    workers: Workers,
    work: Sequence[Key],
    task: Callable[[slice], Task],
    *,
    chunk: int,
    stage: Stage,
) -> None:
    """Do what is not on disk yet; ``task`` makes the one of a slice of ``work``."""
    starts = {work[start]: start for start in range(0, len(work), chunk)}
    todo: list[Work] = [
        (part, task(slice(starts[part[0]], starts[part[0]] + len(part))))
        for part in run.missing(work, chunk=chunk)
    ]
    record(todo, workers, run, stage)
