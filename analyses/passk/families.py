"""What the samples of one family of problems come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from analyses.configs import PasskConfig
from analyses.passk.draws import Setting
from analyses.passk.samples import Samples, Trace, traces
from analyses.run_folder import RunFolder
from analyses.tasks import Problem, judge
from interp.passk import (
    Alone,
    Coverage,
    PassAtK,
    compare_pass_at_k,
    coverage,
    efficiency_gap,
    guess_rates,
    guessing,
    pass_at_k,
)
from interp.stats import (
    Interval,
    mean_interval,
    minimum_detectable_difference,
    minimum_detectable_effect,
)

POWER = 0.8
SHOWN = 2
"""Examples of each kind."""


@dataclass(frozen=True)
class Sampled:
    """One setting on the problems of a family."""

    setting: Setting
    samples: Samples
    curve: PassAtK
    rates: Float64[np.ndarray, " problem"]
    """Of guessing each problem's answer, from what was said to the others."""

    def table(self, seed: int) -> dict[str, Any]:
        """The curve, the floor beside it, and how the samples ended."""
        samples = self.samples
        unanswered = np.array([[said is None for said in line] for line in samples.stated])
        distinct = np.array([len({said for said in line if said is not None}) for line in samples.stated])
        alone = guessing(self.curve, self.rates)

        def over_problems(each: Bool[np.ndarray, "problem draw"] | Float[np.ndarray, "problem draw"]) -> Any:
            return mean_interval(each.mean(1), seed=seed).as_dict()

        return {
            "curve": [interval.as_dict() for interval in self.curve.mean],
            "floor": [float((1 - (1 - self.rates) ** k).mean()) for k in self.curve.k],
            "solved": int((self.curve.correct > 0).sum()),
            "solved_by_guessing": int(alone.by_guessing.sum()),
            "n": len(samples.correct),
            "n_samples": samples.correct.shape[1],
            "tokens": over_problems(samples.tokens),
            "truncated": over_problems(samples.truncated),
            "unanswered": over_problems(unanswered),
            "distinct_answers": mean_interval(distinct, seed=seed).as_dict(),
            "failed": int(samples.failed.sum()),
        }


@dataclass(frozen=True)
class Compared:
    """Both settings on the problems of a family."""

    run: RunFolder
    config: PasskConfig
    problems: Sequence[Problem]
    base: Sampled
    second: Sampled

    def results(self, screened: Bool[np.ndarray, " problem"] | None) -> dict[str, Any]:
        """Everything that needs both; ``screened`` are the problems that other draws never solved."""
        base, second, seed = self.base.curve, self.second.curve, self.config.seed
        found = compare_pass_at_k(base, second, seed=seed)
        return {
            "verdict": found.verdict,
            "difference": [interval.as_dict() for interval in found.difference],
            "p": list(found.p_value),
            "sign": list(found.sign),
            "detectable": [self._detectable(k) for k in base.k],
            "power": POWER,
            "efficiency_gap": efficiency_gap(base, second, seed=seed).as_dict(),
            "coverage": [_coverage(self._coverage(k)) for k in base.k],
            "screened": None if screened is None else self._screened(screened),
            "perplexity": self._perplexity() if self.config.n_traces else None,
            "examples": self._examples(),
        }

    def _detectable(self, k: int) -> float:
        """The smallest difference of pass@k that would probably have been seen.

        At k = n a problem is solved or not, and the count of problems that one setting alone solves
        decides; below, the spread of the differences. Where they do not spread, as if all were on one side.
        """
        d = self.second.curve.per_problem(k) - self.base.curve.per_problem(k)
        if k < self.config.n_samples and d.std(ddof=1) > 0:
            return min(1.0, minimum_detectable_effect(d.std(ddof=1), len(d), power=POWER))
        found = minimum_detectable_difference(len(d), discordant=float(np.abs(d).mean()), power=POWER)
        return found if found <= 1 else 1.0  # too few problems to see anything

    def _coverage(self, k: int, among: Bool[np.ndarray, " problem"] | None = None) -> Coverage:
        base, second = self.base, self.second
        return coverage(
            base.curve, second.curve, k=k, among=among, base_rates=base.rates, tuned_rates=second.rates
        )

    def _screened(self, unsolved: Bool[np.ndarray, " problem"]) -> dict[str, Any]:
        """Coverage of the problems that the screening draws never solved, at the largest k."""
        told = {"n": int(unsolved.sum()), "draws": self.config.n_screen}
        if not unsolved.any():
            return {**told, "coverage": None}
        return {**told, "coverage": _coverage(self._coverage(self.base.curve.k[-1], unsolved))}

    def _perplexity(self) -> dict[str, Any]:
        """Nats a token of the second setting's responses, under the base and under what wrote them."""
        config, second = self.config, self.second.setting
        of = traces(self.run, second, self.problems, config.n_samples, config.n_traces)
        own = traces(self.run, self.base.setting, self.problems, config.n_samples, config.n_traces)
        return {
            name: self._read(
                [trace for trace in of if trace.correct == correct],
                [trace for trace in own if trace.correct == correct],
            )
            for name, correct in (("right", True), ("wrong", False))
        }

    def _read(self, of: Sequence[Trace], own: Sequence[Trace]) -> dict[str, Any]:
        def nats(keys: Sequence[tuple[str, str]]) -> Float64[np.ndarray, " trace"]:
            return np.array([self.run.get(*key)["nats"] for key in keys], dtype=float)

        def mean(values: Float64[np.ndarray, " trace"]) -> Any:
            return mean_interval(values, seed=self.config.seed).as_dict() if len(values) else None

        under_base, under_writer = nats([t.read for t in of]), nats([t.key for t in of])
        return {
            "n": len(of),
            "base": mean(under_base),
            "writer": mean(under_writer),
            "difference": mean(under_base - under_writer),
            "own": mean(nats([t.key for t in own])),
        }

    def _examples(self) -> dict[str, list[dict[str, Any]]]:
        """The first problems that one setting alone solves."""
        base, second = self.base.curve.correct > 0, self.second.curve.correct > 0
        of = {"only_second": ~base & second, "only_base": base & ~second}
        return {name: [self._example(int(i)) for i in np.flatnonzero(at)[:SHOWN]] for name, at in of.items()}

    def _example(self, number: int) -> dict[str, Any]:
        problem = self.problems[number]
        told: dict[str, Any] = {"problem": problem.prompt, "answer": problem.answer, "said": {}}
        for sampled in (self.base, self.second):
            right = np.flatnonzero(sampled.samples.correct[number])
            record = self.run.get(*sampled.setting.key(problem, int(right[0]) if len(right) else 0))
            told["said"][sampled.setting.name] = {
                "right": len(right),
                "n": sampled.samples.correct.shape[1],
                "guess_rate": float(sampled.rates[number]),
                "correct": record["correct"],
                "text": record["text"],
            }
        return told


def family(
    run: RunFolder,
    problems: Sequence[Problem],
    config: PasskConfig,
    base: Setting,
    second: Setting | None,
    screen: Setting,
) -> dict[str, Any]:
    """One family of problems, from the records of its draws."""
    settings = [setting for setting in (base, second) if setting is not None]
    samples = [Samples.of(run, setting, problems, config.n_samples) for setting in settings]
    right = [
        {judge(problem, problem.answer).stated}.union(*(mine.right_forms(number) for mine in samples))
        for number, problem in enumerate(problems)
    ]
    sampled = [
        _sampled(setting, mine, right, config) for setting, mine in zip(settings, samples, strict=True)
    ]
    told = {
        "k": list(sampled[0].curve.k),
        "n": {"problems": len(problems), "samples": config.n_samples},
        "settings": {of.setting.name: of.table(config.seed) for of in sampled},
        "compared": None,
    }
    if len(sampled) == 2:
        screened = _unsolved(run, screen, problems, config.n_screen) if config.n_screen else None
        told["compared"] = Compared(run, config, problems, *sampled).results(screened)
    return told


def _unsolved(
    run: RunFolder, screen: Setting, problems: Sequence[Problem], n: int
) -> Bool[np.ndarray, " problem"]:
    """The problems that none of ``n`` other draws of the base solves."""
    return np.asarray(~Samples.of(run, screen, problems, n).correct.any(1))


def _sampled(
    setting: Setting, samples: Samples, right: Sequence[set[str | None]], config: PasskConfig
) -> Sampled:
    curve = pass_at_k(samples.correct.sum(1), config.n_samples, config.k or None, seed=config.seed)
    names = [str(number) for number in range(len(right))]
    rates = guess_rates(samples.stated, names, matches=lambda name, said: said in right[int(name)])
    return Sampled(setting, samples, curve, rates)


def _coverage(found: Coverage) -> dict[str, Any]:
    def shown(interval: Interval | None) -> Any:
        return None if interval is None else interval.as_dict()

    def alone(of: Alone | None) -> Any:
        assert of is not None  # rates were given
        return {"guessed": of.guessed, "above_guessing": of.above_guessing.as_dict()}

    return {
        "k": found.k,
        "counts": {name.replace("tuned", "second"): count for name, count in found.counts.items()},
        "both": shown(found.both),
        "only_base": shown(found.only_base),
        "only_second": shown(found.only_tuned),
        "neither": shown(found.neither),
        "preservation": shown(found.preservation),
        "consolidation": shown(found.consolidation),
        "redrawn": shown(found.redrawn),
        "base_alone": alone(found.base_alone),
        "second_alone": alone(found.tuned_alone),
    }
