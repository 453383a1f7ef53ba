"""Where an activation lives, in the names the field uses."""

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

from hooks.errors import SiteNotFoundError

SiteKind = Literal["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]
KINDS: tuple[SiteKind, ...] = get_args(SiteKind)
"""In the order in which a block computes them."""

_SPELLINGS = (
    re.compile(r"blocks\.(?P<layer>-?\d+)\.hook_(?P<kind>\w+)"),  # TransformerLens, SAELens
    re.compile(r"(?:\w+\.)*(?:layers|h)\.(?P<layer>\d+)"),  # a Hugging Face block: its output
    re.compile(r"(?P<kind>[a-z_]+)\.(?P<layer>-?\d+)"),  # interp-engine
    re.compile(r"(?P<kind>[a-z_]+)\((?P<layer>-?\d+)\)"),  # repsteer
)


@dataclass(frozen=True, order=True)
class Site:
    """One activation site: ``kind`` at 0-based block ``layer``; negative counts from the end.

    ``Site(3, "resid_post")`` prints as ``blocks.3.hook_resid_post``, as TransformerLens and SAELens
    write it. ``attn_out`` and ``mlp_out`` are what the block *adds to the residual stream*, after
    the sandwich norms of Gemma 2, Gemma 3 and OLMo 2, so on every model

        resid_pre + attn_out = resid_mid,  resid_mid + mlp_out = resid_post

    (a block that computes both in parallel has no ``resid_mid``).
    """

    layer: int
    kind: SiteKind

    def __post_init__(self) -> None:
        _known(self.kind)

    def __str__(self) -> str:
        return f"blocks.{self.layer}.hook_{self.kind}"

    @staticmethod
    def parse(name: str) -> "Site":
        """Read a site from any of its spellings.

        Example:
            >>> Site.parse("blocks.3.hook_resid_post") == Site.parse("resid_post.3")
            True
            >>> str(Site.parse("model.layers.12"))
            'blocks.12.hook_resid_post'
        """
        for spelling in _SPELLINGS:
            if found := spelling.fullmatch(name.strip()):
                groups = found.groupdict()
                return Site(int(groups["layer"]), _known(groups.get("kind", "resid_post")))
        raise SiteNotFoundError(
            f"Cannot read {name!r} as a site. Write blocks.3.hook_resid_post, resid_post.3 or "
            f"resid_post(3), with a kind among {', '.join(KINDS)}."
        )

    def on(self, n_layers: int) -> "Site":
        """The same site with its layer counted from the start of a model of ``n_layers`` blocks."""
        if not -n_layers <= self.layer < n_layers:
            raise SiteNotFoundError(
                f"No site {self}: this model has layers 0..{n_layers - 1} (or -{n_layers}..-1)."
            )
        return replace(self, layer=self.layer % n_layers)


def _known(kind: str) -> SiteKind:
    for known in KINDS:
        if kind == known:
            return known
    raise SiteNotFoundError(f"No site kind {kind!r}. The kinds are {', '.join(KINDS)}.")
