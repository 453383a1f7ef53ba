"""Edits of single latents that keep what the dictionary cannot explain.

A reconstruction misses part of the activation, and putting it in the activation's place costs more
than most edits do. So only the difference that the latents make is written: with z = encode(h), and
z' the same with some latents changed,

    h  +=  decode(z') - decode(z),

and where z' = z no bit of h changes.

Source: Templeton et al. 2024, "Scaling Monosemanticity", which leaves the error in likewise.
Differs from the source: a scale beside the clamp; scaling by 0 ablates.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooks.errors import VectorError
from hooks.language_model import LanguageModel
from hooks.positions import Positions, generated
from hooks.sites import Site
from saes.dictionary import Dictionary, check_model, check_site
from saes.transcoder import Transcoder

NUMBERS = 2**25
"""Latents computed at once, 128 MB of them: a long prompt is encoded a few positions at a time."""


@dataclass(frozen=True, eq=False)
class _LatentEdit:
    """A number for each of some latents; the two kinds below say what it does."""

    site: Site
    dictionary: Dictionary
    latents: Mapping[int, float]
    """The value to set, or the factor to scale by, by latent."""

    positions: Positions = field(default=generated)
    any_model: bool = False
    """Allow a dictionary that was trained on another model of the same width."""

    @property
    def group(self) -> Hashable:
        return type(self), id(self.dictionary), len(self.latents)

    def parameters(self) -> tuple[Tensor, ...]:
        return torch.tensor(list(self.latents)), torch.tensor(list(map(float, self.latents.values())))


class ClampLatents(_LatentEdit):
    """``z'[latent] = value`` for each of ``latents``, whether it was active or not."""

    def check(self, lm: LanguageModel) -> None:
        _check(lm, self, f"clamp at {self.site}")

    def apply(
        self,
        h: Float[Tensor, "batch chunk d_model"],
        position: Int[Tensor, "batch chunk"],  # noqa: ARG002
        *parameters: Tensor,
    ) -> Float[Tensor, "batch chunk d_model"]:
        latent, value = parameters
        return _write(self.dictionary, h, latent, torch.zeros_like(value), value)


class ScaleLatents(_LatentEdit):
    """``z'[latent] = factor * z[latent]`` for each of ``latents``: 0 ablates, 1 changes nothing."""

    def check(self, lm: LanguageModel) -> None:
        _check(lm, self, f"scale at {self.site}")

    def apply(
        self,
        h: Float[Tensor, "batch chunk d_model"],
        position: Int[Tensor, "batch chunk"],  # noqa: ARG002
        *parameters: Tensor,
    ) -> Float[Tensor, "batch chunk d_model"]:
        latent, factor = parameters
        return _write(self.dictionary, h, latent, factor, torch.zeros_like(factor))


def _write(
    dictionary: Dictionary,
    h: Float[Tensor, "batch chunk d_model"],
    latent: Int[Tensor, "rows k"],
    factor: Float[Tensor, "rows k"],
    value: Float[Tensor, "rows k"],
) -> Float[Tensor, "batch chunk d_model"]:
    """``h + decode(z') - decode(z)``, with ``factor * z + value`` at the latents; one row serves all."""
    moved, home = [], dictionary.W_dec.device
    latent, factor, value = (t.to(home) for t in (latent, factor, value))
    for part in h.split(max(1, NUMBERS // (len(h) * dictionary.d_sae)), dim=1):
        x = part.to(home, torch.float32)
        z = dictionary.encode(x)
        at = latent[:, None].expand(*part.shape[:2], -1)
        changed = factor[:, None].to(z) * z.gather(-1, at) + value[:, None].to(z)
        moved.append(dictionary.decode(z.scatter(-1, at, changed), x) - dictionary.decode(z, x))
    return h + torch.cat(moved, 1).to(h)


def _check(lm: LanguageModel, edit: _LatentEdit, what: str) -> None:
    dictionary, latents = edit.dictionary, edit.latents
    if isinstance(dictionary, Transcoder):
        raise VectorError(
            f"The dictionary to {what} is a transcoder, which reads one place and writes another: there is "
            "no error to keep. Add its rows of W_dec where it writes instead: hooks.Add."
        )
    name = f"The dictionary to {what}"
    check_model(dictionary, lm, name=name, any_model=edit.any_model)
    check_site(dictionary.origin, lm.anatomy.resolve(edit.site), name=name)
    if not latents:
        raise VectorError(f"No latents to {what}. Pass a number for each, e.g. {{17: 0.0}}.")
    if unknown := [i for i in latents if not 0 <= i < dictionary.d_sae]:
        raise VectorError(
            f"No latents {_some(unknown)} to {what}: the dictionary has 0..{dictionary.d_sae - 1}."
        )
    if bad := [i for i, number in latents.items() if not math.isfinite(number)]:
        raise VectorError(f"The numbers of latents {_some(bad)} to {what} are not finite.")
    _check_float32(dictionary, lm.device_at(edit.site), what)


@torch.no_grad()
def _check_float32(dictionary: Dictionary, device: torch.device, what: str) -> None:
    """Try the dictionary on the sizes that a residual stream has; half precision ends at 65504."""
    x = torch.tensor([[0.0], [1.0], [1e5]], device=device) * torch.linspace(
        -1, 1, dictionary.d_in, device=device
    )
    would_work = f"Keep it in float32 on {device}, where the model is."
    try:
        z = dictionary.encode(x)
        back = dictionary.decode(z, x)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise VectorError(f"The dictionary to {what} cannot read float32: {reason}. {would_work}") from None
    for name, out, width in (("encode", z, dictionary.d_sae), ("decode", back, dictionary.d_in)):
        if out.dtype != torch.float32 or out.shape != (len(x), width) or not torch.isfinite(out).all():
            size = tuple(out.shape)
            finite = "finite" if torch.isfinite(out).all() else "not finite"
            raise VectorError(
                f"The dictionary to {what} is not safe to run: `{name}` of float32 activations up to "
                f"1e5 gives {out.dtype} of shape {size}, {finite}; expected finite torch.float32 of "
                f"shape {(len(x), width)}. {would_work}"
            )


def _some(latents: list[int]) -> str:
    more = f" … ({len(latents) - 5} more)" if len(latents) > 5 else ""
    return ", ".join(map(str, latents[:5])) + more
