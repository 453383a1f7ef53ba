"""How strongly to steer: a dose in relative norm, a cap on its KL that can be checked, and the check.

A dose x at a layer adds x * r * u, with u the unit vector and r the median residual norm there. Let
z(x) be the next-token logits at one state with its last position edited, their mean over the
vocabulary taken out (the softmax does not see it). Then for all x, with a = |z'(0)| and L >= |z''|
on [0, x],

    KL( softmax z(0) || softmax z(x) )  <=  |z(x) - z(0)|^2 / 4  <=  ( x a + x^2 L / 2 )^2 / 4,

and the largest dose with a bound of at most eps is, in closed form,

    x* = ( sqrt(a^2 + 4 L sqrt(eps)) - a ) / L          (2 sqrt(eps) / a as L -> 0).

Source: Azizi et al. 2025, "Activation Steering for Chain-of-Thought Compression", arXiv:2507.04742.
Differs from the source: the quartic term is kept, so no cubic and no shrinking factor is needed;
logits are centred, which tightens the bound; x* is taken for each state and a low quantile over
states is the cap, where the source bounds a median; L is the larger of the second differences at 0
and at the first x*. None of this is a guarantee for a state not looked at, nor for a whole response,
in which every generated token is edited: so the KL is measured, at held-out states and throughout
responses, and stands beside the bound.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from scipy.optimize.elementwise import find_root
from torch import Tensor

from hooks.edits import Edit, widened
from hooks.errors import InputError
from hooks.inject import inject
from hooks.language_model import LanguageModel
from hooks.positions import generated, last
from hooks.replay import Replay, Variant
from hooks.rows import Batch, Row, batches_of, pad_left
from hooks.tracker import frame_of
from interp.steering_vector import SteeringVector

STEP = 0.02
"""Dose of the central differences. Float32 noise in the second one stays under 1% there."""


SMALLEST = 1e-4
"""Smallest dose that is aimed at: below it, float32 logits hardly move."""


@dataclass(frozen=True)
class MeasuredKL:
    """KL in nats from the unedited to the edited next-token distribution, over many states."""

    mean: float
    median: float
    p95: float
    eps: float
    share_above: float
    """Share of states with a KL above ``eps``."""

    n: int

    @staticmethod
    def of(kl: Float64[np.ndarray, " states"], eps: float) -> "MeasuredKL":
        return MeasuredKL(
            mean=float(kl.mean()),
            median=float(np.median(kl)),
            p95=float(np.quantile(kl, 0.95)),
            eps=eps,
            share_above=float((kl > eps).mean()),
            n=len(kl),
        )


@dataclass(frozen=True)
class KLCap:
    """The dose whose bound on the KL is ``eps`` at all but a ``quantile`` of the states."""

    dose: float
    eps: float
    quantile: float
    per_state: tuple[float, ...]
    """x* of each state."""

    slope: tuple[float, ...]
    """a of each state: change of the centred logits for each unit of dose."""

    curvature: tuple[float, ...]
    """L of each state."""

    local: float
    """The same quantile of the doses at which the KL's second-order expansion, x^2 Var_p(z'(0)) / 2
    with p the unedited distribution, reaches ``eps``. Near the truth for a small dose, and no bound.
    """


def exact_cap(a: float, L: float, eps: float) -> float:
    """Largest x >= 0 with (x a + x^2 L / 2)^2 / 4 <= eps; infinite where nothing moves.

    Example:
        >>> round(exact_cap(1.0, 5.0, 1e-3), 4)
        0.0555
    """
    root = math.sqrt(eps)
    if a == 0 and L == 0:
        return math.inf
    return 4 * root / (math.hypot(a, 2 * math.sqrt(L * root)) + a)  # the same root, without cancellation


def kl_nats(
    plain: Float[Tensor, "*batch d_vocab"], edited: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """KL( softmax(plain) || softmax(edited) ), in nats."""
    p, q = plain.double().log_softmax(-1), edited.double().log_softmax(-1)
    terms = torch.where(p.isneginf(), 0.0, p.exp() * (p - q))  # a masked token has no share
    return terms.sum(-1).clamp(min=0)


class LastTokens:
    """The last token of many rows, to be run again and again under different edits of it.

    All that came before, and below the edit, is computed once and unedited, so an evaluation costs one
    token a row from the edited block on.
    """

    @torch.no_grad()
    def __init__(self, lm: LanguageModel, rows: Sequence[Row]) -> None:
        if not rows or any(len(row.tokens) < 2 for row in rows):
            raise InputError("States need one row or more, each of two tokens or more.")
        self.lm = lm
        batch = pad_left(rows, range(len(rows)), pad_id=lm.pad_id, device=lm.device)
        self.lm, self._n = lm, len(rows)
        self._recorded = Replay(lm, batch, since=batch.input_ids.shape[1] - 1)
        self.plain = widened(self._recorded.logits)

    def __len__(self) -> int:
        return self._n

    def logits(self, edits: Sequence[Edit]) -> Float[Tensor, "states d_vocab"]:
        """Next-token logits of every state, each with its own edit of the last token."""
        variants = [Variant(place, (edit,)) for place, edit in enumerate(edits)]
        return self._recorded.run(variants, lambda logits, _: widened(logits)).values

    def at_doses(
        self, vector: SteeringVector, layer: int, doses: Sequence[float]
    ) -> Float[Tensor, "states d_vocab"]:
        """Logits under one vector, at a dose of its own for each state."""
        return self.logits([vector.at(layer, dose=float(dose), positions=last(1)) for dose in doses])

    def kl(
        self, vector: SteeringVector, cells: Sequence[tuple[int, float]]
    ) -> Float64[np.ndarray, "cells states"]:
        """The KL in nats of each (layer, dose) at every state, all in one replay."""
        n = len(self)
        edits = [vector.at(layer, dose=dose, positions=last(1)) for layer, dose in cells]
        variants = [Variant(place, (edit,)) for edit in edits for place in range(n)]

        def read(logits: Tensor, numbers: Sequence[int]) -> Tensor:
            places = torch.tensor([number % n for number in numbers], device=self.plain.device)
            return kl_nats(self.plain[places], logits)

        found: np.ndarray = self._recorded.run(variants, read).values.cpu().numpy()
        return found.reshape(len(cells), n)


def kl_cap(
    states: LastTokens, vector: SteeringVector, layer: int, *, eps: float = 1e-3, quantile: float = 0.05
) -> KLCap:
    """The capped dose of ``vector`` at ``layer``, from central differences at every state.

    Args:
        eps: Largest KL allowed at one position, in nats.
        quantile: Share of the states that may need a smaller dose.
    """
    if not (eps > 0 and 0 <= quantile < 1):
        raise InputError(f"eps={eps}, quantile={quantile}: eps is above 0 and quantile in [0, 1).")
    n = len(states)

    def differences(middle: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        low, mid, high = (
            _centred(states.at_doses(vector, layer, [x + shift for x in middle]).double())
            for shift in (-STEP, 0.0, STEP)
        )
        first, second = (high - low) / (2 * STEP), (high - 2 * mid + low) / STEP**2
        return first.norm(dim=-1), second.norm(dim=-1), first

    slope, curvature, derivative = differences([0.0] * n)
    first = [exact_cap(a, L, eps) for a, L in zip(slope.tolist(), curvature.tolist(), strict=True)]
    _, further, _ = differences([min(x, 1.0) for x in first])
    curvature = torch.maximum(curvature, further)
    caps = [exact_cap(a, L, eps) for a, L in zip(slope.tolist(), curvature.tolist(), strict=True)]
    p = states.plain.double().softmax(-1)
    variance = (p * derivative**2).sum(-1) - (p * derivative).sum(-1) ** 2
    local = (2 * eps / variance.clamp(min=1e-30)).sqrt().cpu().numpy()
    return KLCap(
        dose=float(np.quantile(caps, quantile, method="lower")),
        eps=eps,
        quantile=quantile,
        per_state=tuple(caps),
        slope=tuple(slope.tolist()),
        curvature=tuple(curvature.tolist()),
        local=float(np.quantile(local, quantile, method="lower")),
    )


def _centred(logits: Float[Tensor, "states d_vocab"]) -> Float[Tensor, "states d_vocab"]:
    return logits - logits.mean(-1, keepdim=True)


def measure_kl(
    states: LastTokens, vector: SteeringVector, layer: int, dose: float, *, eps: float = 1e-3
) -> MeasuredKL:
    """The KL of one edited position, at every state: what the bound speaks of."""
    return MeasuredKL.of(states.kl(vector, [(layer, dose)])[0], eps)


def dose_for_kl(
    states: LastTokens,
    vector: SteeringVector,
    layer: int,
    target: float,
    *,
    largest: float = 4.0,
    sign: int = 1,
) -> float:
    """The dose whose mean measured KL over the states is ``target`` nats: :func:`doses_for_kl` of a layer."""
    return doses_for_kl(states, vector, [layer], target, largest=largest, sign=sign)[0]


def doses_for_kl(
    states: LastTokens,
    vector: SteeringVector,
    layers: Sequence[int],
    target: float,
    *,
    largest: float = 4.0,
    sign: int = 1,
) -> list[float]:
    """Of each layer, the dose whose mean measured KL over the states is ``target`` nats, within 2% of it.

    Layers are searched side by side, each evaluation one replay of all that are not found yet.

    Returns:
        ``largest`` where even that dose stays below the target.
    """
    if not target > 0:
        raise InputError(f"A KL of {target} nats cannot be aimed at; pass a number above 0.")

    def excess(
        log_dose: Float64[np.ndarray, " some"], place: Int[np.ndarray, " some"]
    ) -> Float64[np.ndarray, " some"]:
        doses = sign * np.exp(log_dose)
        cells = [(layers[i], float(x)) for i, x in zip(place, doses, strict=True)]
        kl = states.kl(vector, cells).mean(1)
        return np.asarray(np.log(np.maximum(kl, 1e-30)) - math.log(target))

    low, high = math.log(SMALLEST), math.log(largest)
    every = np.arange(len(layers))
    doses = np.full(len(layers), largest)
    reached = every[excess(np.full(len(layers), high), every) > 0]
    if not len(reached):
        return doses.tolist()
    if (excess(np.full(len(reached), low), reached) >= 0).any():
        raise InputError(
            f"A KL of {target} nats is passed at a dose of {SMALLEST} already; aim at a larger one."
        )
    ends = np.full(len(reached), low), np.full(len(reached), high)
    found = find_root(excess, ends, args=(reached,), tolerances={"xatol": 0.02})
    doses[reached] = np.exp(found.x)
    return doses.tolist()


@torch.no_grad()
def kl_throughout(
    lm: LanguageModel,
    rows: Sequence[Row],
    edits: Sequence[Edit],
    *,
    eps: float = 1e-3,
    on_tokens: Callable[[int], None] | None = None,
) -> MeasuredKL:
    """The KL at every generated position of given responses, with ``edits`` at work all along."""
    found: list[np.ndarray] = []
    per_token = lm.token_bytes() + 2 * lm.d_vocab * 8  # two sets of logits, in float64
    batches = batches_of(
        rows, pad_id=lm.pad_id, device=lm.device, devices=lm.devices, row_bytes=per_token, max_rows=8
    )
    for batch in batches:
        plain, edited = _logits(lm, batch, ()), _logits(lm, batch, edits)
        chosen = generated.select(frame_of(lm, batch))
        found.append(kl_nats(plain[chosen], edited[chosen]).cpu().numpy())
        if on_tokens is not None:
            on_tokens(2 * int(batch.attention_mask.sum()))
    return MeasuredKL.of(np.concatenate(found), eps)


def _logits(lm: LanguageModel, batch: Batch, edits: Sequence[Edit]) -> Float[Tensor, "batch pos d_vocab"]:
    with inject(lm, edits) as injection:
        injection.tracker.begin(batch.row, batch.prompt_length)
        logits: Tensor = lm.model(**batch.inputs, use_cache=False).logits
    return logits
