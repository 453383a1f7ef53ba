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

    def activated(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return pre.relu()
