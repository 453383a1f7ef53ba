"""TopK sparse autoencoder.

    z     = TopK( ReLU( (x - b_dec) W_enc + b_enc ) )
    x_hat = z W_dec + b_dec

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv:2406.04093, section 2.3.
Differs from the source: ReLU before TopK, so a latent is never negative, and the bias ``b_enc``. A
new dictionary starts as theirs does: unit rows in ``W_dec``, ``W_enc`` its transpose, biases zero.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooks.errors import InputError


class TopKSAE(nn.Module):
    """Keep the ``k`` largest pre-activations of each input; zero the rest."""

    d_in: int
    d_sae: int
    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]

    def __init__(self, d_in: int, d_sae: int, k: int, *, seed: int = 0) -> None:
        if d_in < 1 or not 0 < k <= d_sae:
            raise InputError(f"d_in={d_in}, d_sae={d_sae}, k={k}: d_in is 1 or more, and k is in 1..d_sae.")
        super().__init__()
        self.d_in, self.d_sae, self.k = d_in, d_sae, k
        generator = torch.Generator().manual_seed(seed)
        directions = nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=-1)
        self.W_enc = nn.Parameter(directions.T.clone())
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(directions)
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        pre = ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()
        top = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, top.indices, top.values)

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        return latents @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return self.decode(self.encode(x))
