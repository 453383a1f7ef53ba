"""Activation patching: which activations carry the difference between two prompts?

One run takes another run's activation at one site and some positions, everything else being its own:

    recovery = (m(patched) - m(base)) / (m(source) - m(base)),

with m the logit difference of the clean prompt's answer and the corrupted one's. Denoising puts clean
activations into the corrupted run (base corrupted, source clean): 1 where the site is enough to bring
the clean answer back. Noising is the reverse: 1 where the answer cannot do without it. At a full
residual stream (all positions) recovery is 1 at every layer, and patching a run into itself gives 0.

The floor under a recovery is what a change of the same norm does that points in a random direction.

Sources: Meng et al. 2022, arXiv:2202.05262; Heimersheim and Nanda 2024, arXiv:2404.15255.
Differs from the sources: the corrupted prompt asks for another answer, no noise is added; every layer
of a batch of pairs runs together (:mod:`hooks.replay`), from the layer where its patch is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from hooks.capture import run_to
from hooks.edits import Patch
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.replay import Replay, Variant
from hooks.sites import Site, SiteKind
from hooks.unembed import unembed
from interp.controls import astray
from interp.prompt_pairs import Outcomes, PromptPair, Where, first_column, paired_batches, read, replayed

Direction = Literal["denoising", "noising"]

SMALLEST_GAP = 0.1
"""Logit differences of base and source that are closer than this, in nats, give no ratio."""


@dataclass(frozen=True)
class Patching:
    """What patching each pair at each site did."""

    sites: tuple[Site, ...]
    where: Where
    direction: Direction
    patched: Outcomes
    """Arrays are [pairs, sites]."""

    base: Outcomes
    """The run that is patched, by pair."""

    source: Outcomes
    """The run whose activations are put in, by pair."""

    @property
    def usable(self) -> Bool[np.ndarray, " pairs"]:
        """Pairs whose two runs differ enough for a ratio."""
        far: np.ndarray = np.abs(self.source.logit_difference - self.base.logit_difference) >= SMALLEST_GAP
        return far

    @property
    def recovery(self) -> Float[np.ndarray, "pairs sites"]:
        """Normalised recovery; NaN for a pair that is not usable."""
        base = self.base.logit_difference[:, None]
        gap = np.where(self.usable, self.source.logit_difference - base[:, 0], np.nan)
        share: np.ndarray = (self.patched.logit_difference - base) / gap[:, None]
        return share

    def __repr__(self) -> str:
        n, of = int(self.usable.sum()), len(self.usable)
        what = f"Patching, {self.direction}, {self.where}: {n} of {of} pairs"
        if not n:
            return f"{what} differ enough"
        mean = np.nanmean(self.recovery, axis=0)
        best = int(np.nanargmax(mean))
        return f"{what}; recovery is largest at {self.sites[best]}, {mean[best]:.2f}"


@torch.no_grad()
def patch(
    lm: LanguageModel,
    pairs: Sequence[PromptPair],
    *,
    kinds: Sequence[SiteKind] = ("resid_post",),
    layers: Sequence[int] | None = None,
    where: Where = "last",
    direction: Direction = "denoising",
    floor: int | None = None,
    on_pairs: Callable[[int], None] | None = None,
) -> Patching:
    """Patch every pair at every site, one site at a time.

    Args:
        layers: None takes every layer.
        where: Positions that are patched.
        floor: A seed: every change keeps its norm, and points in a random direction drawn from it.
        on_pairs: Called with the number of pairs of each batch that is done, for progress.

    Raises:
        InputError: for no pairs or no sites.
        SiteNotFoundError: before anything runs.

    Example:
        >>> patch(lm, pairs, where="subject").recovery.mean(0)  # by layer
    """
    wanted = range(lm.n_layers) if layers is None else layers
    sites = tuple(lm.anatomy.resolve(Site(layer, kind)) for kind in kinds for layer in wanted)
    if not pairs or not sites:
        raise InputError("patch needs at least one pair and one site.")
    chosen = [pair.swapped if direction == "noising" else pair for pair in pairs]
    last = Site(lm.n_layers - 1, "resid_post")
    patched = np.empty((len(pairs), len(sites), 2))
    ends = np.empty((len(pairs), 2, 2))
    for numbers, source, base in paired_batches(lm, chosen, captured=len(set(sites)), where=where):
        mine = [chosen[number] for number in numbers]
        asked = [pairs[number] for number in numbers]
        acts = run_to(lm, source, {*sites, last})
        if floor is not None:
            own = run_to(lm, base, sites)
        recorded = Replay(lm, base, since=first_column(base, mine, where))
        width = base.input_ids.shape[1]
        variants = []
        for place, pair in enumerate(mine):
            start, stop = width - len(pair), width - len(pair) + pair.span(where)[1]
            positions = pair.positions(where)
            for j, site in enumerate(sites):
                value = acts[site][place, start:stop]
                if floor is not None:
                    here = own[site][place, start:stop]
                    value = astray(here, value, seed=floor, draw=(numbers[place], j))
                variants.append(Variant(place, (Patch(site, value, positions),)))
            variants.append(Variant(place))
        found = replayed(recorded, asked, variants).reshape(len(mine), len(sites) + 1, 2)
        patched[numbers], ends[numbers, 0] = found[:, :-1], found[:, -1]
        ends[numbers, 1] = read(unembed(lm, acts[last][:, -1:])[:, 0], asked).cpu().numpy()
        if on_pairs is not None:
            on_pairs(len(numbers))
    base_and_source = (Outcomes.of(ends[:, end]) for end in (0, 1))
    return Patching(sites, where, direction, Outcomes.of(patched), *base_and_source)
