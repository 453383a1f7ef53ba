"""Gated sparse autoencoder: which latents are active, and how strongly, are two readings of one projection.

    p     = (x - b_dec) W_enc
    z     = ReLU( p exp(r_mag) + b_mag ) where p + b_gate > 0, else 0
    x_hat = z W_dec + b_dec

Source: Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders",
arXiv:2404.16014, equations 6 to 8.
Differs from the source: nothing.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saes.autoencoder import Autoencoder, Normalization
from saes.dictionary import UNKNOWN, Origin


class GatedSAE(Autoencoder):
    """Every latent whose gate is open."""

    b_gate: Float[Tensor, " d_sae"]
    r_mag: Float[Tensor, " d_sae"]
    b_mag: Float[Tensor, " d_sae"]

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        seed: int | None = 0,
        apply_b_dec_to_input: bool = True,
        normalize_activations: Normalization = "none",
        origin: Origin = UNKNOWN,
    ) -> None:
        super().__init__(
            d_in, d_sae, seed=seed, apply_b_dec_to_input=apply_b_dec_to_input,
            normalize_activations=normalize_activations, origin=origin,
        )  # fmt: skip
        self.b_gate = nn.Parameter(torch.zeros(d_sae))
        self.r_mag = nn.Parameter(torch.zeros(d_sae))
        self.b_mag = nn.Parameter(torch.zeros(d_sae))

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        projected = self.projected(x)
        return (projected * self.r_mag.exp() + self.b_mag).relu() * (projected + self.b_gate > 0)
