"""Standard sparse autoencoder.

    z     = ReLU( (x - b_dec) W_enc + b_enc )
    x_hat = z W_dec + b_dec

Source: Bricken et al. 2023, "Towards Monosemanticity"; Cunningham et al. 2023, arXiv:2309.08600.
Differs from the source: nothing; what kept z sparse was in the loss.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saes.autoencoder import Autoencoder, Normalization
from saes.dictionary import UNKNOWN, Origin


class StandardSAE(Autoencoder):
    """Every positive pre-activation."""

    b_enc: Float[Tensor, " d_sae"]

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
        self.b_enc = nn.Parameter(torch.zeros(d_sae))

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        return (self.projected(x) + self.b_enc).relu()
