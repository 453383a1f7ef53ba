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

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        projected = self.projected(x)
        return (projected * self.r_mag.exp() + self.b_mag).relu() * (projected + self.b_gate > 0)
