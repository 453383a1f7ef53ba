"""The same problems without thinking and with it: right, long, hedged, and changed on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analyses.answers import Scores, repetition
from analyses.run_folder import Record, known
from analyses.steps import at_equal_length
from analyses.tasks import Problem, judge
from analyses.thinking.flips import READINGS, Traces, flips, more_flips, traces
from analyses.thinking.study import Study, difference, mean
from analyses.thinking.switch import MODES, Mode, Switch, parts
from analyses.work import Work
from analyses.workers import Progress
from hooks.generate import generate_rows
from hooks.language_model import LanguageModel
from interp.stats import (
    holm,
    mcnemar,
    minimum_detectable_difference,
    permutation_test,
    wilson,
)
from interp.thinking import MARKERS, markers


@dataclass(frozen=True)
class Answered:
    """One task: some problems answered in one mode."""

    problems: tuple[Problem, ...]
    mode: Mode
    switch: Switch
    max_new_tokens: int

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record a problem."""
        rows = [self.switch.row(lm.tokenizer, problem.prompt, self.mode) for problem in self.problems]
        made = generate_rows(
            lm, rows, max_new_tokens=self.max_new_tokens, max_rows=len(rows), on_tokens=on_tokens
        )
        return [
            told(
                problem,
                *parts(lm.tokenizer, done.tokens),
                tokens=len(done.tokens),
                finish=done.finish,
                repeated=repetition(done.tokens),
            )
            for problem, done in zip(self.problems, made, strict=True)
        ]


def told(
    problem: Problem, thought: str, reply: str | None, *, tokens: int, finish: str, repeated: float
) -> dict[str, Any]:
    """The record of one response: the reply is judged, or all of it where no thought was closed."""
    verdict = judge(problem, thought if reply is None else reply)
    return {
        "correct": verdict.correct and finish != "nan",
        "stated": verdict.stated,
        "rule": verdict.rule,
        "tokens": tokens,
        "finish": finish,
        "repetition": round(repeated, 4),
        "thought": thought,
        "reply": reply,
    }


def said(record: Record) -> str:
    """All that a response says, the thought before the reply."""
    return str(record["thought"]) if record["reply"] is None else f"{record['thought']}\n{record['reply']}"


def answer(study: Study) -> None:
    """Answer every problem in both modes."""
    work: list[Work] = [
        (
            [(mode, problem.id) for problem in some],
            Answered(tuple(some), mode, study.switch, study.config.max_new_tokens),
        )
        for some in study.chunks(study.problems)
        for mode in MODES
    ]
    study.compute("answers", work)


def on_off(study: Study) -> dict[str, Any]:
    """Both modes, and their paired differences: on less off."""
    records = {mode: study.records(mode, study.problems) for mode in MODES}
    read = {
        mode: [traces(problem, said(record)) for problem, record in zip(study.problems, of, strict=True)]
        for mode, of in records.items()
    }
    modes = {mode: _outcome(records[mode], read[mode], study.config.seed) for mode in MODES}
    off, on = (Scores.of(records[mode]) for mode in MODES)
    seed = study.config.seed
    alike, share = at_equal_length(on.correct, on.tokens, off.correct, off.tokens, seed=seed)
    tested = mcnemar(on.correct, off.correct)
    return {
        "modes": modes,
        "differences": {
            "accuracy": difference(on.correct, off.correct, seed),
            "mcnemar": {"only_on": tested.only_a, "only_off": tested.only_b, "p": tested.p_value},
            "equal_length": None if alike is None else alike.as_dict(),
            "equal_length_share": share,
            "tokens": difference(on.tokens, off.tokens, seed),
            "markers": _more_markers(records, seed),
            "flips": more_flips(read["off"], read["on"], seed),
        },
        "power": {
            "accuracy_points": known(
                minimum_detectable_difference(
                    len(study.problems), p=float(np.clip(off.correct.mean(), 0.02, 0.98))
                )
            ),
            "power": 0.8,
            "n": len(study.problems),
        },
        "examples": _examples(study.problems, records, read),
    }


def _outcome(records: Sequence[Record], read: Sequence[Traces], seed: int) -> dict[str, Any]:
    """One mode: rates and means with their intervals."""
    scores, n = Scores.of(records), len(records)
    return {
        "n": n,
        "accuracy": wilson(int(scores.correct.sum()), n).as_dict(),
        "tokens": mean(scores.tokens, seed),
        "truncated": wilson(int(scores.truncated.sum()), n).as_dict(),
        "closed": wilson(sum(r["reply"] is not None for r in records), n).as_dict(),
        "no_answer": wilson(sum(r["stated"] is None for r in records), n).as_dict(),
        "repetition": float(scores.repetition.mean()),
        "failed": int(scores.failed.sum()),
        "markers": {kind: mean(rates, seed) for kind, rates in _rates(records).items()},
        "flips": {reading: flips(read, reading, seed) for reading in READINGS},
    }


def _rates(records: Sequence[Record]) -> dict[str, Float[np.ndarray, " response"]]:
    """Markers of each kind per 100 tokens of each response."""
    found = [markers(said(r), max(1, r["tokens"])).per_100_tokens for r in records]
    return {kind: np.array([of[kind] for of in found]) for kind in MARKERS}


def _more_markers(records: Mapping[Mode, Sequence[Record]], seed: int) -> dict[str, Any]:
    """Markers per 100 tokens, on less off, with p adjusted over the kinds by Holm."""
    off, on = (_rates(records[mode]) for mode in MODES)
    p = holm(np.array([permutation_test(on[k], off[k], paired=True, seed=seed) for k in MARKERS]))
    return {
        kind: {**difference(on[kind], off[kind], seed), "p": float(adjusted)}
        for kind, adjusted in zip(MARKERS, p, strict=True)
    }


def _examples(
    problems: Sequence[Problem],
    records: Mapping[Mode, Sequence[Record]],
    read: Mapping[Mode, Sequence[Traces]],
) -> list[dict[str, Any]]:
    """The first two problems, not a choice."""
    shown = []
    for place, problem in enumerate(problems[:2]):
        of = {mode: records[mode][place] for mode in MODES}
        shown.append(
            {
                "problem": problem.prompt,
                "answer": problem.answer,
                "said": {
                    mode: {
                        "text": said(record),
                        "tokens": record["tokens"],
                        "correct": record["correct"],
                        "answers": _numbers(read[mode][place]),
                    }
                    for mode, record in of.items()
                },
            }
        )
    return shown


def _numbers(both: Traces) -> list[str]:
    return [] if both is None else list(both["any number"].changes)
