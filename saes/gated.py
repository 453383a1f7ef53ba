"""Gated sparse autoencoder: which latents are active, and how strongly, are two readings of one projection.

    p     = (x - b_dec) W_enc
    z     = ReLU( p exp(r_mag) + b_mag ) where p + b_gate > 0, else 0
    x_hat = z W_dec + b_dec

Source: Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders",
arXiv:2404.16014, equations 6 to 8.
Differs from the source: nothing.
"""

from jaxtyping import Float
from torch import Tensor

from saes.autoencoder import Autoencoder


class GatedSAE(Autoencoder):
    """Every latent whose gate is open."""

    vectors = ("b_gate", "r_mag", "b_mag")
    b_gate: Float[Tensor, " d_sae"]
    r_mag: Float[Tensor, " d_sae"]
    b_mag: Float[Tensor, " d_sae"]

    def preactivations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """p, of which both readings are made: what is added to it opens the gate and raises the value."""
        return self.projected(x)

    def activated(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return (pre * self.r_mag.exp() + self.b_mag).relu() * (pre + self.b_gate > 0)
