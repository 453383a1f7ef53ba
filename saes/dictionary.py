"""What every sparse dictionary can do, whoever trained it, and which activations it was made for.

A dictionary of another model or site still runs, and what it says means nothing. So each carries its
origin, as far as that is known, and :func:`check_site` and :func:`check_model` compare.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from hooks.errors import VectorError
from hooks.language_model import LanguageModel
from hooks.sites import Site

ALIASES = {"gpt2-small": "gpt2", "mistral-7b": "mistral-7b-v0.1"}
"""Names of TransformerLens that are not the last part of the hub's, which SAELens writes."""


@dataclass(frozen=True)
class Origin:
    """The activations that a dictionary was trained on, as far as they are known."""

    model: str | None = None
    """As those who trained the dictionary call it."""

    site: Site | None = None
    hook_name: str | None = None
    """The place in their words; without a ``site`` it is none of ours, e.g. ``blocks.3.attn.hook_z``."""

    fingerprint: str | None = None
    """Of the model's weights, where this toolkit trained the dictionary."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    """All else that its file says of it."""


UNKNOWN = Origin()


@runtime_checkable
class Dictionary(Protocol):
    """A map from activations to latents and back, in float32."""

    @property
    def d_in(self) -> int:
        """Width of the site that it reads."""

    @property
    def d_sae(self) -> int:
        """Number of latents."""

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:
        """The direction that each latent writes."""

    @property
    def origin(self) -> Origin:
        """What it was made for."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]: ...

    def decode(
        self, latents: Float[Tensor, "*batch d_sae"], of: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_in"]:
        """The activation that these latents stand for.

        Args:
            of: What was encoded; only dictionaries that normalise every input by itself need it.
        """


@runtime_checkable
class Stepwise(Protocol):
    """A dictionary that encodes in two steps, as all of ours do: ``activated(preactivations(x))``."""

    def preactivations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]: ...

    def activated(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]: ...


def check_site(origin: Origin, site: Site, *, name: str = "The dictionary") -> None:
    """Raise :class:`VectorError` if a dictionary of this origin is known to read another site."""
    if origin.site is None and origin.hook_name is not None:
        raise VectorError(
            f"{name} reads {origin.hook_name}, which is no site by its name; {site} was asked for. If it is "
            "the same on this model, read it without `site`, and set dictionary.origin to "
            f"replace(dictionary.origin, site={site!r})."
        )
    if origin.site is not None and _place(origin.site) != _place(site):
        raise VectorError(
            f"{name} reads {origin.site}, and {site} was asked for. Use it at {origin.site}, or take a "
            f"dictionary of {site}."
        )


def check_model(
    dictionary: Dictionary, lm: LanguageModel, *, name: str = "The dictionary", any_model: bool = False
) -> None:
    """Raise :class:`VectorError` if a dictionary has another width than ``lm``, or is of another model.

    Weights are compared by their fingerprint where the dictionary has one, else models by their names.
    A dictionary that names no model passes.

    Args:
        any_model: Compare the width alone.
    """
    if dictionary.d_in != lm.d_model:
        raise VectorError(
            f"{name} reads activations {dictionary.d_in} wide; the residual stream of {lm.name} is "
            f"{lm.d_model}."
        )
    origin = dictionary.origin
    if any_model or (origin.model is None and origin.fingerprint is None):
        return
    if origin.fingerprint is None:
        same = _last(str(origin.model)) in _parts(lm.name) | _parts(str(lm.model.config.name_or_path))
    else:
        same = origin.fingerprint == lm.fingerprint
    if not same:
        known = "" if origin.fingerprint is None else f" (weights {origin.fingerprint}, not {lm.fingerprint})"
        raise VectorError(
            f"{name} was trained on {origin.model}{known}; this model is {lm.name}. Load that model, or pass "
            "any_model=True if they are the same, or if the dictionary is to be tried on another."
        )


def _place(site: Site) -> Site:
    """One name for each place: what block 3 leaves behind is what block 4 takes up."""
    if site.kind == "resid_pre" and site.layer > 0:
        return Site(site.layer - 1, "resid_post")
    return site


def _parts(name: str) -> set[str]:
    """The parts of a hub id or a path, among them those of a hub's cache (``models--google--gemma-2-2b``)."""
    return set(re.split(r"[/\\]|--", name.casefold()))


def _last(name: str) -> str:
    last = re.split(r"[/\\]", name.casefold())[-1]
    return ALIASES.get(last, last)
