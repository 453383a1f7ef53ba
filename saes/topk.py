"""TopK sparse autoencoder.

    z     = TopK( ReLU( (x - b_dec) W_enc + b_enc ) )
    x_hat = z W_dec + b_dec

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv:2406.04093, section 2.3.
Differs from the source: ReLU before TopK, so a latent is never negative, and the bias ``b_enc``. A
new dictionary starts as theirs does: unit rows in ``W_dec``, ``W_enc`` its transpose, biases zero.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from hooks.errors import InputError
from saes.autoencoder import Autoencoder, Normalization
from saes.dictionary import UNKNOWN, Origin


class TopKSAE(Autoencoder):
    """Keep the ``k`` largest pre-activations of each input; zero the rest."""

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        *,
        seed: int | None = 0,
        apply_b_dec_to_input: bool = True,
        normalize_activations: Normalization = "none",
        origin: Origin = UNKNOWN,
    ) -> None:
        if d_in < 1 or not 0 < k <= d_sae:
            raise InputError(f"d_in={d_in}, d_sae={d_sae}, k={k}: d_in is 1 or more, and k is in 1..d_sae.")
        super().__init__(
            d_in, d_sae, seed=seed, apply_b_dec_to_input=apply_b_dec_to_input,
            normalize_activations=normalize_activations, origin=origin,
        )  # fmt: skip
        self.k = k

    def activated(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return largest(pre.relu(), self.k)


def largest(pre: Float[Tensor, "*batch d_sae"], k: int) -> Float[Tensor, "*batch d_sae"]:
    """The ``k`` largest, and zero for the rest."""
    top = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, top.indices, top.values)
