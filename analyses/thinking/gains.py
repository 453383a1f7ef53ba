"""How much likelier the model's own thoughts make the right answer, beside four other kinds of thought."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analyses.tasks import Problem
from analyses.thinking.study import Study
from analyses.work import Work
from analyses.workers import Progress
from hooks.language_model import LanguageModel
from interp.info_gain import KINDS, Question, thought_gains
from interp.stats import Interval, mean_interval, minimum_detectable_effect, paired_bootstrap

FEWEST = 2
"""Questions that a comparison needs."""


@dataclass(frozen=True)
class Gained:
    """One task: the gain of every thought, question by question."""

    questions: tuple[Question, ...]
    tags: bool
    seed: int

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record."""
        found = thought_gains(
            lm, self.questions, tags=self.tags, seed=self.seed, n_resamples=200, on_tokens=on_tokens
        )
        return [
            {
                "gain": dict(zip(KINDS, found.gain.tolist(), strict=True)),
                "whole": found.own_whole.gain.tolist(),
                "answer_tokens": found.own_whole.answer_tokens.tolist(),
                "thought_tokens": found.thought_tokens.tolist(),
                "states": dict(zip(KINDS, found.states_answer.tolist(), strict=True)),
            }
        ]


def questions(study: Study) -> tuple[list[Question], dict[str, int]]:
    """The first problems with the thoughts made about them, and how many were left out, and why."""
    kept: list[Question] = []
    without = {"no worked solution": 0, "blank thought": 0}
    for problem in study.problems[: study.config.n_gains]:
        thought = str(study.run.get("on", problem.id)["thought"])
        if "long" not in problem.solutions:
            without["no worked solution"] += 1
        elif not thought.strip():
            without["blank thought"] += 1
        else:
            kept.append(_question(problem, thought))
    return kept, without


def _question(problem: Problem, thought: str) -> Question:
    return Question(problem.prompt, f" {problem.answer}", thought, problem.solutions["long"])


def gains(study: Study) -> dict[str, Any]:
    """G of the five kinds of thought, over all questions and over those whose thought states no answer."""
    asked, without = questions(study)
    base = {"n": len(asked), "left_out": without}
    if len({question.answer for question in asked}) < FEWEST:
        return {
            **base,
            "why": "Fewer than two questions with different answers had a thought and a solution.",
        }
    work: Work = [("gains", "all")], Gained(tuple(asked), study.switch.tags, study.config.seed)
    study.compute("gains", [work])
    record, seed = study.run.get("gains", "all"), study.config.seed
    gain = np.array([record["gain"][kind] for kind in KINDS])
    whole, tokens = np.array(record["whole"]), np.array(record["answer_tokens"])
    silent = ~np.array(record["states"]["own"], bool)
    return {
        **base,
        "thought_tokens": mean_interval(np.array(record["thought_tokens"], float), seed=seed).as_dict(),
        "states_answer": {kind: float(np.mean(record["states"][kind])) for kind in KINDS},
        "total": told(gain, whole, seed),
        "per_token": told(gain / tokens, whole / tokens, seed),
        "silent": {
            "n": int(silent.sum()),
            "total": _some(gain[:, silent], whole[silent], seed),
            "per_token": _some((gain / tokens)[:, silent], (whole / tokens)[silent], seed),
        },
    }


def _some(
    gain: Float[np.ndarray, "kind question"], whole: Float[np.ndarray, " question"], seed: int
) -> dict[str, Any] | None:
    return told(gain, whole, seed) if len(whole) >= FEWEST else None


def told(
    gain: Float[np.ndarray, "kind question"], whole: Float[np.ndarray, " question"], seed: int
) -> dict[str, Any]:
    """Means in nats with intervals over questions, and own less every other kind, paired."""
    of = dict(zip(KINDS, gain, strict=True))

    def beyond(kind: str) -> Interval:
        return paired_bootstrap(of["own"], of[kind], seed=seed)

    return {
        "gain": {kind: mean_interval(of[kind], seed=seed).as_dict() for kind in KINDS},
        "own_beyond": {kind: beyond(kind).as_dict() for kind in KINDS[1:]},
        "own_whole": mean_interval(whole, seed=seed).as_dict(),
        "detectable": {
            kind: minimum_detectable_effect(float((of["own"] - of[kind]).std(ddof=1)), len(whole))
            for kind in KINDS[1:]
        },
    }
