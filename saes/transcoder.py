"""Transcoder: reads the input of an MLP and writes its output, as a sum of a few directions.

    z     = act( x W_enc + b_enc )
    y_hat = z W_dec + b_dec  ( + x W_skipᵀ )

with ReLU for act, or JumpReLU, or TopK of it. What it reads and what it writes are two places, so it has
no reconstruction error that an edit at one site could keep: :mod:`saes.edits` refuses it, and it is read
but not written. Its latents can be looked at, and its rows of ``W_dec`` added at the site that it writes.

Source: Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits", arXiv:2406.11944;
Paulo et al. 2025, "Transcoders Beat Sparse Autoencoders for Interpretability", arXiv:2501.18823, for the
skip connection.
Differs from the sources: nothing.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooks.sites import Site
from saes.dictionary import UNKNOWN, Origin
from saes.jumprelu import jumped
from saes.topk import largest


class Transcoder(nn.Module):
    """Weights that a reader fills.

    Args:
        k: Keep the k largest pre-activations of each input; None keeps all.
        jump: Have a threshold for each latent.
        skip: Have a linear map past the latents.
        origin: Of what it reads.
        site_out: Where it writes; None where that is no site of ours, or unknown.
    """

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, " d_sae"] | None
    W_skip: Float[Tensor, "d_out d_in"] | None

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        d_out: int,
        *,
        k: int | None = None,
        jump: bool = False,
        skip: bool = False,
        origin: Origin = UNKNOWN,
        site_out: Site | None = None,
    ) -> None:
        super().__init__()
        self.d_in, self.d_sae, self.d_out, self.k = d_in, d_sae, d_out, k
        self.origin, self.site_out = origin, site_out
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self.threshold = nn.Parameter(torch.zeros(d_sae)) if jump else None
        self.W_skip = nn.Parameter(torch.zeros(d_out, d_in)) if skip else None

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        pre = x @ self.W_enc + self.b_enc
        z = pre.relu() if self.threshold is None else jumped(pre, self.threshold)
        return z if self.k is None else largest(z, self.k)

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """What the latents write, without the skip connection."""
        return latents @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        y_hat = self.decode(self.encode(x))
        return y_hat if self.W_skip is None else y_hat + x @ self.W_skip.T
