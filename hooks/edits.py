"""What to write at a site: add a vector, project one out, clamp along one, patch in other values.

An edit is a value: it names its site, its positions and its size, and is checked before anything
runs. Edits of the same kind, site and positions are stacked over the rows of a batch, so every row
can carry its own at the cost of one.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooks.errors import VectorError
from hooks.language_model import LanguageModel
from hooks.positions import Positions, everything, first, generated
from hooks.sites import Site


@runtime_checkable
class Edit(Protocol):
    """Anything that can be written at a site."""

    @property
    def site(self) -> Site: ...

    @property
    def positions(self) -> Positions: ...

    @property
    def group(self) -> Hashable:
        """Edits with equal groups, sites and positions are applied together, stacked."""

    def check(self, lm: LanguageModel) -> None:
        """Raise :class:`VectorError` unless the edit fits this model."""

    def parameters(self) -> tuple[Tensor, ...]:
        """What differs between the edits of a group; stacked along a new leading axis of rows."""

    def apply(
        self,
        h: Float[Tensor, "batch chunk d_model"],
        position: Int[Tensor, "batch chunk"],
        *parameters: Tensor,
    ) -> Float[Tensor, "batch chunk d_model"]:
        """The edited tensor, with one row of stacked ``parameters`` for each row of ``h``."""


def check_vector(vector: Tensor, d_model: int, what: str) -> None:
    """Raise :class:`VectorError` for a vector that is wide of the model, not finite, or zero."""
    if vector.shape != (d_model,):
        raise VectorError(
            f"{what} has shape {tuple(vector.shape)}; this model's residual stream takes ({d_model},)."
        )
    if not torch.isfinite(vector).all():
        raise VectorError(f"{what} has NaN or infinite entries; estimate it again.")
    if not vector.any():
        raise VectorError(f"{what} is all zero: it points nowhere. To change nothing, pass no edit.")


def check_size(size: float, what: str) -> None:
    """Raise :class:`VectorError` for a scale or value that is not finite."""
    if not math.isfinite(size):
        raise VectorError(f"{what} {size}; pass a finite number.")


def widened(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or as it is where its own dtype is wider; edits are computed in it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@dataclass(frozen=True, eq=False)
class Add:
    """``h += scale * vector``.

    With an all-finite, non-zero vector; ``scale=0`` changes no bit. For a dose in relative norm see
    :meth:`interp.SteeringVector.at`.
    """

    site: Site
    vector: Float[Tensor, " d_model"]
    scale: float = 1.0
    positions: Positions = field(default=generated)
    made_for: str | None = None
    """Fingerprint of the one model that the vector may be added to; None for any model."""

    @property
    def group(self) -> Hashable:
        return Add

    def check(self, lm: LanguageModel) -> None:
        check_vector(self.vector, lm.d_model, f"The vector to add at {self.site}")
        check_size(self.scale, f"The vector to add at {self.site} has the scale")
        if self.made_for is not None and self.made_for != lm.fingerprint:
            raise VectorError(
                f"The vector to add at {self.site} was made for the model with fingerprint "
                f"{self.made_for}; {lm.name} has {lm.fingerprint}. Estimate it again for this model, "
                "or pass any_model=True where it is made into an edit."
            )

    def parameters(self) -> tuple[Tensor, ...]:
        return (widened(self.vector) * self.scale,)

    def apply(
        self,
        h: Float[Tensor, "batch chunk d_model"],
        position: Int[Tensor, "batch chunk"],  # noqa: ARG002
        *parameters: Tensor,
    ) -> Float[Tensor, "batch chunk d_model"]:
        (vector,) = parameters
        return h + vector[:, None]


@dataclass(frozen=True, eq=False)
class ProjectOut:
    """``h -= scale * (h . u) u`` with ``u = vector / |vector|``: at scale 1 nothing is left along u."""

    site: Site
    vector: Float[Tensor, " d_model"]
    scale: float = 1.0
    positions: Positions = field(default=generated)

    @property
    def group(self) -> Hashable:
        return ProjectOut

    def check(self, lm: LanguageModel) -> None:
        check_vector(self.vector, lm.d_model, f"The vector to project out at {self.site}")
        check_size(self.scale, f"The vector to project out at {self.site} has the scale")

    def parameters(self) -> tuple[Tensor, ...]:
        return _unit(self.vector), torch.tensor(self.scale, device=self.vector.device)

    def apply(
        self,
        h: Float[Tensor, "batch chunk d_model"],
        position: Int[Tensor, "batch chunk"],  # noqa: ARG002
        *parameters: Tensor,
    ) -> Float[Tensor, "batch chunk d_model"]:
        unit, scale = parameters
        along = h @ unit[:, :, None]
        return h - scale[:, None, None] * along * unit[:, None]


@dataclass(frozen=True, eq=False)
class Clamp:
    """``h += (value - h . u) u`` with ``u = vector / |vector|``: sets the component along u."""

    site: Site
    vector: Float[Tensor, " d_model"]
    value: float
    """The component to leave along the unit vector, in the units of the residual stream."""

    positions: Positions = field(default=generated)

    @property
    def group(self) -> Hashable:
        return Clamp

    def check(self, lm: LanguageModel) -> None:
        check_vector(self.vector, lm.d_model, f"The vector to clamp along at {self.site}")
        check_size(self.value, f"The vector to clamp along at {self.site} has the value")

    def parameters(self) -> tuple[Tensor, ...]:
        return _unit(self.vector), torch.tensor(self.value, device=self.vector.device)

    def apply(
        self,
        h: Float[Tensor, "batch chunk d_model"],
        position: Int[Tensor, "batch chunk"],  # noqa: ARG002
        *parameters: Tensor,
    ) -> Float[Tensor, "batch chunk d_model"]:
        unit, value = parameters
        along = h @ unit[:, :, None]
        return h + (value[:, None, None] - along) * unit[:, None]


@dataclass(frozen=True, eq=False)
class Patch:
    """``h[pos] = values[pos]``: another run's activations, by absolute position in the row.

    Positions past the last value are left as they are, and are not selected.
    """

    site: Site
    values: Float[Tensor, "pos d_model"]
    positions: Positions = field(default=everything)

    def __post_init__(self) -> None:
        if not len(self.values):
            raise VectorError(f"There are no values to patch at {self.site}.")
        object.__setattr__(self, "positions", self.positions & first(len(self.values)))

    @property
    def group(self) -> Hashable:
        return Patch, self.values.shape

    def check(self, lm: LanguageModel) -> None:
        if self.values.shape[-1] != lm.d_model:
            raise VectorError(
                f"The values to patch at {self.site} are {self.values.shape[-1]} wide; this model's "
                f"residual stream is {lm.d_model}."
            )
        if not torch.isfinite(self.values).all():
            raise VectorError(f"The values to patch at {self.site} have NaN or infinite entries.")

    def parameters(self) -> tuple[Tensor, ...]:
        return (widened(self.values),)

    def apply(
        self,
        h: Float[Tensor, "batch chunk d_model"],
        position: Int[Tensor, "batch chunk"],
        *parameters: Tensor,
    ) -> Float[Tensor, "batch chunk d_model"]:
        (values,) = parameters
        values = values.expand(len(h), -1, -1)
        inside = (position >= 0) & (position < values.shape[1])
        column = position.clamp(0, values.shape[1] - 1)[..., None].expand(-1, -1, h.shape[-1])
        return torch.where(inside[..., None], values.gather(1, column), h)


def _unit(vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    vector = widened(vector)
    unit: Tensor = vector / vector.norm()
    return unit
