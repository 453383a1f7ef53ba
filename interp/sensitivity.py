"""Injection sensitivity: at which layer does a vector move the answer most?

    slope(l) = ( log p(answer | +x) - log p(answer | -x) ) / 2x,    in nats for each unit of dose,

with x a dose at layer l (the edit's norm as a share of the residual norm), written at the last token of
the clean prompt. Layers are compared twice: at one dose, and at the dose of each layer where the edit has
the same measured KL, since one relative norm moves the output more at some layers than at others. At
equal KL the effect is log p(answer | +x) - log p(answer) at that dose.

Source: the KL-matched layer sweep of Azizi et al. 2025 (ASC), arXiv:2507.04742, section on dose.
Differs from the source: the KL is measured, not bounded; the outcome is the answer's log-probability.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.positions import last
from hooks.replay import Replay, Variant
from interp.dose import LastTokens, doses_for_kl, kl_nats
from interp.prompt_pairs import PromptPair, answer_logprob, first_column, paired_batches
from interp.steering_vector import SteeringVector


@dataclass(frozen=True)
class Sensitivity:
    """How far a vector at each layer moves the answer of each clean prompt."""

    layers: tuple[int, ...]
    dose: float
    slope: Float[np.ndarray, "pairs layers"]
    """Nats of log p(answer) for each unit of dose, at ``dose``."""

    kl: Float[np.ndarray, "pairs layers"]
    """KL in nats of the edit at ``+dose`` from the unedited next-token distribution."""

    kl_target: float | None
    dose_at_kl: Float[np.ndarray, " layers"] | None
    """The dose of each layer whose mean KL is ``kl_target``; None where no target was given."""

    kl_at_dose: Float[np.ndarray, "pairs layers"] | None
    """KL in nats at that dose; its mean stays below the target where even a dose of 4 does."""

    effect_at_kl: Float[np.ndarray, "pairs layers"] | None
    """Change of log p(answer) in nats at that dose."""


def sensitivity(
    lm: LanguageModel,
    pairs: Sequence[PromptPair],
    vector: SteeringVector,
    *,
    layers: Sequence[int] | None = None,
    dose: float = 0.05,
    kl_target: float | None = 0.01,
    doses: Sequence[float] | None = None,
    n_states: int = 32,
    on_pairs: Callable[[int], None] | None = None,
) -> Sensitivity:
    """The effect of ``vector`` at the last token of every clean prompt, layer by layer.

    Args:
        layers: None takes every layer of the vector.
        dose: Small, so that the slope is one.
        kl_target: In nats; None leaves the comparison at equal KL out.
        doses: Of each layer at ``kl_target``, as :func:`interp.dose.doses_for_kl` finds; None finds them.
        n_states: The first so many prompts, on which the dose of the wanted KL is found.

    Raises:
        InputError: for no pairs, or a dose that is not above zero.
        VectorError: for a vector of another model, or a layer that it does not have.
    """
    if not pairs or dose <= 0:
        raise InputError(
            f"sensitivity needs at least one pair and a dose above 0; got {len(pairs)} and {dose}."
        )
    chosen = tuple(vector.layers if layers is None else (layer % lm.n_layers for layer in layers))
    if kl_target is not None and doses is None:
        states = LastTokens(lm, [pair.clean for pair in pairs[:n_states]])
        doses = doses_for_kl(states, vector, chosen, kl_target)
    matched = kl_target is not None
    sizes = [[dose, -dose, *([at_kl] if matched else [])] for at_kl in doses or [0.0] * len(chosen)]
    found = np.empty((len(pairs), len(chosen), len(sizes[0]), 2))
    plain = np.empty(len(pairs))
    for numbers, clean, _ in paired_batches(lm, pairs, captured=1):
        mine = [pairs[number] for number in numbers]
        recorded = Replay(lm, clean, since=first_column(clean, mine, "last"))
        unedited = recorded.logits
        variants = [
            Variant(place, (vector.at(layer, dose=float(x), positions=last(1)),))
            for place in range(len(mine))
            for layer, at in zip(chosen, sizes, strict=True)
            for x in at
        ]

        read = partial(_moved, unedited, mine, [variant.place for variant in variants])
        values = recorded.run(variants, read).values
        found[numbers] = values.double().cpu().numpy().reshape(len(mine), *found.shape[1:])
        plain[numbers] = answer_logprob(unedited, mine).double().cpu().numpy()
        if on_pairs is not None:
            on_pairs(len(numbers))
    return Sensitivity(
        layers=chosen,
        dose=dose,
        slope=(found[:, :, 0, 0] - found[:, :, 1, 0]) / (2 * dose),
        kl=found[:, :, 0, 1],
        kl_target=kl_target,
        dose_at_kl=np.array(doses) if matched else None,
        kl_at_dose=found[:, :, 2, 1] if matched else None,
        effect_at_kl=found[:, :, 2, 0] - plain[:, None] if matched else None,
    )


def _moved(
    unedited: Float[Tensor, "batch d_vocab"],
    pairs: Sequence[PromptPair],
    place_of: Sequence[int],
    logits: Float[Tensor, "variants d_vocab"],
    numbers: Sequence[int],
) -> Float[Tensor, "variants 2"]:
    """log p(answer) of each variant, and its KL from the unedited prompt, in nats."""
    places = [place_of[number] for number in numbers]
    kl = kl_nats(unedited[torch.tensor(places, device=unedited.device)], logits)
    return torch.stack([answer_logprob(logits, [pairs[place] for place in places]).to(kl), kl], -1)
