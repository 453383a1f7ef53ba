"""Ablation: what does a block's contribution do for the answer?

What the attention, the MLP, or both of a block add to the residual stream is replaced at some positions,

    drop = log p(answer) of the unedited run - log p(answer) of the ablated one,    in nats,

by nothing (zero), by its mean over the prompts (mean), by what it was in another prompt (resample), or in
the same prompt with another subject (partner). Zero takes the model to where it never is; the mean keeps
what is common to all prompts, such as a constant bias; resampling keeps the distribution, and the partner
all that does not hang on the subject. A drop below nought says that the block was in the way.

The floor under a drop is what a change of the same norm does that points in a random direction.

Sources: Wang et al. 2023 (IOI), arXiv:2211.00593, for the mean; Chan et al. 2022, "Causal scrubbing", for
resampling.
Differs from the sources: the mean is over the same positions (``where``) of all prompts that are given.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooks.capture import run_to
from hooks.edits import Patch
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.replay import Replay, Variant
from hooks.sites import Site, SiteKind
from interp.controls import astray
from interp.prompt_pairs import Outcomes, PromptPair, Where, first_column, paired_batches, replayed

Part = Literal["attn_out", "mlp_out", "both"]
Replacement = Literal["zero", "mean", "resample", "partner"]

Means = Mapping[Site, Float[Tensor, " d_model"]]
"""The mean contribution at each site."""


@dataclass(frozen=True)
class Ablation:
    """What ablating each block did to each clean prompt."""

    layers: tuple[int, ...]
    part: Part
    replacement: Replacement
    where: Where
    ablated: Outcomes
    """Arrays are [pairs, layers]."""

    unedited: Outcomes
    """By pair."""

    @property
    def drop(self) -> Float[np.ndarray, "pairs layers"]:
        """Loss of log p(answer), in nats."""
        drop: np.ndarray = self.unedited.logprob[:, None] - self.ablated.logprob
        return drop

    @property
    def drop_in_difference(self) -> Float[np.ndarray, "pairs layers"]:
        """Loss of the logit difference, in nats."""
        drop: np.ndarray = self.unedited.logit_difference[:, None] - self.ablated.logit_difference
        return drop


@torch.no_grad()
def ablate(
    lm: LanguageModel,
    pairs: Sequence[PromptPair],
    *,
    part: Part = "both",
    replacement: Replacement = "mean",
    layers: Sequence[int] | None = None,
    where: Where = "last",
    means: Means | None = None,
    floor: int | None = None,
    seed: int = 0,
    on_pairs: Callable[[int], None] | None = None,
) -> Ablation:
    """Ablate each block in turn in the clean prompt of every pair.

    Args:
        layers: None takes every layer.
        where: Positions whose contribution is replaced.
        means: What ``mean`` puts in, from :func:`mean_contributions`; None takes it over ``pairs``.
        floor: A seed: every change keeps its norm, and points in a random direction drawn from it.
        seed: Of the prompts that are resampled from; no prompt is its own.
        on_pairs: Called with the number of pairs of each batch that is done, for progress.

    Raises:
        InputError: for no pairs, or fewer than two to resample from.

    Example:
        >>> ablate(lm, pairs, part="mlp_out").drop.mean(0)  # by layer
    """
    if not pairs:
        raise InputError("ablate needs at least one pair.")
    if replacement == "resample" and len(pairs) < 2:
        raise InputError(
            "Resampling takes a block's contribution from another prompt; pass two or more pairs."
        )
    chosen, kinds = _layers(lm, layers), _kinds(part)
    sites = [Site(layer, kind) for layer in chosen for kind in kinds]
    average: Means = {}
    if replacement == "mean":
        average = means or mean_contributions(lm, pairs, part=part, layers=chosen, where=where)
    others = _others(len(pairs), seed) if replacement == "resample" else []
    ablated, unedited = np.empty((len(pairs), len(chosen), 2)), np.empty((len(pairs), 2))
    for numbers, clean, _ in paired_batches(lm, pairs, captured=len(sites), where=where):
        mine = [pairs[number] for number in numbers]
        match replacement:
            case "zero":
                new = {site: [torch.zeros(1, lm.d_model)] * len(mine) for site in sites}
            case "mean":
                new = {site: [average[site][None]] * len(mine) for site in sites}
            case "resample":
                new = _held(lm, [pairs[others[number]] for number in numbers], sites, where)
            case "partner":
                new = _held(lm, [pair.swapped for pair in mine], sites, where)
        own = _held(lm, mine, sites, where) if floor is not None else {}
        recorded = Replay(lm, clean, since=first_column(clean, mine, where))
        variants = []
        for place, pair in enumerate(mine):
            for layer in chosen:
                here = [Site(layer, kind) for kind in kinds]
                edits = []
                for site in here:
                    value = _spread(new[site][place], pair, where)
                    if floor is not None:
                        old = _spread(own[site][place], pair, where)
                        value = astray(old, value, seed=floor, draw=(numbers[place], sites.index(site)))
                    edits.append(Patch(site, value, pair.positions(where)))
                variants.append(Variant(place, tuple(edits)))
            variants.append(Variant(place))
        found = replayed(recorded, mine, variants).reshape(len(mine), len(chosen) + 1, 2)
        ablated[numbers], unedited[numbers] = found[:, :-1], found[:, -1]
        if on_pairs is not None:
            on_pairs(len(numbers))
    return Ablation(tuple(chosen), part, replacement, where, Outcomes.of(ablated), Outcomes.of(unedited))


def _layers(lm: LanguageModel, layers: Sequence[int] | None) -> list[int]:
    wanted = range(lm.n_layers) if layers is None else layers
    return sorted({Site(layer, "resid_post").on(lm.n_layers).layer for layer in wanted})


def _kinds(part: Part) -> tuple[SiteKind, ...]:
    return ("attn_out", "mlp_out") if part == "both" else (part,)


def _spread(
    found: Float[Tensor, "found d_model"], pair: PromptPair, where: Where
) -> Float[Tensor, "pos d_model"]:
    """Values for the positions of a pair, from its first token on; the last found serves all that follow."""
    start, stop = pair.span(where)
    take = torch.arange(stop - start, device=found.device).clamp(max=len(found) - 1)
    return torch.cat([found.new_zeros(start, found.shape[-1]), found[take]])


def _contributions(
    lm: LanguageModel, pairs: Sequence[PromptPair], sites: Sequence[Site], where: Where
) -> Iterator[tuple[int, dict[Site, Float[Tensor, "pos d_model"]]]]:
    """Of each clean prompt: its number, and what is added at its positions."""
    for numbers, clean, _ in paired_batches(lm, pairs, captured=len(sites), where=where):
        acts, width = run_to(lm, clean, sites), clean.input_ids.shape[1]
        for place, number in enumerate(numbers):
            start, stop = (width - len(pairs[number]) + at for at in pairs[number].span(where))
            yield number, {site: acts[site][place, start:stop] for site in sites}


@torch.no_grad()
def mean_contributions(
    lm: LanguageModel,
    pairs: Sequence[PromptPair],
    *,
    part: Part = "both",
    layers: Sequence[int] | None = None,
    where: Where = "last",
) -> dict[Site, Float[Tensor, " d_model"]]:
    """The mean contribution of each block over the positions of all clean prompts."""
    sites = [Site(layer, kind) for layer in _layers(lm, layers) for kind in _kinds(part)]
    sums = {site: torch.zeros(lm.d_model, dtype=torch.float32, device=lm.device_at(site)) for site in sites}
    count = 0
    for number, found in _contributions(lm, pairs, sites, where):
        start, stop = pairs[number].span(where)
        count += stop - start
        for site in sites:
            sums[site] += found[site].float().sum(0)
    return {site: total / count for site, total in sums.items()}


def _held(
    lm: LanguageModel, pairs: Sequence[PromptPair], sites: Sequence[Site], where: Where
) -> dict[Site, list[Float[Tensor, "pos d_model"]]]:
    """The contributions at the positions of these prompts, in their order."""
    found = {
        number: {site: part.clone() for site, part in parts.items()}  # not views of whole batches
        for number, parts in _contributions(lm, pairs, sites, where)
    }
    return {site: [found[number][site] for number in range(len(pairs))] for site in sites}


def _others(n: int, seed: int) -> list[int]:
    """A random prompt for each, never itself: a random cycle through all."""
    order = np.random.default_rng(seed).permutation(n)
    following = np.empty(n, dtype=int)
    following[order] = np.roll(order, -1)
    return [int(i) for i in following]
