"""Steering vectors of every shape that a format must bring back."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from hooks import Add
from hooks.language_model import LanguageModel
from interp import Pair, SteeringVector, contrast
from interp.reliability import Reliability
from interp.steering_vector import Recommendation, SignTest, library_versions

PAIRS = [Pair(f"What is {a} + {a}?", f"{2 * a}.", f"Let us add {a} and {a}.") for a in range(2, 8)]
PASSED = SignTest("tokens", 0.3, plus=40.0, plain=60.0, minus=85.0, low=30.0, high=60.0, n=25)


def random_vector(lm, *, width=32, layers=(1, 2), scale=3.0, seed=0, **changes) -> SteeringVector:
    """A vector of random numbers, made for a model as far as its fingerprints say."""
    generator = torch.Generator().manual_seed(seed)
    vector = SteeringVector(
        vectors={i: scale * torch.randn(width, generator=generator) for i in layers},
        kind="resid_post",
        poles=("brief", "long"),
        estimator="mean_difference",
        read="response",
        resid_norm={i: 7.25 + i / 3 for i in layers},
        n_pairs=12,
        pairs_hash="00ff",
        seed=2**40,
        model=lm.name,
        fingerprint=lm.fingerprint,
        tokenizer_hash=lm.tokenizer_hash,
        template_hash=lm.template_hash,
        reliability={i: Reliability(0.9, 0.1 + i, 1 / 3, 0.2, 1.0, 0.6, 12, 20) for i in layers},
        length_control={i: {"cos_matched": 0.7, "cos_position_out": 1 / 7} for i in layers},
        recommended=Recommendation(layers[-1], 0.3, "largest drop in tokens at equal accuracy"),
        sign_test=PASSED,
        versions=library_versions(),
    )
    return replace(vector, **changes)


@dataclass(frozen=True)
class Case:
    """A vector, and the edit of it that travels."""

    vector: SteeringVector
    layer: int | list[int] | None = None
    dose: float | None = None

    @property
    def edits(self) -> list[Add]:
        if isinstance(self.layer, list):
            return self.vector.over(self.layer, dose=self.dose)
        return [self.vector.at(self.layer, dose=self.dose)]


def bfloat16(lm: LanguageModel) -> SteeringVector:
    numbers = {i: vector.bfloat16() for i, vector in random_vector(lm).vectors.items()}
    return random_vector(lm, vectors=numbers)


CASES: dict[str, Callable[[LanguageModel], Case]] = {
    "one layer": lambda lm: Case(random_vector(lm, layers=(2,))),
    "the recommended of many": lambda lm: Case(random_vector(lm, layers=(0, 1, 2))),
    "another layer of many": lambda lm: Case(random_vector(lm, layers=(0, 1, 2)), 1, 0.1),
    "many layers": lambda lm: Case(random_vector(lm, layers=(0, 1, 2)), [1, 2], 0.5),
    "a negative dose": lambda lm: Case(random_vector(lm), 2, -0.37),
    "one number": lambda lm: Case(random_vector(lm, width=1), 1, 0.2),
    "an odd width": lambda lm: Case(random_vector(lm, width=577), 1, 0.2),
    "huge numbers": lambda lm: Case(random_vector(lm, scale=1e30), 1, 1 / 3),
    "tiny numbers": lambda lm: Case(random_vector(lm, scale=1e-30), 1, 1 / 3),
    "a tiny dose": lambda lm: Case(random_vector(lm), 1, 1e-36),
    "bfloat16": lambda lm: Case(bfloat16(lm), 1, 0.3),
    "poles in unicode": lambda lm: Case(random_vector(lm, poles=("kurz — 短い\n", "«läng» 🦜\x00")), 1, 0.3),
    "the input of a block": lambda lm: Case(random_vector(lm, kind="resid_pre"), 2, 0.3),
    "a contrast": lambda lm: Case(contrast(lm, PAIRS, poles=("brief", "long"), n_null=2), 1, 0.3),
}
