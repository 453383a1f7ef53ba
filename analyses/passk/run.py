"""Does training, or an edit, reach problems that many samples of the base do not?

1. Sample every problem many times from the base and from a second setting: a tuned model, the base with
   a steering vector, or the base under another prompt.
2. Compare their curves of pass@k: does the second solve more at one draw and less at many (sharpens),
   or more at every number of draws (expands)?
3. Say which problems either solves, beside what blind guesses from its own answers would.
4. Let the base read the responses of the second setting: would it have written them?

    unlatch passk --model BASE --tuned TUNED --tasks word-problems --out runs/passk

Source: Yue et al. 2025, arXiv:2504.13837, "Does Reinforcement Learning Really Incentivize Reasoning
Capacity in LLMs Beyond the Base Model?".
Differs from the source: a verdict for each family of problems, and only where intervals over problems
allow one; a guessing floor; other draws of the base may choose the problems that it never solves.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from analyses.configs import PasskConfig
from analyses.passk.draws import Draws, Setting, Traces, in_chunks
from analyses.passk.families import family
from analyses.passk.headline import headline
from analyses.passk.samples import Trace, traces
from analyses.progress import Stage, progress
from analyses.reports.passk import write_report
from analyses.run_folder import RunFolder, described, environment
from analyses.tasks import Problem, checked, load_problems
from analyses.workers import LocalWorker, RayWorkers, Workers
from hooks import Add, LanguageModel, load
from hooks.errors import InputError
from hooks.positions import parse_positions
from interp.steering_vector import SteeringVector

Families = dict[str, list[Problem]]


@dataclass(frozen=True)
class Study:
    """What every step needs."""

    config: PasskConfig
    families: Families
    second: Setting | None
    """What the base is compared with; None where only its own curve is asked for."""

    run: RunFolder
    start: Callable[[str, int], Stage]
    device: str | None
    ray: str | None

    @property
    def base(self) -> Setting:
        return Setting("base", 0, self.config.prompt)

    @property
    def screen(self) -> Setting:
        return Setting("screen", 2, self.config.prompt)

    @cached_property
    def traces(self) -> list[Trace]:
        """The responses of the second setting that the base reads, of all families."""
        if self.second is None or not self.config.n_traces:
            return []
        n, samples = self.config.n_traces, self.config.n_samples
        return [
            trace
            for problems in self.families.values()
            for trace in traces(self.run, self.second, problems, samples, n)
        ]

    def load(self, name: str) -> LanguageModel:
        """A model, once the one before it, which nothing refers to any more, has left the memory."""
        gc.collect()
        return load(name, device=self.device)

    def workers(self, lm: LanguageModel) -> Workers:
        return LocalWorker(lm) if self.ray is None else RayWorkers(self.ray, lm)

    def sample(self, workers: Workers, setting: Setting, n: int) -> None:
        """``n`` draws of every problem, those of one problem side by side."""
        draws = [(problem, i) for of in self.families.values() for problem in of for i in range(n)]
        read = setting == self.second and self.config.n_traces > 0
        in_chunks(
            self.run,
            workers,
            [setting.key(*draw) for draw in draws],
            lambda part: Draws(setting, tuple(draws[part]), self.config, tokens_kept=read),
            chunk=self.config.chunk,
            stage=self.start(setting.name, len(draws)),
        )

    def read(self, workers: Workers) -> None:
        """The base reads what the second setting wrote, each response after the base's own prompt."""
        in_chunks(
            self.run,
            workers,
            [trace.read for trace in self.traces],
            lambda part: Traces(
                tuple(self.base.prompt(trace.problem) for trace in self.traces[part]),
                tuple(trace.tokens(self.run) for trace in self.traces[part]),
                self.config.think,
            ),
            chunk=self.config.chunk,
            stage=self.start("the base reads", len(self.traces)),
        )


def run(config: PasskConfig, out: Path, *, device: str | None = None, ray: str | None = None) -> Path:
    """Run the whole question, or what is left of it, and write one run folder; returns it.

    Raises:
        InputError: for settings that cannot be compared, before anything is sampled.
    """
    _check(config)
    second = _second(config)
    families = {source: _problems(config, source) for source in config.tasks}
    with RunFolder.open(out, "passk", config) as folder:
        if folder.status != "complete":
            with progress() as start:
                study = Study(config, families, second, folder, start, device, ray)
                folder.write("results.json", _results(study))
        write_report(folder.path)
    return folder.path


def _check(config: PasskConfig) -> None:
    """Refuse what could only fail later."""
    if config.tuned is not None and config.vector is not None:
        raise InputError(
            "A tuned model and a vector are two second settings. Pass --tuned or --vector; a run of its own "
            "for the other."
        )
    if config.vector is None and (config.layer is not None or config.dose is not None):
        raise InputError("A layer and a dose are those of a vector; pass --vector too, or neither.")
    for name, least in (("n_problems", 2), ("n_samples", 2), ("n_screen", 0), ("n_traces", 0)):
        if (value := getattr(config, name)) < least:
            raise InputError(f"{name}={value}: pass {least} or more.")
    if odd := [k for k in config.k if not 1 <= k <= config.n_samples]:
        raise InputError(
            f"pass@{odd[0]} was asked for, with n_samples={config.n_samples}: k goes from 1 to the samples "
            f"of a problem. Pass --n-samples {max(*config.k, 2)}, or k up to {config.n_samples}."
        )
    if config.n_screen and (config.tuned, config.vector, config.second_prompt) == (None, None, None):
        raise InputError(
            "n_screen chooses problems on which a second setting is judged, and there is none; pass --tuned, "
            "--vector or --second-prompt, or --n-screen 0."
        )
    if not config.temperature > 0:
        raise InputError(
            f"temperature={config.temperature} makes all samples of a problem alike; pass one above 0, "
            "such as 0.6."
        )
    if not config.tasks or len(set(config.tasks)) < len(config.tasks):
        raise InputError(f"tasks={config.tasks}: pass one family of problems or more, each once.")


def _problems(config: PasskConfig, source: str) -> list[Problem]:
    return list(checked(load_problems(source, n=config.n_problems, seed=config.seed)))


def _second(config: PasskConfig) -> Setting | None:
    suffix = config.prompt if config.second_prompt is None else config.second_prompt
    if config.tuned is not None:
        return Setting("tuned", 1, suffix)
    if config.vector is not None:
        return Setting("steered", 1, suffix, (_edit(config, config.vector),))
    return None if config.second_prompt is None else Setting("prompted", 1, suffix)


def _edit(config: PasskConfig, file: str) -> Add:
    return SteeringVector.load(file).at(
        config.layer,
        dose=config.dose,
        positions=parse_positions(config.positions),
        any_model=config.any_model,
    )


def _results(study: Study) -> dict[str, Any]:
    """Every step of the question; the models are loaded one after the other."""
    config = study.config
    tuned = None if config.tuned is None else _of_tuned(study, config.tuned)
    base = _of_base(study, tuned)
    families = {
        source: family(study.run, problems, config, study.base, study.second, study.screen)
        for source, problems in study.families.items()
    }
    results = {
        "question": (__doc__ or "").splitlines()[0],
        "model": base,
        "second": _told(study, tuned),
        "sampling": {
            name: getattr(config, name)
            for name in ("n_samples", "n_screen", "temperature", "top_p", "max_new_tokens", "prompt")
        },
        "families": families,
    }
    return {**results, "headline": headline(results)}


def _of_tuned(study: Study, name: str) -> dict[str, Any]:
    """All that needs the tuned model: its samples, and how likely they were as it wrote them."""
    assert study.second is not None
    tokens = study.load(study.config.model).tokenizer_hash if study.config.n_traces else None
    lm = study.load(name)
    if tokens not in (None, lm.tokenizer_hash):
        raise InputError(
            f"The tokenizers of {study.config.model} and {name} differ, so the base cannot read the tokens "
            "that the tuned model wrote. Pass --n-traces 0 to compare all but that."
        )
    study.sample(study.workers(lm), study.second, study.config.n_samples)
    return described(lm)


def _of_base(study: Study, tuned: dict[str, Any] | None) -> dict[str, Any]:
    """All that needs the base: its samples, those of a second setting of it, and what it reads."""
    config, lm = study.config, study.load(study.config.model)
    workers = study.workers(lm)
    told = {} if tuned is None else {"tuned": tuned["name"], "tuned_fingerprint": tuned["fingerprint"]}
    study.run.write("environment.json", environment(lm, dtype=str(lm.dtype), **told))
    study.sample(workers, study.base, config.n_samples)
    if study.second is not None and tuned is None:
        study.sample(workers, study.second, config.n_samples)
    if config.n_screen:
        study.sample(workers, study.screen, config.n_screen)
    study.read(workers)
    return described(lm)


def _told(study: Study, tuned: dict[str, Any] | None) -> dict[str, Any] | None:
    """The second setting, as it stands in the results."""
    second = study.second
    if second is None:
        return None
    edits = [{"site": str(e.site), "dose": e.scale, "positions": str(e.positions)} for e in second.edits]
    return {"kind": second.name, "prompt": second.suffix, "model": tuned, "edits": edits}
