"""Contrast vectors: where do a model's activations differ between two ways of answering?

For every site, with r(x) the mean activation over the positions read in response x,

    v = estimate( {r(first response of pair i)}, {r(second response of pair i)} ),

by default the mean difference (CAA), read over the response and at its last token. Plus is toward
the first response of each pair.

Poles such as brief and long differ in length, so the difference also holds whatever the model
writes into its stream as a response grows. Beside v stand two vectors that do not see that:

    matched       reads only the first m tokens of both responses, m the shorter one's length
    position_out  v - b (mean position of the first pole's tokens - that of the second's), with
                  b the slope of the activation on token position within a response

and their cosines with v, layer by layer. Low cosines mean that v is largely about length.

Sources: Rimsky et al. 2024, arXiv:2312.06681; Azizi et al. 2025 (ASC), arXiv:2507.04742.
Differs from the sources: prompt and response are tokenized apart, so the prompt's tokens are the
same in both responses; the mean over the response is the default, not the last token alone; the
sum over pairs runs in float64 while the model runs, and nothing but ``KEPT`` pairs is held.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from hooks.capture import stream
from hooks.errors import EmptySelectionError, InputError
from hooks.language_model import LanguageModel
from hooks.positions import Positions, last, response
from hooks.rows import Batch
from hooks.sites import Site, SiteKind
from hooks.tracker import frame_of
from interp.estimators import Estimator, estimate
from interp.pairs import AskedPair, Pair, pairs_hash
from interp.reliability import cosine, reliability
from interp.residual_norm import median_norm, stream_site, token_norms
from interp.steering_vector import SteeringVector, library_versions

READS: tuple[Positions, ...] = (response, last(1))
"""The default reads: the mean over the response, and its last token."""

KEPT = 256
"""Pairs whose activations are held, for reliability and for estimators that need single pairs. The
mean difference is summed over all pairs, so memory does not grow with their number."""


ROUNDING = 1e-6
"""A difference of means below this share of the residual norm is float32 rounding, and counts as zero:
responses that end in the same token do not differ there before the first block."""


@dataclass(frozen=True)
class Recipe:
    """What a contrast vector was made of, apart from the pairs."""

    kind: SiteKind
    estimator: Estimator
    read: Positions
    shuffled: bool = False
    """Estimated after swapping the poles of a random half of the pairs: a vector of nothing."""

    def __str__(self) -> str:
        return f"{self.kind}.{self.estimator}.{self.read}" + (".shuffled" if self.shuffled else "")


def contrast(
    lm: LanguageModel,
    pairs: Sequence[Pair | AskedPair],
    *,
    kind: SiteKind = "resid_post",
    layers: Sequence[int] | None = None,
    estimator: Estimator = "mean_difference",
    read: Positions = response,
    poles: tuple[str, str] = ("first", "second"),
    n_null: int = 20,
    seed: int = 0,
    on_tokens: Callable[[int], None] | None = None,
) -> SteeringVector:
    """One contrast vector at every layer, with its reliability: :func:`contrasts` of one recipe.

    Example:
        >>> vector = contrast(lm, pairs, poles=("brief", "long"))
        >>> vector.reliability[15].split_half
        0.97
    """
    made = contrasts(
        lm,
        pairs,
        kinds=(kind,),
        layers=layers,
        estimators=(estimator,),
        reads=(read,),
        poles=poles,
        n_null=n_null,
        seed=seed,
        on_tokens=on_tokens,
    )
    return next(iter(made.values()))


def contrasts(
    lm: LanguageModel,
    pairs: Sequence[Pair | AskedPair],
    *,
    kinds: Sequence[SiteKind] = ("resid_post",),
    layers: Sequence[int] | None = None,
    estimators: Sequence[Estimator] = ("mean_difference",),
    reads: Sequence[Positions] = READS,
    poles: tuple[str, str] = ("first", "second"),
    n_null: int = 20,
    with_shuffled: bool = False,
    seed: int = 0,
    on_tokens: Callable[[int], None] | None = None,
) -> dict[Recipe, SteeringVector]:
    """Every combination of kind, estimator and read, from one streaming pass over the pairs.

    Args:
        layers: None takes every layer.
        n_null: Draws of each shuffled-label null; 0 leaves reliability out.
        with_shuffled: Also make each vector from shuffled labels, as a control to steer with. Not for
            pca, whose direction does not depend on the labels.
        on_tokens: Called with the number of tokens of each batch read, for progress.

    Raises:
        InputError: for fewer than four pairs, a pair of equal texts, or shuffled labels with pca.
        SiteNotFoundError: before anything runs.
        EmptySelectionError: if a read matches no token of some response.
    """
    _check(pairs)
    wanted = range(lm.n_layers) if layers is None else layers
    chosen = sorted({Site(i, "resid_post").on(lm.n_layers).layer for i in wanted})
    if not (kinds and chosen and estimators and reads):
        raise InputError("contrasts needs at least one site kind, one layer, one estimator and one read.")
    if with_shuffled and "pca" in estimators:
        raise InputError(
            "Shuffled labels are no control for pca: swapping the poles of a pair turns its difference "
            "around, and leaves the principal direction of the differences as it was. Take another "
            "estimator, or random directions as the control."
        )
    sites = [lm.anatomy.resolve(Site(layer, kind)) for kind in kinds for layer in chosen]
    moments = _moments(lm, pairs, sites, reads, seed, on_tokens)
    recipes = [
        Recipe(kind, estimator, read, shuffled)
        for kind in kinds
        for estimator in estimators
        for read in reads
        for shuffled in ((False, True) if with_shuffled else (False,))
    ]
    made: dict[Recipe, SteeringVector] = {}
    for recipe in recipes:
        at = {layer: (Site(layer, recipe.kind), recipe.read) for layer in chosen}
        vectors = {layer: moments.vector(recipe, site) for layer, (site, _) in at.items()}
        made[recipe] = SteeringVector(
            vectors={layer: torch.from_numpy(v).float() for layer, v in vectors.items()},
            kind=recipe.kind,
            poles=poles,
            estimator=f"{recipe.estimator}{' of shuffled labels' if recipe.shuffled else ''}",
            read=str(recipe.read),
            resid_norm={layer: moments.norms[site] for layer, (site, _) in at.items()},
            n_pairs=len(pairs),
            pairs_hash=pairs_hash(pairs),
            seed=seed,
            model=lm.name,
            fingerprint=lm.fingerprint,
            tokenizer_hash=lm.tokenizer_hash,
            template_hash=lm.template_hash,
            reliability={
                layer: reliability(recipe.estimator, *moments.poles(recipe, site), n_null=n_null, seed=seed)
                for layer, (site, _) in at.items()
                if n_null > 0 and not recipe.shuffled
            },
            length_control={
                layer: moments.length_control(vectors[layer], *key)
                for layer, key in at.items()
                if not recipe.shuffled
            },
            versions=library_versions(),
        )
    return made


def _check(pairs: Sequence[Pair | AskedPair]) -> None:
    if len(pairs) < 4:
        raise InputError(
            f"{len(pairs)} pairs are too few to estimate a vector and say how reliable it is. Pass 4 "
            "or more; 50 is a good number."
        )
    for number, pair in enumerate(pairs):
        if pair.positive == pair.negative:
            raise InputError(
                f"Pair {number} has two equal texts ({pair.positive[:60]!r}): it shows no contrast. "
                "Take it out, or write its second text."
            )


Key = tuple[Site, Positions]


@dataclass(frozen=True)
class _Moments:
    """What one pass over the pairs leaves behind; its size does not depend on their number."""

    delta: dict[tuple[Site, Positions, bool], Float64[np.ndarray, " d"]]
    """Mean difference over all pairs, under the given labels and under shuffled ones."""

    matched: dict[Site, Float64[np.ndarray, " d"]]
    """The same, read over as many of the first response tokens in both."""

    slope: dict[Site, Float64[np.ndarray, " d"]]
    """Change of the activation for each token of position within a response."""

    later: dict[Positions, float]
    """Mean position of what is read in the first responses, minus that in the second."""

    held: dict[Key, Float[np.ndarray, "two kept d"]]
    norms: dict[Site, float]
    """Median norm of the residual stream that each site writes to, over response tokens."""

    swapped: Bool[np.ndarray, " kept"]
    """Which of the held pairs the shuffling swaps."""

    def vector(self, recipe: Recipe, site: Site) -> Float64[np.ndarray, " d"]:
        vector = (
            self.delta[site, recipe.read, recipe.shuffled]
            if recipe.estimator == "mean_difference"
            else estimate(recipe.estimator, *self.poles(recipe, site)).astype(np.float64)
        )
        rounding = np.linalg.norm(vector) <= ROUNDING * self.norms[site]
        return np.zeros_like(vector) if rounding else vector

    def poles(
        self, recipe: Recipe, site: Site
    ) -> tuple[Float[np.ndarray, "kept d"], Float[np.ndarray, "kept d"]]:
        """The held activations at the first pole and at the second, under the recipe's labels."""
        first, second = self.held[site, recipe.read]
        if not recipe.shuffled:
            return first, second
        swap = self.swapped[:, None]
        return np.where(swap, second, first), np.where(swap, first, second)

    def length_control(
        self, vector: Float64[np.ndarray, " d"], site: Site, read: Positions
    ) -> dict[str, float]:
        others = {
            "cos_matched": self.matched[site],
            "cos_position_out": vector - self.slope[site] * self.later[read],
        }
        floor = ROUNDING * self.norms[site]
        return {
            name: cosine(vector, other) if np.linalg.norm(other) > floor else 0.0
            for name, other in others.items()
        }


def _moments(
    lm: LanguageModel,
    pairs: Sequence[Pair | AskedPair],
    sites: Sequence[Site],
    reads: Sequence[Positions],
    seed: int,
    on_tokens: Callable[[int], None] | None,
) -> _Moments:
    """One pass over both responses of every pair.

    Everything wanted is linear in the activations, so each row needs one small matrix of weights
    over its tokens, the same at every site: a mean for each read, a mean over the matched tokens,
    and the centred positions, whose product with the activations gives the slope.
    """
    rows = [row for pair in pairs for row in pair.rows(lm.tokenizer)]
    lengths = [len(row.tokens) - row.prompt_length for row in rows]
    shared = torch.tensor([min(lengths[i - i % 2 : i - i % 2 + 2]) for i in range(len(rows))])
    sign = torch.tensor([1.0 if i % 2 == 0 else -1.0 for i in range(len(rows))]) / len(pairs)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(pairs))[:KEPT]
    swap = np.isin(np.arange(len(pairs)), rng.permutation(len(pairs))[: len(pairs) // 2])
    relabel = torch.tensor([-1.0 if swap[i // 2] else 1.0 for i in range(len(rows))])
    slot = {int(pair): place for place, pair in enumerate(sorted(chosen.tolist()))}
    streams = {site: stream_site(lm, site) for site in sites}
    n_reads, d = len(reads), lm.d_model
    total = {site: np.zeros((2 * n_reads + 2, d)) for site in sites}  # reads, matched, slope, shuffled reads
    held = {(site, read): np.zeros((2, len(slot), d), np.float32) for site in sites for read in reads}
    norms: dict[Site, list[np.ndarray]] = {site: [] for site in set(streams.values())}
    later, spread = np.zeros(n_reads), 0.0
    for batch, acts in stream(lm, rows, [*sites, *norms]):
        numbers = batch.row.tolist()
        signs, relabelled = sign[numbers], (sign * relabel)[numbers]
        if batch.start == 0:  # the weights of a row depend on all of it
            whole, batch_spread, where, all_own = _weights(lm, batch.whole, reads, shared[batch.row.cpu()])
            spread += batch_spread
            means = whole[:, :n_reads] @ where[..., None]
            later += (signs[:, None] * means[..., 0].cpu()).sum(0).numpy()
        weights, own = whole[..., batch.columns], all_own[:, batch.columns]
        scale = torch.stack(
            [*[signs] * (n_reads + 1), torch.ones(len(signs)), *[relabelled] * n_reads], dim=1
        ).double()
        here = [i for i, n in enumerate(numbers) if n // 2 in slot]
        pole, place = [numbers[i] % 2 for i in here], [slot[numbers[i] // 2] for i in here]
        for site in sites:
            pooled = (weights.to(acts[site].device) @ acts[site].float()).cpu()
            summed = torch.cat([pooled, pooled[:, :n_reads]], 1).double()
            total[site] += torch.einsum("br,brd->rd", scale, summed).numpy()
            for r, read in enumerate(reads):
                held[site, read][pole, place] += pooled[here, r].numpy()
        kept = torch.zeros(len(numbers), dtype=torch.bool, device=own.device)
        kept[here] = True
        for site, values in norms.items():
            values.append(token_norms(acts[site], own & kept[:, None]))
        if on_tokens is not None:
            on_tokens(int(batch.attention_mask.sum()))
    median = {site: median_norm(values) for site, values in norms.items()}
    return _Moments(
        delta={
            (site, read, shuffled): total[site][r + shuffled * (n_reads + 2)]
            for site in sites
            for r, read in enumerate(reads)
            for shuffled in (False, True)
        },
        swapped=swap[sorted(slot)],
        matched={site: total[site][n_reads] for site in sites},
        slope={site: total[site][n_reads + 1] / max(spread, 1e-12) for site in sites},
        later={read: float(later[r]) for r, read in enumerate(reads)},
        held=held,
        norms={site: median[streams[site]] for site in sites},
    )


def _weights(
    lm: LanguageModel, batch: Batch, reads: Sequence[Positions], shared: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch weights pos"], float, Float[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Weights over the tokens of each row; the spread of positions; the positions; the response."""
    frame = frame_of(lm, batch, {text for read in reads for text in read.texts})
    masks = [read.select(frame) for read in reads]
    for read, mask in zip(reads, masks, strict=True):
        if not (found := mask.any(1)).all():
            number = int(batch.row[int((~found).nonzero()[0])])
            raise EmptySelectionError(
                f"The read {read} matches no token of the {('first', 'second')[number % 2]} response "
                f"of pair {number // 2}. `response` and `last(1)` always match."
            )
    own = response.select(frame)
    ends = frame.prompt_length + shared.to(own.device)
    masks.append(own & (frame.position < ends[:, None]))
    means = [mask.float() / mask.sum(1, keepdim=True) for mask in masks]
    where = frame.position.float()
    centred = torch.where(own, where - (where * own).sum(1, keepdim=True) / own.sum(1, keepdim=True), 0)
    return torch.stack([*means, centred], 1), float((centred**2).sum()), where, own
