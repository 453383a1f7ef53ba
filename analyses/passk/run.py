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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from analyses.configs import PasskConfig
from analyses.passk.draws import Draw, Draws, Setting, Traces, in_chunks
from analyses.passk.families import family, headline
from analyses.passk.samples import traces
from analyses.progress import Stage, progress
from analyses.reports.passk import write_report
from analyses.run_folder import RunFolder, described, environment
from analyses.tasks import Problem, load_problems
from analyses.workers import LocalWorker, RayWorkers
from hooks import LanguageModel, load
from hooks.edits import Edit
from hooks.errors import InputError
from hooks.positions import parse_positions
from interp.steering_vector import SteeringVector

Families = dict[str, list[Problem]]


@dataclass(frozen=True)
class Study:
    """What every step needs."""

    config: PasskConfig
    families: Families
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
    def second(self) -> Setting | None:
        """The setting that the base is compared with; None where only its own curve is asked for."""
        config = self.config
        suffix = config.prompt if config.second_prompt is None else config.second_prompt
        if config.tuned is not None:
            return Setting("tuned", 1, suffix)
        if config.vector is not None:
            return Setting("steered", 1, suffix, (_edit(config),))
        return None if config.second_prompt is None else Setting("prompted", 1, suffix)

    def sample(self, lm: LanguageModel, *settings: tuple[Setting, int]) -> None:
        """So many draws of every problem under each setting."""
        workers = LocalWorker(lm) if self.ray is None else RayWorkers(self.ray, lm)
        for setting, n in settings:
            draws: list[Draw] = [
                (problem, draw) for of in self.families.values() for problem in of for draw in range(n)
            ]
            keep_tokens = setting == self.second and self.config.n_traces > 0

            def task(part: slice, setting: Setting = setting, draws: list[Draw] = draws) -> Draws:
                return Draws(setting, tuple(draws[part]), self.config, keep_tokens)  # noqa: B023

            in_chunks(
                self.run,
                workers,
                [setting.key(*draw) for draw in draws],
                task,
                chunk=self.config.chunk,
                stage=self.start(setting.name, len(draws)),
            )
