"""First-order attribution: every patch at once, from gradients.

The effect of patching site a from the base run to the source run, to first order around the base,

    attribution(a) = sum over positions  (a_source - a_base) . dm/da |_base,

with m the logit difference. One backward pass gives all sites. Integrated gradients replace the slope at
the base by its mean along the straight line of inputs from base to source, at ``steps`` points; then the
attributions of the first ``resid_pre`` sum to m(source) - m(base), which patching it would give.

A linear method misjudges a site whose effect is not linear, so each result can be held against exact
patching on a sample of pairs: their rank correlation, and the largest disagreement.

Sources: Nanda 2023, "Attribution patching"; Syed et al. 2023, arXiv:2310.10348; Hanna et al. 2024 (EAP-IG),
arXiv:2403.17806; Sundararajan et al. 2017, arXiv:1703.01365.
Differs from the sources: the objective is a logit difference, never the KL of a run to itself, whose
gradient is zero.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from hooks.capture import run_to
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.rows import Batch
from hooks.sites import Site, SiteKind
from hooks.taps import tapped
from hooks.unembed import unembed
from interp.controls import redirected
from interp.patching import Direction, patch
from interp.prompt_pairs import PromptPair, Where, logit_difference, paired_batches


@dataclass(frozen=True)
class Agreement:
    """How an approximation compares with exact patching of the same sites."""

    n: int
    """Pairs patched exactly."""

    rank_correlation: float
    """Spearman's, over (pair, site)."""

    by_site: float
    """Spearman's, of the means over pairs."""

    largest: float
    """The largest disagreement of a (pair, site), in nats of the logit difference."""

    at: Site

    def __str__(self) -> str:
        return (
            f"rank correlation {self.rank_correlation:.2f} over pairs and sites, {self.by_site:.2f} over "
            f"sites; largest disagreement {self.largest:.2g} nats at {self.at} (n = {self.n} pairs)"
        )


@dataclass(frozen=True)
class Attribution:
    """The first-order effect of patching each pair at each site."""

    sites: tuple[Site, ...]
    where: Where
    direction: Direction
    steps: int
    effect: Float[np.ndarray, "pairs sites"]
    """In nats of the logit difference."""

    gap: Float[np.ndarray, " pairs"]
    """m(source) - m(base): what a full patch would give."""

    @property
    def recovery(self) -> Float[np.ndarray, "pairs sites"]:
        """The effect as a share of the gap."""
        share: np.ndarray = self.effect / self.gap[:, None]
        return share

    def against(self, lm: LanguageModel, pairs: Sequence[PromptPair], *, n: int = 16) -> Agreement:
        """Hold the first ``n`` pairs against exact patching."""
        if len(pairs) != len(self.gap):
            raise InputError(f"{len(pairs)} pairs for an attribution of {len(self.gap)}; pass the same ones.")
        sample = pairs[:n]
        kinds: list[SiteKind] = list(dict.fromkeys(site.kind for site in self.sites))
        layers = list(dict.fromkeys(site.layer for site in self.sites))
        exact = patch(lm, sample, kinds=kinds, layers=layers, where=self.where, direction=self.direction)
        true = exact.patched.logit_difference - exact.base.logit_difference[:, None]
        found = self.effect[: len(sample)]
        off = np.abs(found - true)
        return Agreement(
            n=len(sample),
            rank_correlation=float(spearmanr(found.ravel(), true.ravel()).statistic),
            by_site=float(spearmanr(found.mean(0), true.mean(0)).statistic),
            largest=float(off.max()),
            at=self.sites[int(off.max(0).argmax())],
        )


def attribute(
    lm: LanguageModel,
    pairs: Sequence[PromptPair],
    *,
    kinds: Sequence[SiteKind] = ("resid_post",),
    layers: Sequence[int] | None = None,
    where: Where = "last",
    direction: Direction = "denoising",
    steps: int = 1,
    floor: int | None = None,
    max_rows: int = 16,
    on_pairs: Callable[[int], None] | None = None,
) -> Attribution:
    """The first-order effect of patching every pair at every site.

    Args:
        layers: None takes every layer.
        steps: 1 takes the slope at the base run; more integrate it from base to source (midpoints).
        floor: A seed: every change keeps its norm, and points in a random direction drawn from it.
        max_rows: Pairs of one backward pass, which holds every block's working tensors.
        on_pairs: Called with the number of pairs of each batch that is done, for progress.

    Raises:
        InputError: for no pairs, no sites or no steps.

    Example:
        >>> found = attribute(lm, pairs, steps=8)
        >>> print(found.against(lm, pairs))
    """
    wanted = range(lm.n_layers) if layers is None else layers
    sites = tuple(lm.anatomy.resolve(Site(layer, kind)) for kind in kinds for layer in wanted)
    if not pairs or not sites or steps < 1:
        raise InputError("attribute needs at least one pair, one site and one step.")
    chosen = [pair.swapped if direction == "noising" else pair for pair in pairs]
    effect, gap = np.empty((len(pairs), len(sites))), np.empty(len(pairs))
    entry, last = Site(0, "resid_pre"), Site(lm.n_layers - 1, "resid_post")
    for numbers, source, base in paired_batches(lm, chosen, captured=2 * lm.n_layers, max_rows=max_rows):
        asked = [pairs[number] for number in numbers]
        acts = [run_to(lm, batch, {entry, last, *sites}) for batch in (source, base)]
        ends = [_difference(lm, found[last], asked) for found in acts]
        shift = acts[0][entry] - acts[1][entry]
        slopes: dict[Site, Tensor] = {}
        for step in range(steps):
            along = (step + 0.5) / steps if steps > 1 else 0.0
            for site, slope in _slopes(lm, base, asked, sites, acts[1][entry] + along * shift).items():
                slopes[site] = slopes.get(site, torch.zeros_like(slope)) + slope / steps
        mask = _mask(base, [chosen[number] for number in numbers], where)
        for column, site in enumerate(sites):
            change = (acts[0][site] - acts[1][site]).float()
            if floor is not None:
                change = torch.stack(
                    [
                        redirected(one, seed=floor, draw=(number, column))
                        for one, number in zip(change, numbers, strict=True)
                    ]
                )
            moved = (change * slopes[site]).sum(-1)
            effect[numbers, column] = (moved * mask.to(moved.device)).sum(1).double().cpu().numpy()
        gap[numbers] = (ends[0] - ends[1]).double().cpu().numpy()
        if on_pairs is not None:
            on_pairs(len(numbers))
    return Attribution(sites, where, direction, steps, effect, gap)


def _slopes(
    lm: LanguageModel,
    batch: Batch,
    pairs: Sequence[PromptPair],
    sites: Sequence[Site],
    entering: Float[Tensor, "batch pos d_model"],
) -> dict[Site, Float[Tensor, "batch pos d_model"]]:
    """dm/da at each site, with the first block given ``entering``."""
    held: dict[Site, Tensor] = {}

    def hold(site: Site, value: Tensor) -> Tensor:
        if site == Site(0, "resid_pre"):
            value = entering.detach().requires_grad_()
        held[site] = value
        return value

    with torch.enable_grad(), ExitStack() as stack:
        taps = {site: partial(hold, site) for site in {*sites, Site(0, "resid_pre")}}
        stack.enter_context(tapped(lm.anatomy, taps))
        logits = lm.model(**batch.inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        total = logit_difference(logits, pairs).sum()
        found = torch.autograd.grad(total, [held[site] for site in sites])
    return {site: slope.float() for site, slope in zip(sites, found, strict=True)}


@torch.no_grad()
def _difference(
    lm: LanguageModel, ended: Float[Tensor, "batch pos d_model"], pairs: Sequence[PromptPair]
) -> Float[Tensor, " pair"]:
    """m of the run whose last block gave ``ended``."""
    return logit_difference(unembed(lm, ended[:, -1:])[:, 0], pairs)


def _mask(batch: Batch, pairs: Sequence[PromptPair], where: Where) -> Bool[Tensor, "batch pos"]:
    """True on the columns of each pair's span."""
    mask = torch.zeros(batch.input_ids.shape, dtype=torch.bool, device=batch.input_ids.device)
    for place, pair in enumerate(pairs):
        start, stop = (mask.shape[1] - len(pair) + at for at in pair.span(where))
        mask[place, start:stop] = True
    return mask
