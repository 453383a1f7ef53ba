"""Grafting: which layers hold the difference between two models of one family?

Blocks of one model, the donor, take the place of the same blocks of the other, the host: a tuned model
and its base, either way round, or two checkpoints. How much of the donor's behaviour comes with them,

    carried_kl = 1 - mean KL(donor || graft) / mean KL(donor || host),

with means over prompts and the KL of next-token distributions: 1 where the graft behaves as the donor, 0
as the host, below 0 further away than the host. By prompt, with m = log p(answer),

    carried = (m(graft) - m(host)) / (m(donor) - m(host)).

Only blocks move, each with what its own model gives it beside the residual (mask, rotary angles);
embedding, final norm and unembedding stay the host's. Between models that differ in nothing else, a graft
of all blocks is the donor, to the bit; of blocks that do not differ, the host. Layers need not add up: two
that only work together carry nothing alone.

How far the weights went, ||W_tuned - W_base|| / ||W_base||, says where training pushed, not what it did.

Sources: Panigrahi et al. 2023, "Task-Specific Skill Localization in Fine-tuned Language Models",
arXiv:2302.06600, for grafting; Prakash et al. 2024, arXiv:2402.14811, for patching across models.
Differs from the sources: whole blocks in the order of the layers, where the first learns a sparse mask over
parameters and the second patches activations; no weight is copied or written, each block runs in its own
model, from the layer where the graft begins.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, assert_never

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from hooks.edits import widened
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.placement import weights_of
from hooks.replay import Replay
from hooks.rows import pad_left
from hooks.unembed import unembed
from interp.dose import kl_nats
from interp.patching import SMALLEST_GAP
from interp.prompt_pairs import Outcomes, PromptPair, paired_batches, read
from interp.stats import Interval, ratio_bootstrap

Shape = Literal["layer", "prefix", "suffix"]
"""The blocks of the donor that are grafted at layer l: l alone, 0 to l, or l to the last."""

Side = Literal["base", "tuned"]

Part = Literal["attention", "mlp"]

SMALLEST_KL = 1e-7
"""A mean KL of donor and host below this, in nats, is the rounding of float32."""


@dataclass(frozen=True)
class WeightChange:
    """How far the weights of a model went, as a share of their norm; 0 where no bit differs."""

    blocks: Float64[np.ndarray, " layers"]
    """Over all parameters of each block, its norms included."""

    attention: Float64[np.ndarray, " layers"]
    mlp: Float64[np.ndarray, " layers"]
    outside: Mapping[str, float]
    """Of each parameter that is in no block, by name: embedding, final norm, unembedding where untied."""


@dataclass(frozen=True)
class Grafting:
    """What grafting at each layer did to the next token of each clean prompt."""

    shape: Shape
    into: Side
    """The host."""

    grafted: Outcomes
    """Arrays are [pairs, layers]."""

    host: Outcomes
    """By pair."""

    donor: Outcomes
    """By pair."""

    kl: Float[np.ndarray, "pairs layers"]
    """KL(donor || graft), in nats."""

    kl_host: Float[np.ndarray, " pairs"]
    """KL(donor || host), in nats."""

    @property
    def usable(self) -> Bool[np.ndarray, " pairs"]:
        """Pairs whose log p(answer) differs enough between donor and host for a share."""
        far: np.ndarray = np.abs(self.donor.logprob - self.host.logprob) >= SMALLEST_GAP
        return far

    @property
    def carried(self) -> Float[np.ndarray, "pairs layers"]:
        """The share of the donor's log p(answer) that the graft has; NaN for a pair that is not usable."""
        gap = np.where(self.usable, self.donor.logprob - self.host.logprob, np.nan)
        share: np.ndarray = (self.grafted.logprob - self.host.logprob[:, None]) / gap[:, None]
        return share

    @property
    def undefined(self) -> str | None:
        """Why there is nothing to carry, and ``carried_kl`` is NaN; None where there is something."""
        mean = float(self.kl_host.mean())
        if mean >= SMALLEST_KL:
            return None
        return (
            f"donor and host say the same on all {len(self.kl_host)} prompts (mean KL {mean:.1g} nats), so "
            "there is nothing to carry"
        )

    @property
    def carried_kl(self) -> Float[np.ndarray, " layers"]:
        """The share of the donor's behaviour that the graft has, over all pairs."""
        mean = np.nan if self.undefined else self.kl_host.mean()
        share: np.ndarray = (self.kl_host[:, None] - self.kl).mean(0) / mean
        return share

    def intervals(
        self, *, n_resamples: int = 10_000, level: float = 0.95, seed: int = 0
    ) -> tuple[Interval, ...]:
        """``carried_kl`` of each layer, with a paired bootstrap over prompts: the same for every layer."""
        n = len(self.kl_host)
        if self.undefined:
            return (Interval(np.nan, np.nan, np.nan, n, level),) * int(self.kl.shape[1])
        lost = [
            ratio_bootstrap(kl, self.kl_host, n_resamples=n_resamples, level=level, seed=seed)
            for kl in self.kl.T
        ]
        return tuple(Interval(0.0 - x.estimate, 0.0 - x.high, 0.0 - x.low, n, level) for x in lost)

    def __repr__(self) -> str:
        donor: Side = "base" if self.into == "tuned" else "tuned"
        what = f"Grafting of {donor} into {self.into}, by {self.shape}, {len(self.kl_host)} pairs"
        if self.undefined:
            return f"{what}; {self.undefined}"
        share = self.carried_kl
        best = int(share.argmax())
        return f"{what}; carried_kl is largest at layer {best}, {share[best]:.2f}"


@torch.no_grad()
def weight_change(base: LanguageModel, tuned: LanguageModel) -> WeightChange:
    """How far each block of ``tuned`` is from that of ``base``, ``||W_tuned - W_base|| / ||W_base||``.

    Norms are Frobenius's, in float32 or wider, over all parameters of a part. The children of a block that
    hold matrices are its attention, by name, and its MLP; its norms count in the block alone. One tensor of
    each model is read at a time, where it is or where ``base`` has it. Infinite where ``base`` is all zero.

    Raises:
        InputError: if the two differ in layers, parameters or vocabulary, or weights are quantised.
    """
    require_alike(base, tuned)
    places = _places(base)
    squares = {part: np.zeros((base.n_layers, 2)) for part in ("block", "attention", "mlp")}
    outside = {}
    for (name, before), (same, after) in zip(weights_of(base.model), weights_of(tuned.model), strict=True):
        assert name == same
        found = _squares(name, before, after)
        if name not in places:
            outside[name] = float(_relative(found))
            continue
        layer, part = places[name]
        squares["block"][layer] += found
        if part is not None:
            squares[part][layer] += found
    blocks, attention, mlp = (_relative(found) for found in squares.values())
    return WeightChange(blocks, attention, mlp, outside)


@torch.no_grad()
def graft(
    base: LanguageModel,
    tuned: LanguageModel,
    pairs: Sequence[PromptPair],
    *,
    shape: Shape = "layer",
    into: Side = "base",
    on_pairs: Callable[[int], None] | None = None,
) -> Grafting:
    """Graft blocks at every layer, and run the clean prompt of every pair through each graft.

    A graft costs its layers from the one where it begins, so all of them about half a pass each; the next
    token is that after the last of the prompt. Where the dtypes differ, each block computes in its own, and
    the rounding is a part of what it carries.

    Args:
        shape: The blocks of the donor that are grafted at layer l: l alone, 0 to l, or l to the last.
        into: The host; the other is the donor.
        on_pairs: Called with the number of pairs of each batch that is done, for progress.

    Raises:
        InputError: for no pairs; if the two differ in layers, parameters or vocabulary.
        ModelRefusedError: if a block, run again on the input that it had, does not give what it gave.

    Example:
        >>> graft(base, tuned, pairs, shape="prefix").carried_kl  # by layer, from about 0 to about 1
    """
    if not pairs:
        raise InputError("graft needs at least one pair.")
    require_alike(base, tuned)
    host, donor = {"base": (base, tuned), "tuned": (tuned, base)}[into]
    n, rows = host.n_layers, [pair.clean for pair in pairs]
    kl, found = np.empty((len(pairs), n + 1)), np.empty((len(pairs), n + 2, 2))
    for numbers, clean, _ in paired_batches(host, pairs, captured=2 * n):
        mine = [pairs[number] for number in numbers]
        ours = _Blocks(host, clean)
        theirs = _Blocks(donor, pad_left(rows, numbers, pad_id=host.pad_id, device=donor.device))
        wanted = theirs.logits.to(host.device)
        plain = ours.resid_pre(n)
        for column, resid in enumerate(chain(_grafts(ours, theirs, n, shape), [plain])):
            logits = unembed(host, resid[:, -1:].to(plain))[:, 0]
            kl[numbers, column] = kl_nats(wanted, logits).cpu().numpy()
            found[numbers, column] = read(logits, mine).cpu().numpy()
        found[numbers, n + 1] = read(wanted, mine).cpu().numpy()
        if on_pairs is not None:
            on_pairs(len(numbers))
    return Grafting(
        shape,
        into,
        grafted=Outcomes.of(found[:, :n]),
        host=Outcomes.of(found[:, n]),
        donor=Outcomes.of(found[:, n + 1]),
        kl=kl[:, :n],
        kl_host=kl[:, n],
    )


class _Blocks(Replay):
    """A recorded pass, whose blocks can be run on the residual of another model."""

    def through(
        self, hidden: Float[Tensor, "batch pos d_model"], start: int, stop: int
    ) -> Float[Tensor, "batch pos d_model"]:
        """The output of block ``stop - 1`` where ``hidden`` is the input of block ``start``."""
        places = torch.arange(len(hidden))
        for layer in range(start, stop):
            hidden = self.block(layer, hidden.to(self.resid_pre(layer)), places)
        return hidden


def _grafts(
    host: _Blocks, donor: _Blocks, n: int, shape: Shape
) -> Iterator[Float[Tensor, "batch pos d_model"]]:
    """The output of the last of ``n`` blocks under the graft at each layer."""
    grown = host.resid_pre(0)
    for layer in range(n):
        match shape:
            case "layer":
                yield host.through(donor.through(host.resid_pre(layer), layer, layer + 1), layer + 1, n)
            case "prefix":
                grown = donor.through(grown, layer, layer + 1)
                yield host.through(grown, layer + 1, n)
            case "suffix":
                yield donor.through(host.resid_pre(layer), layer, n)
            case _:
                assert_never(shape)


def require_alike(base: LanguageModel, tuned: LanguageModel) -> None:
    """Raise :class:`InputError`, with the first difference, unless the two can be compared block by block."""
    if base.n_layers != tuned.n_layers:
        raise InputError(
            f"base ({base.name}) has {base.n_layers} layers and tuned ({tuned.name}) {tuned.n_layers}; "
            "pass two models of one architecture and size."
        )
    shapes, others = (
        {name: tuple(weight.shape) for name, weight in weights_of(lm.model)} for lm in (base, tuned)
    )
    for name in [*shapes, *others]:
        if shapes.get(name) != others.get(name):
            raise InputError(
                f"{name} is {shapes.get(name, 'missing')} in base ({base.name}) and "
                f"{others.get(name, 'missing')} in tuned ({tuned.name}); pass two models of one architecture "
                "and size, with adapters merged into their weights."
            )
    ids, other_ids = (lm.tokenizer.get_vocab() for lm in (base, tuned))
    if odd := sorted(ids.items() ^ other_ids.items()):
        token = odd[0][0]
        raise InputError(
            f"The tokenizers differ: {token!r} is {ids.get(token, 'missing')} in base ({base.name}) and "
            f"{other_ids.get(token, 'missing')} in tuned ({tuned.name}). If both models read your prompts "
            "alike, say so with dataclasses.replace(tuned, tokenizer=base.tokenizer)."
        )


def _places(lm: LanguageModel) -> dict[str, tuple[int, Part | None]]:
    """Of each parameter that is in a block: the layer, and the part of the block; None for its norms."""
    paths = {module: path for path, module in lm.model.named_modules()}
    places: dict[str, tuple[int, Part | None]] = {}
    for layer, block in enumerate(lm.anatomy.blocks):
        parts: dict[str, Part] = {
            child: "attention" if "att" in child else "mlp"
            for child, module in block.module.named_children()
            if any(weight.dim() > 1 for weight in module.parameters())
        }
        for name, _ in block.module.named_parameters():
            places[f"{paths[block.module]}.{name}"] = layer, parts.get(name.split(".")[0])
    return places


def _squares(name: str, before: Tensor, after: Tensor) -> Float64[np.ndarray, " 2"]:
    """The squared norms of a change and of what was there before."""
    for weight in (before, after):
        if not weight.is_floating_point() or weight.dtype.itemsize == 1:
            raise InputError(
                f"{name} holds quantised weights ({weight.dtype}), whose codes have no distance; load both "
                "models in float32 or bfloat16."
            )
    wide = widened(before)
    change = widened(after.to(before.device)) - wide
    rows = (x.norm(dim=-1).cpu().double() for x in (change, wide))
    return np.array([float(norms.square().sum()) for norms in rows])


def _relative(squares: Float64[np.ndarray, "*parts 2"]) -> Float64[np.ndarray, "*parts"]:
    change, size = squares[..., 0], squares[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(change == 0, 0.0, np.sqrt(change / size))
