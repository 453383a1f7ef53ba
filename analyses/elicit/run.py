"""Which keys open a model's problems, what do they cost, and which problems does none open?

1. Make the keys: prompts as they are; first words, layers, doses and latents chosen on select problems,
   directions estimated on fit problems.
2. Try all of them, and combinations, on confirm problems of every family, which chose nothing.
3. Compare: accuracy, tokens, accuracy at equal cost, the share of the gap to a tuned model, and the
   problems that one key alone opens, or none.

    unlatch elicit --model smollm2-135m-instruct --dictionary bundled --out runs/keys

Gains are measured from the key `format-corrected`, the plain prompt read in the way kindest to the model,
where it is among them: what only changes the form of an answer is no gain.

Sources: each key's own; Shao et al. 2025, arXiv:2506.10947, for the format-corrected base.
Differs from the sources: all keys on the same problems, at equal cost, with what chose them kept apart from
what scores them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from analyses.configs import ElicitConfig
from analyses.elicit.decodings import FormatCorrected
from analyses.elicit.families import Families, families, loaded
from analyses.elicit.key import Key, combined
from analyses.elicit.keys import COMBINATIONS, KEYS
from analyses.elicit.margins import margins
from analyses.elicit.replies import replies
from analyses.elicit.table import Opened, table
from analyses.progress import Stage, progress
from analyses.reports.elicit import write_report
from analyses.reports.page import percent, points
from analyses.run_folder import Record, RunFolder, described, environment
from analyses.tasks import Problem
from analyses.workers import LocalWorker, RayWorkers, Workers
from hooks import LanguageModel, load
from hooks.errors import InputError
from interp.stats import band, permutation_p

ALL = "all families"
ALPHA = 0.05
"""Of the gains of all keys together, adjusted as Holm does."""


@dataclass(frozen=True)
class Trial:
    """Puts problems to a model under keys, and writes down what comes back."""

    config: ElicitConfig
    workers: Workers
    run: RunFolder
    start: Callable[[str, int], Stage]

    def __call__(
        self, what: str, keys: Sequence[Key], problems: Sequence[Problem]
    ) -> dict[str, list[Record]]:
        return replies(
            self.run,
            self.workers,
            keys,
            problems,
            max_new_tokens=self.config.max_new_tokens,
            think=self.config.think,
            chunk=self.config.chunk,
            seed=self.config.seed,
            stage=self.start(what, len(keys) * len(problems)),
        )

    def solve(self, problems: Sequence[Problem]) -> Bool[np.ndarray, " problem"]:
        """Which of them the model solves, as they stand."""
        name = "rung"
        return Opened.of(self(f"rung: {problems[0].source}", [Key(name, "")], problems)[name]).correct


@dataclass(frozen=True)
class Study:
    """What every step needs; the bench on which keys are made."""

    config: ElicitConfig
    lm: LanguageModel
    trial: Trial
    families: Families

    @property
    def fit(self) -> Sequence[Problem]:
        return self.families.fit

    def select(self, candidates: Sequence[Key]) -> Mapping[str, Bool[np.ndarray, " problem"]]:
        """Which select problems each candidate opens."""
        what = f"choosing: {candidates[0].name.split(':')[0]}"
        records = self.trial(what, candidates, self.families.select)
        return {key: Opened.of(of).correct for key, of in records.items()}


def run(config: ElicitConfig, out: Path, *, device: str | None = None, ray: str | None = None) -> Path:
    """Run the whole question, or what is left of it, and write one run folder; returns it.

    Raises:
        InputError: for keys that are none or that the settings do not allow, or too few problems.
    """
    names = _names(config)
    first = loaded(config)
    with RunFolder.open(out, "elicit", config) as folder:
        if folder.status != "complete":
            lm = load(config.model, device=device)
            folder.write("environment.json", environment(lm, dtype=str(lm.dtype)))
            workers = LocalWorker(lm) if ray is None else RayWorkers(ray, lm)
            with progress() as start:
                trial = Trial(config, workers, folder, start)
                study = Study(config, lm, trial, families(config, first, trial.solve))
                folder.write("results.json", _results(study, names, device, ray))
        write_report(folder.path)
    return folder.path


def _names(config: ElicitConfig) -> tuple[str, ...]:
    """The keys that are tried, each once."""
    allowed = [name for name, maker in KEYS.items() if not maker.needs or getattr(config, maker.needs)]
    if not config.keys:
        return (*allowed, *COMBINATIONS)
    for name in config.keys:
        for part in name.split("+"):
            if part not in KEYS:
                raise InputError(
                    f"There is no key {part!r}. Keys are {', '.join(KEYS)}; "
                    "join two with +, as in cot+vector."
                )
            if part not in allowed:
                raise InputError(f"The key {part!r} needs --{KEYS[part].needs}.")
    return tuple(dict.fromkeys(config.keys))


def _results(study: Study, names: Sequence[str], device: str | None, ray: str | None) -> dict[str, Any]:
    config, problems = study.config, study.families.confirm
    parts = list(dict.fromkeys(part for name in names for part in name.split("+")))
    made = {part: KEYS[part].make(study) for part in KEYS if part in parts}
    keys = [combined(name, made) for name in names]
    records = study.trial("confirm", [key for key in keys if not key.tuned], problems)
    if of_tuned := [key for key in keys if key.tuned]:
        assert config.tuned is not None
        lm = load(config.tuned, device=device)
        workers = LocalWorker(lm) if ray is None else RayWorkers(ray, lm)
        records |= replace(study.trial, workers=workers)("tuned", of_tuned, problems)
    opened = {name: Opened.of(records[name]) for name in names}
    reference = "format-corrected" if "format-corrected" in names else names[0]
    budget = config.budget or config.max_new_tokens + FormatCorrected().answer_tokens
    tables = {}
    for family, chosen in _members(problems).items():
        tables[family] = table(
            {name: Opened.of([records[name][i] for i in chosen]) for name in names},
            [problems[i].id for i in chosen],
            reference=reference,
            tuned="tuned" if "tuned" in names else None,
            budget=budget,
            seed=config.seed,
        )
    results = {
        "question": (__doc__ or "").splitlines()[0],
        "model": described(study.lm),
        "tuned": config.tuned,
        "n": {"fit": len(study.fit), "select": len(study.families.select), "confirm": len(problems)},
        "rungs": study.families.rungs,
        "reference": reference,
        "budget_tokens": budget,
        "response_tokens": config.max_new_tokens,
        "says": {key.name: key.says for key in keys},
        "chosen": {name: dict(key.chosen) for name, key in made.items() if key.chosen},
        "controls": {
            name: _controlled(study, key, opened[name]) for name, key in made.items()
            if key.controls and name in opened
        },
        "tables": tables,
        "margins": {
            name: margins(opened[name].paths, seed=config.seed)
            for name in names if name.split("+")[-1] == "cot-decoding"
        },
        "examples": _examples(problems, records, opened),
    }  # fmt: skip
    return {**results, "headline": headline(results)}


def _members(problems: Sequence[Problem]) -> dict[str, list[int]]:
    """The places of each family's problems; those of all together first, where there are several."""
    by_source: dict[str, list[int]] = {}
    for place, problem in enumerate(problems):
        by_source.setdefault(problem.source, []).append(place)
    return by_source if len(by_source) == 1 else {ALL: list(range(len(problems))), **by_source}


def _controlled(study: Study, key: Key, mine: Opened) -> dict[str, Any]:
    """The key beside edits that mean nothing, on the first problems of each family."""
    problems = study.families.confirm
    n = study.config.n_random_problems
    places = sorted(
        place for of in _members(problems).values() for place in of[:n] if len(of) != len(problems)
    )
    places = places or list(range(min(n, len(problems))))
    some = [problems[place] for place in places]
    keys = [replace(key, name=f"{key.name}:{name}", edits=edits) for name, edits in key.controls.items()]
    records = study.trial(f"controls: {key.name}", keys, some)
    shares = np.array([Opened.of(of).correct.mean() for of in records.values()])
    own = float(mine.correct[places].mean())
    return {
        "n": len(some),
        "n_random": len(keys),
        "accuracy": own,
        "random": [float(share) for share in shares],
        "band": [band(shares).low, band(shares).high],
        "p": permutation_p(own, shares),
    }


def _examples(
    problems: Sequence[Problem], records: Mapping[str, Sequence[Record]], opened: Mapping[str, Opened]
) -> list[dict[str, Any]]:
    """Problems on which keys part most, and what each key says to them."""
    right = np.stack([of.correct for of in opened.values()])
    parted = np.argsort(np.abs(right.mean(0) - 0.5), kind="stable")[:3]
    return [
        {
            "problem": problems[place].prompt,
            "answer": problems[place].answer,
            "said": {
                name: {"text": of[place]["text"], "correct": bool(opened[name].correct[place])}
                for name, of in records.items()
            },
        }
        for place in parted
    ]


def headline(results: Mapping[str, Any]) -> str:
    """What was found, in a few sentences: the best key, what of it is settled, and what nothing opens."""
    tables = results["tables"]
    of = tables.get(ALL) or next(iter(tables.values()))
    keys, reference = of["keys"], results["reference"]
    others = [name for name in keys if name not in (reference, "tuned")]
    said = [
        f"{results['model']['name']} solves {percent(keys[reference]['accuracy']['estimate'])} of {of['n']} "
        f"problems under the key {reference}"
    ]
    if others:
        top = max(others, key=lambda name: keys[name]["accuracy"]["estimate"])
        settled = [name for name in others if keys[name]["gain"]["low"] > 0 and keys[name]["p_holm"] <= ALPHA]
        said[0] += (
            f"; the best key, {top}, {percent(keys[top]['accuracy']['estimate'])} "
            f"({points(keys[top]['gain'])} points) at {keys[top]['tokens']['estimate']:.0f} tokens a problem."
        )
        said.append(
            f"Gains that hold over all keys together: {', '.join(settled)}."
            if settled
            else "No key's gain holds when all are tested together: a gain of "
            f"{percent(of['detectable'])} would have been seen alone, with power 0.8."
        )
    said.append(
        f"{len(of['none'])} of {of['n']} problems are opened by no key; "
        f"{sum(bool(row['only']) for row in keys.values())} keys open some that no other does."
    )
    return " ".join(said)
