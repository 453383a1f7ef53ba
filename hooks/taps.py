"""Read or rewrite the tensor at a site while the model runs: the one place that registers hooks."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from hooks.anatomy import Anatomy, Block, Out, first, with_first
from hooks.sites import KINDS, Site

Tap = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_model"] | None]
"""Given the tensor at a site; returns what to put there, or None to leave it."""


@contextmanager
def tapped(anatomy: Anatomy, taps: Mapping[Site, Tap]) -> Iterator[None]:
    """Call each tap whenever the model computes its site; remove every hook on the way out.

    ``resid_mid`` is not the output of any module: it is read as ``resid_pre + attn_out``, and
    written by moving ``attn_out`` by the difference. Taps of one block fire in the order of the
    computation: ``resid_pre, attn_out, resid_mid, mlp_out, resid_post``.
    """
    by_layer: dict[int, dict[str, Tap]] = defaultdict(dict)
    for site, tap in taps.items():
        site = anatomy.resolve(site)
        by_layer[site.layer][site.kind] = tap
    with ExitStack() as stack:
        for layer, wanted in by_layer.items():
            _BlockTaps(wanted).attach(stack, anatomy.blocks[layer])
        yield


class _BlockTaps:
    """The hooks of one block. Methods, since closures are type-checked anew in the tests each time."""

    def __init__(self, wanted: Mapping[str, Tap]) -> None:
        self._wanted = wanted
        self._entering: Tensor | None = None

    def attach(self, stack: ExitStack, block: Block) -> None:
        if self._wanted.keys() & {"resid_pre", "resid_mid"}:
            handle = block.module.register_forward_pre_hook(self._on_input, with_kwargs=True)
            stack.callback(handle.remove)
        if self._wanted.keys() & {"attn_out", "resid_mid"}:
            stack.callback(block.attention.register_forward_hook(self._on_attention).remove)
        for kind, module in (("mlp_out", block.mlp), ("resid_post", block.module)):
            if kind in self._wanted:
                hook = partial(self._on_output, self._wanted[kind])
                stack.callback(module.register_forward_hook(hook).remove)

    def _on_input(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        resid = args[0] if args else kwargs["hidden_states"]
        if (tap := self._wanted.get("resid_pre")) is not None and (new := tap(resid)) is not None:
            resid = new
        self._entering = resid
        if args:
            return (resid, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": resid}

    def _on_attention(self, _module: nn.Module, _args: object, out: Out) -> object:
        value = first(out)
        if (tap := self._wanted.get("attn_out")) is not None and (new := tap(value)) is not None:
            value = new
        if (tap := self._wanted.get("resid_mid")) is not None:
            assert self._entering is not None, "attention ran before its block was entered"
            mid = self._entering.to(value.device) + value
            if (new := tap(mid)) is not None:
                value = value + (new - mid)
        return with_first(out, value)

    def _on_output(self, tap: Tap, _module: nn.Module, _args: object, out: Out) -> object:
        new = tap(first(out))
        return None if new is None else with_first(out, new)


def deepest(sites: Sequence[Site]) -> Site:
    """The site that the model computes last."""
    return max(sites, key=lambda site: (site.layer, KINDS.index(site.kind)))
