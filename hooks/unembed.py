"""From the residual stream after the last block to logits, by the model's own code.

The final norm, the unembedding, and whatever a family does around them (Gemma 2 caps its logits) are
run by the model itself, with every block made to pass its input on.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooks.errors import InputError
from hooks.inject import open_injections
from hooks.language_model import LanguageModel


def unembed(
    lm: LanguageModel, resid: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_vocab"]:
    """The logits of ``resid`` as if it were the last block's ``resid_post``.

    Gradients flow through.

    Raises:
        InputError: inside an open :func:`hooks.inject`, whose edits are of other passes.

    Example:
        >>> acts = run_to(lm, batch, [Site(-1, "resid_post")])
        >>> unembed(lm, acts[Site(-1, "resid_post")])  # the model's own logits
    """
    if open_injections(lm):
        raise InputError("unembed inside an open `inject` would be edited as a pass of its own; close it.")
    first_block = lm.anatomy.blocks[0].module
    tokens = torch.zeros(resid.shape[:2], dtype=torch.long, device=lm.device)
    with ExitStack() as stack:
        for block in lm.anatomy.blocks:
            stack.enter_context(_passing_on(block.module, returns_tuple=lm.anatomy.returns_tuple))
        first_block.forward = partial(_start_with, resid, lm.anatomy.returns_tuple)
        logits: Tensor = lm.model(input_ids=tokens, use_cache=False).logits
    return logits


def _pass_on(hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return hidden


def _pass_on_in_tuple(hidden: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor]:
    return (hidden,)


def _start_with(resid: Tensor, in_tuple: bool, *_args: Any, **_kwargs: Any) -> Tensor | tuple[Tensor]:
    return (resid,) if in_tuple else resid


@contextmanager
def _passing_on(module: nn.Module, *, returns_tuple: bool) -> Iterator[None]:
    """Replace a block's computation, and bring it back as it was, ``accelerate``'s included."""
    before = vars(module).get("forward")
    module.forward = _pass_on_in_tuple if returns_tuple else _pass_on
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
