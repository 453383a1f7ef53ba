"""Standard sparse autoencoder.

    z     = ReLU( (x - b_dec) W_enc + b_enc )
    x_hat = z W_dec + b_dec

Source: Bricken et al. 2023, "Towards Monosemanticity"; Cunningham et al. 2023, arXiv:2309.08600.
Differs from the source: nothing; what kept z sparse was in the loss.
"""

from jaxtyping import Float
from torch import Tensor

from saes.autoencoder import Autoencoder


class StandardSAE(Autoencoder):
    """Every positive pre-activation."""

    b_enc: Float[Tensor, " d_sae"]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        return (self.projected(x) + self.b_enc).relu()
