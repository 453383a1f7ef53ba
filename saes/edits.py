"""Edits of single latents that keep what the dictionary cannot explain.

A reconstruction misses part of the activation, and putting it in the activation's place costs more
than most edits do. So only the difference that the latents make is written: with z = encode(h), and
z' the same with some latents changed,

    h  +=  decode(z') - decode(z),

and where z' = z no bit of h changes. A latent is changed after the nonlinearity, or before it: then it
has to pass a threshold as any other, and with TopK takes the place of another or does not come in.

Sources: Templeton et al. 2024, "Scaling Monosemanticity", which leaves the error in likewise; He et al.
2026, "Reasoning Beyond Chain-of-Thought", arXiv:2601.08058, for the change before the nonlinearity.
Differs from the sources: a scale beside the clamp; scaling by 0 ablates. He et al. add alpha * mean |pre|,
of the prompt at hand: a number that the caller computes, from ``dictionary.preactivations``. They ablate by
a pre-activation far below zero, where TopK lets another latent in: a shift by -1e6, and not a scale of 0.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooks.errors import VectorError
from hooks.language_model import LanguageModel
from hooks.positions import Positions, generated
from hooks.sites import Site
from saes.dictionary import Dictionary, Stepwise, check_model, check_site
from saes.transcoder import Transcoder

NUMBERS = 2**25
"""Latents computed at once, 128 MB of them: a long prompt is encoded a few positions at a time."""


@dataclass(frozen=True, eq=False)
class _LatentEdit:
    """A number for each of some latents; the three kinds below say what it does."""

    verb: ClassVar[str]

    site: Site
    dictionary: Dictionary
    latents: Mapping[int, float]
    """The value to set or to add, or the factor to scale by, by latent."""

    positions: Positions = field(default=generated)
    any_model: bool = False
    """Allow a dictionary that was trained on another model of the same width."""

    @property
    def group(self) -> Hashable:
        return type(self), id(self.dictionary), len(self.latents)

    def check(self, lm: LanguageModel) -> None:
        _check(lm, self, f"{self.verb} at {self.site}")

    def parameters(self) -> tuple[Tensor, ...]:
        return torch.tensor(list(self.latents)), torch.tensor(list(map(float, self.latents.values())))

    def apply(
        self,
        h: Float[Tensor, "batch chunk d_model"],
        position: Int[Tensor, "batch chunk"],  # noqa: ARG002
        *parameters: Tensor,
    ) -> Float[Tensor, "batch chunk d_model"]:
        """``h + decode(z') - decode(z)``; one row of parameters serves all."""
        moved, home = [], self.dictionary.W_dec.device
        latent, number = (p.to(home)[:, None] for p in parameters)
        for part in h.split(max(1, NUMBERS // (len(h) * self.dictionary.d_sae)), dim=1):
            x = part.to(home, torch.float32)
            shape = (*part.shape[:2], -1)
            z, changed = self._changed(x, latent.expand(shape), number.to(x).expand(shape))
            moved.append(self.dictionary.decode(changed, x) - self.dictionary.decode(z, x))
        return h + torch.cat(moved, 1).to(h)

    def _changed(
        self,
        x: Float[Tensor, "batch part d_model"],
        latent: Int[Tensor, "batch part k"],
        number: Float[Tensor, "batch part k"],
    ) -> tuple[Float[Tensor, "batch part d_sae"], Float[Tensor, "batch part d_sae"]]:
        """z of x, and z'."""
        raise NotImplementedError


class ClampLatents(_LatentEdit):
    """``z'[latent] = value`` for each of ``latents``, whether it was active or not."""

    verb = "clamp"

    def _changed(
        self,
        x: Float[Tensor, "batch part d_model"],
        latent: Int[Tensor, "batch part k"],
        number: Float[Tensor, "batch part k"],
    ) -> tuple[Float[Tensor, "batch part d_sae"], Float[Tensor, "batch part d_sae"]]:
        z = self.dictionary.encode(x)
        return z, z.scatter(-1, latent, number)


class ScaleLatents(_LatentEdit):
    """``z'[latent] = factor * z[latent]`` for each of ``latents``: 0 ablates, 1 changes nothing."""

    verb = "scale"

    def _changed(
        self,
        x: Float[Tensor, "batch part d_model"],
        latent: Int[Tensor, "batch part k"],
        number: Float[Tensor, "batch part k"],
    ) -> tuple[Float[Tensor, "batch part d_sae"], Float[Tensor, "batch part d_sae"]]:
        z = self.dictionary.encode(x)
        return z, z.scatter(-1, latent, number * z.gather(-1, latent))


class ShiftPreactivations(_LatentEdit):
    """``z' = act(pre')`` with ``pre'[latent] = pre[latent] + value`` for each of ``latents``.

    ``pre = x' W_enc + b_enc`` and ``act`` are the dictionary's own (:class:`saes.dictionary.Stepwise`);
    of a gated one, ``pre`` is what both of its readings are made of.
    """

    verb = "shift"

    def check(self, lm: LanguageModel) -> None:
        super().check(lm)
        _check_steps(self.dictionary, lm.device_at(self.site), f"{self.verb} at {self.site}")

    def _changed(
        self,
        x: Float[Tensor, "batch part d_model"],
        latent: Int[Tensor, "batch part k"],
        number: Float[Tensor, "batch part k"],
    ) -> tuple[Float[Tensor, "batch part d_sae"], Float[Tensor, "batch part d_sae"]]:
        assert isinstance(self.dictionary, Stepwise), "check has seen to it"
        pre = self.dictionary.preactivations(x)
        shifted = pre.scatter(-1, latent, pre.gather(-1, latent) + number)
        return self.dictionary.activated(pre), self.dictionary.activated(shifted)


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
    x = _trial(dictionary, device)
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


@torch.no_grad()
def _check_steps(dictionary: Dictionary, device: torch.device, what: str) -> None:
    name = f"The dictionary to {what}"
    if not isinstance(dictionary, Stepwise):
        raise VectorError(
            f"{name} does not show its pre-activations: {type(dictionary).__name__} lacks `preactivations` "
            "or `activated`. Give it both, encode(x) being activated(preactivations(x)), or use ClampLatents."
        )
    x = _trial(dictionary, device)
    z, stepwise = dictionary.encode(x), dictionary.activated(dictionary.preactivations(x))
    if stepwise.dtype != z.dtype or stepwise.shape != z.shape or not torch.allclose(stepwise, z, rtol=1e-4):
        raise VectorError(
            f"{name} contradicts itself: activated(preactivations(x)) is not encode(x). Mend the one that is "
            "wrong, or use ClampLatents."
        )


def _trial(dictionary: Dictionary, device: torch.device) -> Float[Tensor, "3 d_in"]:
    """Activations of the sizes that a residual stream has."""
    size = torch.tensor([[0.0], [1.0], [1e5]], device=device)
    return size * torch.linspace(-1, 1, dictionary.d_in, device=device)


def _some(latents: list[int]) -> str:
    more = f" … ({len(latents) - 5} more)" if len(latents) > 5 else ""
    return ", ".join(map(str, latents[:5])) + more
