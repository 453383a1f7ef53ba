"""Normalisation that is the same for all activations, folded into the weights.

A dictionary that was trained on scaled activations f x, or on whitened ones (x - mean) M, becomes one of
the activations x themselves, with the same latents:

    scale       W_enc ← f W_enc,   W_dec ← W_dec / f,       b_dec ← b_dec / f
    whitening   W_enc ← M W_enc,   W_dec ← W_dec M⁻¹,       b_dec ← b_dec M⁻¹ + mean
                and encoder biases less mean M W_enc, where b_dec is not subtracted from the input

and one whose latents are measured along unit directions, however long the rows of W_dec are, gets them:

    norms       W_enc ← W_enc |W_dec|,   b_enc ← b_enc |W_dec|,   W_dec ← W_dec / |W_dec|

Each is right once and wrong twice, so readers alone call these, on weights whose settings say that it was
not done, and what they return says that it was.

Source: SAELens 6, where ``normalize_activations`` is ``expected_average_only_in`` (f is sqrt(d_in) over the
mean norm) or ``covariance_whitening`` (arXiv:2511.13981), and ``rescale_acts_by_decoder_norm``.
Differs from the source: nothing.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saes.formats.weights import Weights

SMALLEST = 1e-8
"""Norm of a row of W_dec that counts as none: it writes nothing."""


def fold_scale(weights: Weights, factor: float) -> Weights:
    """Weights for activations that are not multiplied by ``factor`` first."""
    return weights | {
        "W_enc": weights["W_enc"] * factor,
        "W_dec": weights["W_dec"] / factor,
        "b_dec": weights["b_dec"] / factor,
    }


def fold_whitening(
    weights: Weights,
    mean: Float[Tensor, " d_in"],
    matrix: Float[Tensor, "d_in d_in"],
    inverse: Float[Tensor, "d_in d_in"],
    *,
    apply_b_dec_to_input: bool,
) -> Weights:
    """Weights for activations that are not whitened first; sums are in float64."""
    wide = {name: weight.double() for name, weight in weights.items()}
    mean, matrix, inverse = mean.double(), matrix.double(), inverse.double()
    wide["W_enc"] = matrix @ wide["W_enc"]
    wide["W_dec"] = wide["W_dec"] @ inverse
    wide["b_dec"] = wide["b_dec"] @ inverse + mean
    if not apply_b_dec_to_input:
        shift = mean @ wide["W_enc"]
        for name in wide.keys() & {"b_enc", "b_gate"}:
            wide[name] = wide[name] - shift
        if "b_mag" in wide:
            wide["b_mag"] = wide["b_mag"] - shift * wide["r_mag"].exp()
    return {name: weight.to(torch.float32) for name, weight in wide.items()}


def fold_decoder_norms(weights: Weights) -> Weights:
    """Unit rows in ``W_dec``, and latents as long as they were with the rows."""
    norms = weights["W_dec"].norm(dim=-1).clamp(min=SMALLEST)
    return weights | {
        "W_enc": weights["W_enc"] * norms,
        "b_enc": weights["b_enc"] * norms,
        "W_dec": weights["W_dec"] / norms[:, None],
    }
