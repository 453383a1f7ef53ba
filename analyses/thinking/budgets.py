"""Accuracy at thinking budgets: thoughts that are cut and answered, or made to go on where they end early."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from analyses.configs import ThinkingConfig
from analyses.run_folder import known
from analyses.tasks import Problem, judge
from analyses.thinking.study import Study, difference, mean
from analyses.thinking.switch import Switch, end_token, parts_of
from analyses.work import Work
from analyses.workers import Progress
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.positions import THINK_CLOSE
from interp.decoding import budget_force
from interp.stats import (
    holm,
    mcnemar,
    minimum_detectable_difference,
    wilson,
)

ANSWER = "The answer is"
"""What an answer is begun with."""


@dataclass(frozen=True)
class Forced:
    """One task: some problems answered at one budget."""

    problems: tuple[Problem, ...]
    budget: int
    extensions: int
    switch: Switch
    go_on: str

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record a problem; tokens are those of the text, read anew."""
        one = self.switch.tags and end_token(lm.tokenizer) is not None
        texts = budget_force(
            lm,
            [self.switch.prompt(problem.prompt, "on") for problem in self.problems],
            budget=self.budget,
            extensions=self.extensions,
            go_on=self.go_on,
            close=f"\n{THINK_CLOSE}\n\n{ANSWER}" if self.switch.tags else f"\n{ANSWER}",
            begin=self.switch.begin("on"),
            thought_end=THINK_CLOSE if one else None,
            think=self.switch.think("on"),
            on_tokens=on_tokens,
        )
        fields = []
        for problem, text in zip(self.problems, texts, strict=True):
            thought, reply = parts_of(text)
            verdict = judge(problem, thought if reply is None else reply)
            fields.append(
                {
                    "correct": verdict.correct,
                    "stated": verdict.stated,
                    "tokens": len(lm.tokenizer(text, add_special_tokens=False).input_ids),
                    "text": text,
                }
            )
        return fields


def budgets_of(config: ThinkingConfig) -> list[int]:
    """The budgets in tokens, from the smallest.

    Raises:
        InputError: if there are none, or one is below one token.
    """
    tokens = [round(b * config.max_new_tokens) if b <= 1 else round(b) for b in config.budgets]
    if not tokens or min(tokens) < 1 or config.extensions < 0:
        raise InputError(
            f"budgets={config.budgets} of {config.max_new_tokens} tokens and extensions={config.extensions}: "
            "a budget is a share up to 1, or a number of tokens, of one token or more; extensions are 0 or "
            "more."
        )
    return sorted(set(tokens))


def budgets(study: Study) -> dict[str, Any]:
    """Every budget, cut and answered, and with every number of extensions up to the most."""
    config, problems = study.config, study.problems[: study.config.n_budget]
    sizes, extensions = budgets_of(config), range(config.extensions + 1)
    work: list[Work] = [
        (
            [(_name(size, more), problem.id) for problem in some],
            Forced(tuple(some), size, more, study.switch, config.go_on),
        )
        for size in sizes
        for more in extensions
        for some in study.chunks(problems)
    ]
    study.compute("budgets", work)
    records = {
        (size, more): study.records(_name(size, more), problems) for size in sizes for more in extensions
    }
    right = {key: np.array([r["correct"] for r in of], bool) for key, of in records.items()}
    table = []
    for (size, more), of in records.items():
        row = {
            "budget": size,
            "extensions": more,
            "n": len(of),
            "accuracy": wilson(int(right[size, more].sum()), len(of)).as_dict(),
            "tokens": mean(np.array([r["tokens"] for r in of], float), config.seed),
            "no_answer": wilson(sum(r["stated"] is None for r in of), len(of)).as_dict(),
            "beyond_smallest": difference(right[size, more], right[sizes[0], 0], config.seed),
        }
        if more:
            changed = sum(a["text"] != b["text"] for a, b in zip(of, records[size, 0], strict=True))
            row |= {"changed": changed, **_flipped(right, size, more, config.seed)}
        table.append(row)
    _adjust([row for row in table if row["extensions"]])
    p = float(np.clip(right[sizes[0], 0].mean(), 0.02, 0.98))
    return {
        "n": len(problems),
        "table": table,
        "go_on": config.go_on,
        "accuracy_points": known(minimum_detectable_difference(len(problems), p=p)),
    }


def _name(budget: int, extensions: int) -> str:
    return f"budget:{budget}:{extensions}"


def _flipped(
    right: Mapping[tuple[int, int], Bool[np.ndarray, " problem"]], size: int, more: int, seed: int
) -> dict[str, Any]:
    """What extensions did to the answers at one budget."""
    before, after = right[size, 0], right[size, more]
    tested = mcnemar(after, before)
    return {
        "difference": difference(after, before, seed),
        "wrong_to_right": tested.only_a,
        "right_to_wrong": tested.only_b,
        "p": tested.p_value,
    }


def _adjust(rows: list[dict[str, Any]]) -> None:
    """Put p adjusted by Holm over the rows beside each."""
    if rows:
        for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
            row["p_holm"] = float(p)
