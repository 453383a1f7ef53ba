"""Count, mean and spread of activations over any number of tokens: sums are kept, not tensors.

Of n activations x, at one site and over the tokens of one selection,

    mean = Σ x / n,   scatter = Σ (x - mean)²   or, with covariance,   Σ (x - mean)(x - mean)ᵀ,

and those of two disjoint sets a, b of tokens are merged, with d = mean_b - mean_a, as

    n = n_a + n_b,   mean = mean_a + d n_b / n,   scatter = scatter_a + scatter_b + d² n_a n_b / n,

in which no large numbers are subtracted from each other, so a large mean does not drown the spread.

Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
variances", STAN-CS-79-773.
Differs from the source: nothing. Sums are in float64, or in float32 on a device that has nothing wider.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from hooks.capture import stream
from hooks.errors import EmptySelectionError, InputError
from hooks.language_model import LanguageModel
from hooks.positions import Positions, everything
from hooks.rows import WINDOW, Row
from hooks.sites import Site
from hooks.tracker import frame_of

BLOCK = 4096
"""Tokens that are widened to float64 at once."""


@dataclass(frozen=True)
class Moments:
    """Of the activations at one site, on the device of its layer."""

    count: int
    mean: Float[Tensor, " d_model"]
    scatter: Float[Tensor, " d_model"] | Float[Tensor, "d_model d_model"]
    """Sum of the squared deviations from the mean; of the products of every two, with covariance."""

    @staticmethod
    @torch.no_grad()
    def of(x: Float[Tensor, "tokens d_model"], *, covariance: bool = False) -> "Moments":
        """The moments of these activations, which may be none."""
        wide = x.to(torch.float32 if x.device.type == "mps" else torch.float64)
        mean = wide.sum(0) / max(1, len(x))
        deviation = wide - mean
        scatter = deviation.T @ deviation if covariance else (deviation**2).sum(0)
        return Moments(len(x), mean, scatter)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of the activations of both.

        Raises:
            InputError: if they differ in width, or one has a covariance and the other has none.
        """
        if self.scatter.shape != other.scatter.shape:
            raise InputError(
                f"Moments with scatter {tuple(self.scatter.shape)} and {tuple(other.scatter.shape)} cannot "
                "be merged: take both of one width, and both with covariance or both without."
            )
        count = self.count + other.count
        if not count:
            return self
        distance = other.mean.to(self.mean.device) - self.mean
        weight = self.count * other.count / count
        scatter = self.scatter + other.scatter.to(self.scatter.device)
        if scatter.dim() == 1:
            scatter += weight * distance**2
        else:
            scatter.addr_(distance, distance, alpha=weight)
        return Moments(count, self.mean + distance * (other.count / count), scatter)

    @property
    def variance(self) -> Float[Tensor, " d_model"]:
        """``scatter / count`` of each entry, as ``numpy.var``."""
        diagonal = self.scatter if self.scatter.dim() == 1 else self.scatter.diagonal()
        return diagonal / self.count

    @property
    def std(self) -> Float[Tensor, " d_model"]:
        return self.variance.sqrt()

    @property
    def covariance(self) -> Float[Tensor, "d_model d_model"]:
        """``scatter / count``, as ``numpy.cov(..., bias=True)``.

        Raises:
            InputError: if only the variance was kept.
        """
        if self.scatter.dim() == 1:
            raise InputError("These moments have a variance only; ask for moments(..., covariance=True).")
        return self.scatter / self.count


@overload
def moments(
    lm: LanguageModel,
    rows: Iterable[Row],
    sites: Sequence[Site],
    *,
    positions: Positions = everything,
    covariance: bool = False,
    on_tokens: Callable[[int], None] | None = None,
) -> dict[Site, Moments]: ...


@overload
def moments(
    lm: LanguageModel,
    rows: Iterable[Row],
    sites: Sequence[Site],
    *,
    positions: Mapping[str, Positions],
    covariance: bool = False,
    on_tokens: Callable[[int], None] | None = None,
) -> dict[str, dict[Site, Moments]]: ...


def moments(
    lm: LanguageModel,
    rows: Iterable[Row],
    sites: Sequence[Site],
    *,
    positions: Positions | Mapping[str, Positions] = everything,
    covariance: bool = False,
    on_tokens: Callable[[int], None] | None = None,
) -> dict[Site, Moments] | dict[str, dict[Site, Moments]]:
    """Moments at every site, from one streaming pass.

    Memory depends neither on the number of rows, which may be drawn as they are needed, nor on their
    length; a covariance takes ``8 d_model²`` bytes for each site and selection.

    Args:
        positions: One selection of tokens; or several by name, e.g. ``{"think": think, "answer": answer}``.
        on_tokens: Called with the number of tokens of each batch read, for progress.

    Returns:
        By site; with several selections, by name and site.

    Raises:
        SiteNotFoundError: if a site is not in this model.
        EmptySelectionError: if a selection matches no token of any row.

    Example:
        >>> at = moments(lm, rows, [site], positions={"think": think, "answer": answer})
        >>> at["think"][site].mean - at["answer"][site].mean
    """
    scopes = positions if isinstance(positions, Mapping) else {"": positions}
    texts = {text for scope in scopes.values() for text in scope.texts}
    found: dict[str, dict[Site, Moments]] = {name: {} for name in scopes}
    for batch, acts in stream(lm, rows, sites, window=WINDOW):
        if batch.start == 0:
            frame = frame_of(lm, batch.whole, texts)
            selected = {name: scope.select(frame) for name, scope in scopes.items()}
        for name, by_site in found.items():
            for site in sites:
                x = acts[site][selected[name][:, batch.columns].to(acts[site].device)]
                for block in x.split(BLOCK):
                    here = Moments.of(block, covariance=covariance)
                    by_site[site] = by_site[site].merge(here) if site in by_site else here
        if on_tokens is not None:
            on_tokens(int(batch.attention_mask.sum()))
    for name, scope in scopes.items():
        if not any(m.count for m in found[name].values()):
            raise EmptySelectionError(
                f"The selection {scope} matches no token of any row. `all` and `last(1)` always match."
            )
    return found if isinstance(positions, Mapping) else found[""]
