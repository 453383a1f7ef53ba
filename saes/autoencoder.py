"""What the architectures share: an affine map in, an affine map out, and how an input is normalised.

    x'    = n(x) - b_dec                  without ``apply_b_dec_to_input``, n(x)
    pre   = x' W_enc + b_enc
    z     = what each architecture makes of pre
    x_hat = n_x⁻¹( z W_dec + b_dec ),

where n(x) is, by ``normalize_activations``,

    none                     x
    constant_norm_rescale    sqrt(d_in) x / |x|
    layer_norm               (x - mean(x)) / (std(x) + 1e-5)

and n_x⁻¹ brings back the size, and at layer_norm the mean, of that x. So the last two need the x to
decode. A factor that is the same for all activations is no business of a dictionary's: it is in the
weights (:mod:`saes.formats.folding`).

Source: SAELens 6, whose names and tensors these are.
Differs from the source: decoding is given its x, where SAELens remembers the last one that it encoded;
an x of zeros is left as it is, where SAELens divides by its norm.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooks.errors import InputError, VectorError
from saes.dictionary import UNKNOWN, Origin

Normalization = Literal["none", "constant_norm_rescale", "layer_norm"]
PerInput = Float[Tensor, "*batch 1"] | float
EPSILON = 1e-5


class Autoencoder(nn.Module, ABC):
    """The weights and the two affine maps; an architecture adds ``activated`` and the vectors that it needs.

    Args:
        seed: A new dictionary has unit rows in ``W_dec`` drawn from it, their transpose in ``W_enc``, and
            biases of zero. None leaves ``W_enc`` and ``W_dec`` unset, for a reader to fill.
    """

    vectors: ClassVar[tuple[str, ...]] = ("b_enc",)
    """Names of the architecture's own weights, a number for each latent; zero in a new dictionary."""

    d_in: int
    d_sae: int
    W_enc: Float[Tensor, "d_in d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    b_enc: Float[Tensor, " d_sae"]
    """Not of a gated one, which has two biases for it."""

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
        if d_in < 1 or d_sae < 1:
            raise InputError(f"d_in={d_in}, d_sae={d_sae}: both are 1 or more.")
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae
        self.apply_b_dec_to_input = apply_b_dec_to_input
        self.normalize_activations = normalize_activations
        self.origin = origin
        directions = torch.empty(d_sae, d_in)
        if seed is not None:
            directions.normal_(generator=torch.Generator().manual_seed(seed))
            directions = nn.functional.normalize(directions, dim=-1)
        self.W_enc = nn.Parameter(directions.T.clone() if seed is not None else torch.empty(d_in, d_sae))
        self.W_dec = nn.Parameter(directions)
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        for name in self.vectors:
            self.register_parameter(name, nn.Parameter(torch.zeros(d_sae)))

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        return self.activated(self.preactivations(x))

    def preactivations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """What the nonlinearity is given: ``x' W_enc + b_enc``."""
        return self.projected(x) + self.b_enc

    @abstractmethod
    def activated(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """The latents that the nonlinearity makes of pre-activations."""

    def projected(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """``x' W_enc``."""
        x, _, _ = self._normalised(x)
        return (x - self.b_dec if self.apply_b_dec_to_input else x) @ self.W_enc

    def decode(
        self, latents: Float[Tensor, "*batch d_sae"], of: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_in"]:
        x_hat = latents @ self.W_dec + self.b_dec
        if self.normalize_activations == "none":
            return x_hat
        if of is None:
            raise InputError(
                f"This dictionary normalises every activation by itself ({self.normalize_activations}), so "
                "its latents alone do not say how large the activation was. Pass what was encoded: "
                "decode(latents, x)."
            )
        _, size, mean = self._normalised(of)
        return x_hat * size + mean

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return self.decode(self.encode(x), x)

    def direction(self, latent: int) -> Float[Tensor, " d_in"]:
        """The unit vector along which a latent writes.

        Raises:
            VectorError: if there is no such latent, or it writes nothing.
        """
        if not 0 <= latent < self.d_sae:
            raise VectorError(f"No latent {latent}: the dictionary has 0..{self.d_sae - 1}.")
        row = self.W_dec[latent].detach()
        norm = row.norm()
        if not norm > 0:
            raise VectorError(f"Latent {latent} writes nothing: its row of W_dec is zero. Choose another.")
        direction: Tensor = row / norm
        return direction

    def _normalised(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Float[Tensor, "*batch d_in"], PerInput, PerInput]:
        """n(x), and the size and the mean that it took from x."""
        if self.normalize_activations == "constant_norm_rescale":
            size = x.norm(dim=-1, keepdim=True) / self.d_in**0.5
            return x / torch.where(size > 0, size, 1.0), size, 0.0
        if self.normalize_activations == "layer_norm":
            mean = x.mean(dim=-1, keepdim=True)
            size = (x - mean).norm(dim=-1, keepdim=True) / max(1, self.d_in - 1) ** 0.5
            return (x - mean) / (size + EPSILON), size, mean
        return x, 1.0, 0.0
