"""From the residual stream after the last block to logits, by the model's own code.

The final norm, the unembedding, and whatever a family does around them (Gemma 2 caps its logits) are
run by the model itself, with every block made to pass its input on.
"""

from collections.abc import Callable, Iterator
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
    give = partial(_give, lm.anatomy.returns_tuple)
    tokens = torch.zeros(resid.shape[:2], dtype=torch.long, device=lm.device)
    with ExitStack() as stack:
        for layer, block in enumerate(lm.anatomy.blocks):
            stack.enter_context(_computing(block.module, give if layer else partial(give, resid)))
        logits: Tensor = lm.model(input_ids=tokens, use_cache=False).logits
    return logits


def _give(in_tuple: bool, hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor | tuple[Tensor]:
    """What a block gives that computes nothing: the first thing that it is given."""
    return (hidden,) if in_tuple else hidden


@contextmanager
def _computing(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """Replace a block's computation, and bring it back as it was, ``accelerate``'s included."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
