"""What every step of a layers run needs: the model, the matched items, and its folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analyses.configs import LayersConfig
from analyses.items import Item, Survivors
from analyses.items.item import Family
from analyses.run_folder import Key, RunFolder
from analyses.work import Start, Work, compute
from analyses.workers import Workers
from hooks import LanguageModel
from interp.prompt_pairs import PromptPair

FAMILIES: tuple[Family, ...] = ("knowledge", "reasoning")


@dataclass(frozen=True)
class Study:
    """What every step needs."""

    config: LayersConfig
    lm: LanguageModel
    workers: Workers
    run: RunFolder
    items: list[Item]
    survivors: Survivors
    start: Start

    def pairs(self, n: int | None = None) -> list[tuple[str, PromptPair]]:
        """The first ``n`` matched items of both families, one beside the other, by id."""
        both = zip(self.survivors.knowledge[:n], self.survivors.reasoning[:n], strict=True)
        return [(s.item.id, s.pair) for two in both for s in two]

    def compute(self, what: str, work: Sequence[Work]) -> None:
        """:func:`compute` by the study's workers, into its folder."""
        compute(what, work, self.workers, self.run, self.start)

    def fields(self, key: Key) -> dict[str, Any]:
        """What is recorded under a condition and an item, without these."""
        return self.run.fields(*key)

    def curves(
        self, family: Family, of: tuple[str, str], n: int | None = None
    ) -> Float[np.ndarray, "item layer"]:
        """A measure's curve, by their names, of the first ``n`` matched items of a family."""
        name, curve = of
        records = [self.run.get(name, s.item.id) for s in self.survivors.of(family)[:n]]
        return np.array([record["curves"][curve] for record in records])
