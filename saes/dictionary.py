"""What every sparse dictionary can do, whoever trained it."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Dictionary(Protocol):
    """A map from activations to latents and back, in float32."""

    @property
    def d_in(self) -> int:
        """Width of the site that it reads."""

    @property
    def d_sae(self) -> int:
        """Number of latents."""

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:
        """The direction that each latent writes."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]: ...

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]: ...
