"""JumpReLU sparse autoencoder.

    pre   = (x - b_dec) W_enc + b_enc
    z     = ReLU(pre) where pre > threshold, else 0
    x_hat = z W_dec + b_dec

A BatchTopK dictionary is one of these once it is trained: over a batch it kept the k largest of each
activation on average, and one threshold for all latents, of the size that let so many through, does
the same without the batch.

Source: Rajamanoharan et al. 2024, "Jumping Ahead", arXiv:2407.14435; Bussmann et al. 2024, "BatchTopK
Sparse Autoencoders", arXiv:2412.06410, section 3, for the threshold.
Differs from the source: ``b_dec`` is subtracted from the input unless ``apply_b_dec_to_input`` is off,
as it is for Gemma Scope; ReLU, so a threshold below zero is as one of zero.
"""

from jaxtyping import Float
from torch import Tensor

from saes.autoencoder import Autoencoder


class JumpReLUSAE(Autoencoder):
    """Every pre-activation above the threshold of its latent."""

    vectors = ("b_enc", "threshold")
    threshold: Float[Tensor, " d_sae"]

    def activated(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return jumped(pre, self.threshold)


def jumped(
    pre: Float[Tensor, "*batch d_sae"], threshold: Float[Tensor, " d_sae"]
) -> Float[Tensor, "*batch d_sae"]:
    """What is above the threshold, and zero for the rest."""
    return pre.relu() * (pre > threshold)
