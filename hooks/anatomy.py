"""Which modules of a Hugging Face decoder write to its residual stream, found by structure."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hooks.errors import ModelRefusedError, SiteNotFoundError
from hooks.placement import entrance
from hooks.sites import KINDS, Site

# Names of a block's children, across the decoder families of transformers. Where a norm follows
# the module inside the branch (sandwich norms), the norm's output is what reaches the stream.
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")
_AFTER_ATTENTION = ("post_self_attn_layernorm", "post_attention_layernorm")

Out = Tensor | tuple[Any, ...]
"""What a block or its part returns: hidden states, alone or before attention weights and the like."""


@dataclass(frozen=True)
class Block:
    """One decoder block and the two modules whose outputs it adds to the residual stream."""

    module: nn.Module
    attention: nn.Module
    mlp: nn.Module


@dataclass(frozen=True)
class Anatomy:
    """The decoder blocks of a model, in order."""

    blocks: tuple[Block, ...]
    parallel: bool
    """Attention and MLP both read ``resid_pre``; there is no ``resid_mid``."""

    returns_tuple: bool
    """A block returns its hidden states before other things, not alone."""

    model_class: str

    def resolve(self, site: Site) -> Site:
        """``site`` with a non-negative layer, or a :class:`SiteNotFoundError` that says what is."""
        try:
            site = site.on(len(self.blocks))
        except SiteNotFoundError as error:
            raise SiteNotFoundError(
                f"{error} Its kinds are {', '.join(self.kinds)}; it is a {self.model_class}."
            ) from None
        if site.kind not in self.kinds:
            raise SiteNotFoundError(
                f"No site {site} in {self.model_class}: its blocks run attention and MLP in "
                f"parallel, so nothing lies between them. Its kinds are {', '.join(self.kinds)}."
            )
        return site

    @property
    def kinds(self) -> tuple[str, ...]:
        """The site kinds that this model has."""
        return tuple(k for k in KINDS if k != "resid_mid" or not self.parallel)


def find_anatomy(model: PreTrainedModel) -> Anatomy:
    """Find the blocks by shape, their parts by name, and the rest by behaviour.

    Raises:
        ModelRefusedError: if the model is not a decoder whose blocks have one attention and one MLP.
    """
    n_layers = int(model.config.get_text_config().num_hidden_layers)
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ModelRefusedError(f"{name} is an encoder-decoder; only decoder-only models work.")
    lists = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    lists = [m for m in lists if _child(m[0], _ATTENTION) is not None]
    if len(lists) != 1:
        raise ModelRefusedError(
            f"{name}: looked for one list of {n_layers} blocks with an attention module among "
            f"{', '.join(_ATTENTION)}; found {len(lists)}."
        )
    blocks = tuple(_block(module, name) for module in lists[0])
    parallel, returns_tuple = _behaviour(model, blocks[0])
    return Anatomy(blocks, parallel, returns_tuple, model_class=name)


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    children = dict(module.named_children())
    return next((children[n] for n in names if n in children), None)


def _block(module: nn.Module, model_class: str) -> Block:
    attention, mlp = _child(module, _ATTENTION), _child(module, _MLP)
    if attention is None or mlp is None:
        raise ModelRefusedError(
            f"{model_class}: a block has children {', '.join(n for n, _ in module.named_children())}; "
            f"expected an attention among {', '.join(_ATTENTION)} and an MLP among {', '.join(_MLP)}."
        )
    sandwich = _child(module, _AFTER_MLP)
    if sandwich is None:
        return Block(module, attention, mlp)
    return Block(module, _child(module, _AFTER_ATTENTION) or attention, sandwich)


@torch.no_grad()
def _behaviour(model: PreTrainedModel, block: Block) -> tuple[bool, bool]:
    """Whether the first block's MLP is blind to what its attention wrote, and whether it returns a tuple."""
    seen: list[Tensor] = []
    returned: list[Out] = []

    def nudge(_module: nn.Module, _args: object, out: Out) -> object:
        value = first(out)
        bump = torch.linspace(-1, 1, value.shape[-1], device=value.device, dtype=value.dtype)
        return with_first(out, value + bump)

    def see(_module: nn.Module, _args: object, out: Out) -> None:
        seen.append(first(out))

    def note(_module: nn.Module, _args: object, out: Out) -> None:
        returned.append(out)

    tokens = torch.arange(1, 4, device=entrance(model))[None]
    watch = block.mlp.register_forward_hook(see)
    end = block.module.register_forward_hook(note)
    try:
        model.base_model(tokens, use_cache=False)
        push = block.attention.register_forward_hook(nudge)
        try:
            model.base_model(tokens, use_cache=False)
        finally:
            push.remove()
    finally:
        watch.remove()
        end.remove()
    return torch.equal(seen[0], seen[1]), isinstance(returned[0], tuple)


def first(value: Out) -> Tensor:
    """A module's hidden states: its output, or the first of its outputs."""
    hidden: Tensor = value[0] if isinstance(value, tuple) else value
    return hidden


def with_first(value: Out, new: Tensor) -> Out:
    """``value`` with its hidden states replaced."""
    return (new, *value[1:]) if isinstance(value, tuple) else new
