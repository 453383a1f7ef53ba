"""What each method says of every layer, item by item: one curve of an item, and the floor under it.

Curves are over blocks, and say how much each block does. Where a method sees what has happened up to a
block (patching a residual stream, the lens), its curve is the step from block to block; so the centre of
mass of every curve is a place, and not an average of all that comes after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from analyses.workers import Progress
from hooks.language_model import LanguageModel
from hooks.rows import Row
from interp.ablation import Means, Replacement, ablate
from interp.attribution import attribute
from interp.dose import LastTokens, doses_for_kl
from interp.lens import logit_lenses
from interp.patching import patch
from interp.prompt_pairs import PromptPair, Where
from interp.sensitivity import sensitivity
from interp.steering_vector import SteeringVector

Curves = dict[str, Float[np.ndarray, "pairs layer"]]
"""By name, one row a pair."""


@runtime_checkable
class Measure(Protocol):
    """Something that can be measured of every block, for each pair of prompts."""

    @property
    def name(self) -> str: ...

    def curves(self, lm: LanguageModel, pairs: Sequence[PromptPair]) -> Curves: ...


@dataclass(frozen=True)
class Chunk:
    """One task: a measure of some pairs."""

    measure: Measure
    pairs: tuple[PromptPair, ...]

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record a pair."""
        found = self.measure.curves(lm, self.pairs)
        on_tokens(sum(len(pair) for pair in self.pairs) * lm.n_layers)
        return [
            {"curves": {name: curves[place].tolist() for name, curves in found.items()}}
            for place in range(len(self.pairs))
        ]


@dataclass(frozen=True)
class Drop:
    """What is lost when what a block adds is replaced, in nats: of the logit difference where the partner's
    takes its place, else of the answer's log-probability."""

    name: str
    replacement: Replacement
    where: Where
    means: Means | None = None
    floor: int | None = None

    def curves(self, lm: LanguageModel, pairs: Sequence[PromptPair]) -> Curves:
        found = ablate(
            lm, pairs, replacement=self.replacement, where=self.where, means=self.means, floor=self.floor
        )
        return {"drop": found.drop_in_difference if self.replacement == "partner" else found.drop}


@dataclass(frozen=True)
class Recovery:
    """Denoising the residual stream: how much of the clean answer leaves the subject's tokens, or arrives at
    the last, in each block. Shares of the gap between the two prompts, which add up to 1; of a floor, the
    recovery itself at each block."""

    name: str
    where: Where
    floor: int | None = None

    def curves(self, lm: LanguageModel, pairs: Sequence[PromptPair]) -> Curves:
        recovery = patch(lm, pairs, where=self.where, floor=self.floor).recovery
        if self.floor is not None:
            return {"step": recovery}
        leaving = self.where == "subject"
        steps = np.diff(recovery, axis=1, prepend=1.0 if leaving else 0.0)
        return {"step": -steps if leaving else steps}


@dataclass(frozen=True)
class Attributed:
    """The first-order effect of what a block adds, over all positions, in nats of the logit difference."""

    name: str
    steps: int
    floor: int | None = None

    def curves(self, lm: LanguageModel, pairs: Sequence[PromptPair]) -> Curves:
        found = attribute(
            lm, pairs, kinds=("attn_out", "mlp_out"), where="all", steps=self.steps, floor=self.floor
        )
        return {"effect": found.effect.reshape(len(pairs), 2, lm.n_layers).sum(1)}


@dataclass(frozen=True)
class Moved:
    """How far a vector moves the answer's log-probability, in nats, either way: for a unit of dose, and at
    the dose of each layer that has the same measured KL."""

    name: str
    vector: SteeringVector
    dose: float
    kl_target: float
    doses: tuple[float, ...]

    def curves(self, lm: LanguageModel, pairs: Sequence[PromptPair]) -> Curves:
        found = sensitivity(
            lm, pairs, self.vector, dose=self.dose, kl_target=self.kl_target, doses=self.doses
        )
        assert found.effect_at_kl is not None  # since kl_target is not
        return {"per_dose": np.abs(found.slope), "at_kl": np.abs(found.effect_at_kl)}


@dataclass(frozen=True)
class EqualKL:
    """One task: the dose of each layer at which a vector has the wanted KL, on average over some prompts."""

    vector: SteeringVector
    rows: tuple[Row, ...]
    kl_target: float

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record."""
        doses = doses_for_kl(LastTokens(lm, self.rows), self.vector, self.vector.layers, self.kl_target)
        on_tokens(sum(len(row.tokens) for row in self.rows))
        return [{"doses": doses}]


@dataclass(frozen=True)
class Lens:
    """The logit lens at the last token: the step of log p(answer) - log p(corrupted answer) in each block.
    The floor asks the same of another item's two answers."""

    name: str = "lens"

    def curves(self, lm: LanguageModel, pairs: Sequence[PromptPair]) -> Curves:
        rows = [pair.clean for pair in pairs]
        right, wrong = ([p.answer for p in pairs], [p.corrupted_answer for p in pairs])
        others = ([*ids[1:], ids[0]] for ids in (right, wrong))
        answer, partners, *another = logit_lenses(lm, rows, [right, wrong, *others])
        own, floor = answer.logprob - partners.logprob, another[0].logprob - another[1].logprob
        return {
            "step": np.diff(own, axis=0, prepend=0.0).T,
            "floor": np.diff(floor, axis=0, prepend=0.0).T,
            "rank": answer.rank.T.astype(float),
        }
