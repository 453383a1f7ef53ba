"""How much of the activations a dictionary keeps, beside three reconstructions that know no features.

Of n activations x at one site, of tokens that stand for text, with mean m, of which x_hat is made:

    FVU        = Σ |x - x_hat|² / Σ |x - m|²         0 keeps all, 1 as little as the mean, and it may be more
    L0         = mean number of latents of an x that are not zero
    density_j  = share of the n in which latent j is not zero; a latent is dead if it is 0
    CE         = mean of -log p(next token), in nats, with x_hat in the place of every such x
    recovered  = (CE_mean - CE) / (CE_mean - CE_clean)          1 loses nothing, 0 as much as the mean

The error x - x_hat is not kept here, as it is in :mod:`saes.edits`: what it costs is the question. Next
tokens are those that stand for text. The other three, over the same tokens:

    pca        m + V Vᵀ (x - m), V the r directions of most variance of these very activations, r the L0 of
               the dictionary: as many numbers an activation, from one basis for all
    random     a TopK dictionary with as many latents, of which r, as training would have begun with it
    mean       m, for every x: rank zero, FVU 1

Source: Gao et al. 2024, arXiv:2406.04093, for FVU and the spliced loss; Karvonen et al. 2025, "SAEBench",
arXiv:2503.09532, for the share recovered.
Differs from the sources: the share is against the mean, where SAEBench puts zeros, which hardly any
dictionary fails to beat; activations of special tokens, whose norms are tens of times those of others, are
neither counted nor replaced. Where a model has no begin-of-text token, its first token takes that part, and
would be nearly all of the variance: ``positions=everything - first(1)``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from hooks.capture import batches
from hooks.chat import special_ids
from hooks.errors import EmptySelectionError, InputError
from hooks.inject import open_injections
from hooks.language_model import LanguageModel
from hooks.moments import Moments
from hooks.positions import Positions, everything
from hooks.rows import Batch, Row
from hooks.sites import Site
from hooks.taps import tapped
from hooks.tracker import frame_of
from saes.activity import Tally, encoded, site_for
from saes.dictionary import Dictionary
from saes.edits import NUMBERS
from saes.topk import TopKSAE

LOGITS = 2**27
"""Logits computed at once, 512 MB of them in float32."""

Rebuild = Callable[[Float[Tensor, "tokens d_in"]], Float[Tensor, "tokens d_in"]]
"""From activations to what stands in for them."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What is left when activations are replaced by what was made of them."""

    fvu: float
    ce_nats: float
    recovered: float
    """NaN where the mean costs nothing."""

    row_ce_nats: Float[Tensor, " row"]
    """Mean over the next tokens of each row, for intervals; NaN where it has none."""


@dataclass(frozen=True, eq=False)
class Quality:
    """One dictionary on some rows of text."""

    site: Site
    n_tokens: int
    """Activations that were counted and replaced."""

    n_next_tokens: int
    clean_ce_nats: float
    clean_row_ce_nats: Float[Tensor, " row"]
    l0: float
    rank: int
    """r, of ``pca`` and ``random``."""

    density: Float[Tensor, " d_sae"]
    max_activation: Float[Tensor, " d_sae"]
    """The largest activation of each latent; 0 of a dead one."""

    dictionary: Reconstruction
    pca: Reconstruction
    random: Reconstruction
    mean: Reconstruction

    @property
    def dead_fraction(self) -> float:
        """Share of latents that no token activated. With few tokens, rare ones are among them."""
        return float((self.density == 0).float().mean())

    def as_dict(self) -> dict[str, Any]:
        """The numbers, for a card; without what there is for each latent and row."""
        card = {
            "site": str(self.site),
            "n_tokens": self.n_tokens,
            "n_next_tokens": self.n_next_tokens,
            "clean_ce_nats": self.clean_ce_nats,
            "l0": self.l0,
            "dead_fraction": self.dead_fraction,
            "rank": self.rank,
        }
        for name in ("dictionary", "pca", "random", "mean"):
            kept: Reconstruction = getattr(self, name)
            card |= {
                f"{name}_fvu": kept.fvu,
                f"{name}_ce_nats": kept.ce_nats,
                f"{name}_recovered": kept.recovered,
            }
        return card


@torch.no_grad()
def quality(
    lm: LanguageModel,
    rows: Sequence[Row],
    dictionary: Dictionary,
    *,
    site: Site | None = None,
    positions: Positions = everything,
    any_model: bool = False,
    seed: int = 0,
    on_tokens: Callable[[int], None] | None = None,
) -> Quality:
    """Judge a dictionary on text that it was not trained on, in six passes over ``rows``.

    Memory does not grow with their number.

    Args:
        site: None takes the dictionary's own.
        positions: Which tokens; special ones are left out in any case.
        any_model: Allow a dictionary that was trained on another model of the same width.
        seed: Of the random dictionary.
        on_tokens: Called with the number of tokens of each batch, for progress; six times for each token.

    Raises:
        InputError: if no site is known, inside an open :func:`hooks.inject`, or if activations do not vary.
        VectorError: for a dictionary of another width, model or site.
        SiteNotFoundError: if the model has no such site.
        EmptySelectionError: if no token is selected that stands for text.
    """
    site = site_for(lm, dictionary, site, any_model=any_model)
    if open_injections(lm):
        raise InputError("Edits are open on this model, and would be judged with it. Close `inject`.")
    text = _Text(lm, positions, on_tokens)
    sums = _sums(text, rows, dictionary, site)
    if not (variance := float(sums.moments.scatter.trace())) > 0:
        raise InputError(
            f"The {sums.moments.count} activations at {site} do not vary: there is nothing to explain. Pass "
            "more rows."
        )
    mean = sums.moments.mean.float()
    l0 = float(sums.tally.active.sum()) / sums.moments.count
    rank = min(round(l0), dictionary.d_in)
    rebuilds: dict[str, Rebuild] = {
        "dictionary": partial(_through, dictionary),
        "pca": partial(_projected, mean, _principal(sums.moments, rank)),
        "random": partial(_through, _untrained(dictionary, mean, k=max(1, rank), seed=seed)),
        "mean": partial(_constant, mean),
    }
    clean = _spliced(text, rows, site, None)
    runs = {name: _spliced(text, rows, site, rebuild) for name, rebuild in rebuilds.items()}
    cost = runs["mean"].ce_nats - clean.ce_nats
    kept = {
        name: Reconstruction(
            fvu=run.error / variance,
            ce_nats=run.ce_nats,
            recovered=(runs["mean"].ce_nats - run.ce_nats) / cost if cost else math.nan,
            row_ce_nats=run.row_ce_nats,
        )
        for name, run in runs.items()
    }
    return Quality(
        site=site,
        n_tokens=sums.moments.count,
        n_next_tokens=clean.n_next_tokens,
        clean_ce_nats=clean.ce_nats,
        clean_row_ce_nats=clean.row_ce_nats,
        l0=l0,
        rank=rank,
        density=(sums.tally.active / sums.moments.count).float(),
        max_activation=sums.tally.largest,
        **kept,
    )


class _Text:
    """Which tokens are meant, of any batch of one model."""

    def __init__(
        self, lm: LanguageModel, positions: Positions, on_tokens: Callable[[int], None] | None
    ) -> None:
        self.lm, self.positions, self.on_tokens = lm, positions, on_tokens
        ids = sorted(special_ids(lm.tokenizer))
        self._special = torch.tensor(ids, dtype=torch.long, device=lm.device)

    def selected(self, batch: Batch) -> Bool[Tensor, "batch pos"]:
        """The tokens of the selection that stand for text."""
        chosen = self.positions.select(frame_of(self.lm, batch, self.positions.texts))
        return chosen & ~torch.isin(batch.input_ids, self._special)

    def next_tokens(self, batch: Batch) -> Bool[Tensor, "batch next"]:
        """The tokens that stand for text and have one before them, from the second column on."""
        real = batch.attention_mask.bool()
        return real[:, :-1] & real[:, 1:] & ~torch.isin(batch.input_ids[:, 1:], self._special)

    def done(self, batch: Batch) -> None:
        if self.on_tokens is not None:
            self.on_tokens(int(batch.attention_mask.sum()))


@dataclass
class _Sums:
    """Of the activations, and of what the dictionary does with them."""

    moments: Moments
    tally: Tally


def _sums(text: _Text, rows: Sequence[Row], dictionary: Dictionary, site: Site) -> _Sums:
    home = dictionary.W_dec.device
    moments = Moments.of(torch.empty(0, dictionary.d_in, device=home), covariance=True)
    tally = Tally(dictionary.d_sae)
    for part in encoded(
        text.lm,
        rows,
        dictionary,
        site=site,
        positions=text.positions,
        any_model=True,
        on_tokens=text.on_tokens,
    ):
        moments = moments.merge(Moments.of(part.x, covariance=True))
        tally.add(part.z)
    return _Sums(moments, tally)


@dataclass(frozen=True)
class _Run:
    """Cross-entropy of one run over all rows, and the squared error of what was put in."""

    row_ce_nats: Float[Tensor, " row"]
    ce_nats: float
    n_next_tokens: int
    error: float


def _spliced(text: _Text, rows: Sequence[Row], site: Site, rebuild: Rebuild | None) -> _Run:
    """Run all rows with what ``rebuild`` makes of the activations in their place; None leaves them."""
    total, count = torch.zeros(2, len(rows), dtype=torch.float64)
    error = 0.0
    lm = text.lm
    for batch in batches(lm, rows, [site], max_tokens=max(1, LOGITS // lm.d_vocab)):
        splice = _Splice(text.selected(batch), rebuild)
        with tapped(lm.anatomy, {site: splice}):
            logits = lm.model(**batch.inputs, use_cache=False).logits
        error += splice.error
        wanted = text.next_tokens(batch).to(logits.device)
        for place, row in enumerate(batch.row.tolist()):
            here = wanted[place]
            target = batch.input_ids[place, 1:].to(logits.device)[here]
            nats = functional.cross_entropy(logits[place, :-1][here].float(), target, reduction="sum")
            total[row], count[row] = float(nats), int(here.sum())
        text.done(batch)
    n = int(count.sum())
    if not n:
        raise EmptySelectionError(
            "No row has a next token that stands for text; pass rows of two tokens or more."
        )
    return _Run((total / count).float(), float(total.sum()) / n, n, error)


class _Splice:
    """A tap that replaces the selected activations."""

    def __init__(self, selected: Bool[Tensor, "batch pos"], rebuild: Rebuild | None) -> None:
        self._selected, self._rebuild = selected, rebuild
        self.error = 0.0

    def __call__(self, value: Float[Tensor, "batch pos d_in"]) -> Float[Tensor, "batch pos d_in"] | None:
        if self._rebuild is None:
            return None
        here = self._selected.to(value.device)
        x = value[here].float()
        x_hat = self._rebuild(x)
        self.error += float((x - x_hat).double().square().sum())
        new = value.clone()
        new[here] = x_hat.to(value)
        return new


def _through(dictionary: Dictionary, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
    home = dictionary.W_dec.device
    parts = x.to(home).split(max(1, NUMBERS // dictionary.d_sae))
    return torch.cat([dictionary.decode(dictionary.encode(part), part) for part in parts]).to(x)


def _projected(
    mean: Float[Tensor, " d_in"], basis: Float[Tensor, "d_in rank"], x: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, "tokens d_in"]:
    mean, basis = mean.to(x), basis.to(x)
    return mean + (x - mean) @ basis @ basis.T


def _constant(mean: Float[Tensor, " d_in"], x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
    return mean.to(x).expand_as(x)


def _principal(moments: Moments, rank: int) -> Float[Tensor, "d_in rank"]:
    """The directions of most variance, orthonormal."""
    _, vectors = torch.linalg.eigh(moments.covariance.cpu())  # by ascending variance
    basis: Tensor = vectors[:, vectors.shape[1] - rank :].float()
    return basis


def _untrained(dictionary: Dictionary, mean: Float[Tensor, " d_in"], *, k: int, seed: int) -> TopKSAE:
    made = TopKSAE(dictionary.d_in, dictionary.d_sae, min(k, dictionary.d_sae), seed=seed).to(mean.device)
    made.b_dec.copy_(mean)
    return made
