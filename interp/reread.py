"""What an edit did along a completion, token by token: read again in one pass, by teacher forcing.

Of a prompt x, a plain completion, and a completion y made under edits E, three rows run in one batch:

    x + plain   unedited,        x + y   under E,        x + y   unedited.

For token t of y, with p_t the unedited and q_t the edited next-token distribution after x, y_1..y_{t-1},

    kl_t = KL( p_t || q_t )   in nats,

and for every token of a completion, with h its activation at a site, after E where E is at work, and u a
unit direction,

    projection_t = h_t . u.

So kl_t stands at the position that made token t, and projection_t at token t's own position, one later. The
mean of kl_t is what the edits cost along the path that they led to, which the unedited model might never
have taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from transformers import DynamicCache

from hooks.capture import capture
from hooks.edits import Edit, widened
from hooks.errors import InputError
from hooks.inject import inject
from hooks.language_model import LanguageModel
from hooks.rows import Batch, Row, pad_left
from hooks.sites import Site
from interp.dose import kl_nats

PIECE = 64
"""Columns of one pass that computes logits: their size is the vocabulary's."""


@dataclass(frozen=True)
class Reread:
    """One number for each token of a completion."""

    kl_nats: Float64[np.ndarray, " steered"]
    """Of each token of the steered completion; 0 throughout where nothing is edited."""

    plain: Float64[np.ndarray, " plain"] | None
    """Projection of each token of the plain completion; None where no direction was asked for."""

    steered: Float64[np.ndarray, " steered"] | None

    @property
    def mean_kl(self) -> float:
        """Mean over the tokens of the steered completion, in nats."""
        return float(self.kl_nats.mean())


@torch.no_grad()
def reread(
    lm: LanguageModel,
    prompt: Row,
    plain: Sequence[int],
    steered: Sequence[int],
    edits: Sequence[Edit],
    *,
    site: Site | None = None,
    direction: Float[Tensor, " d_model"] | None = None,
) -> Reread:
    """The KL of every steered token, and the projection of every token of both completions.

    Positions mean what they meant while the completion was made: ``prompt`` is what was given.

    Args:
        plain: Tokens of the unedited completion.
        steered: Tokens of the completion made under ``edits``.
        site: Where to project; with ``direction``, a unit vector.

    Raises:
        InputError: for an empty completion, or one of ``site`` and ``direction`` without the other.
        VectorError, SiteNotFoundError: for an edit or a site that does not fit the model.
        EmptySelectionError: if an edit matched no token.
    """
    if not plain or not steered:
        raise InputError(
            "A completion without tokens has nothing to be read; pass one token or more of each."
        )
    if (site is None) != (direction is None):
        raise InputError("A projection needs both a site and a direction; pass both or neither.")
    rows = [Row((*prompt.tokens, *made), prompt.prompt_length) for made in (plain, steered, steered)]
    batch = pad_left(rows, range(3), pad_id=lm.pad_id, device=lm.device)
    width = batch.input_ids.shape[1]
    kl: list[Tensor] = []
    projections: list[Tensor] = []
    with inject(lm, [[], list(edits), []]) as injection:
        injection.tracker.register([0, 1, 2], [prompt] * 3)
        injection.tracker.resume(batch.row)
        with capture(lm, [] if site is None else [site]) as acts:
            for piece, logits in _pieces(lm, batch, keep=len(steered) + 1):
                if logits is not None:
                    kl.append(kl_nats(logits[2], logits[1]))
                if site is not None and direction is not None:
                    h = widened(acts[site])
                    projections.append(h[:2, -piece.input_ids.shape[1] :] @ direction.to(h))
    along = torch.cat(projections, 1).double().cpu().numpy() if projections else None
    return Reread(
        torch.cat(kl)[:-1].cpu().numpy(),
        None if along is None else along[0, width - len(plain) :],
        None if along is None else along[1, width - len(steered) :],
    )


def _pieces(lm: LanguageModel, batch: Batch, *, keep: int) -> Iterator[tuple[Batch, Tensor | None]]:
    """The columns of a batch in order; the last ``keep`` of them with logits, a few at a time."""
    width = batch.input_ids.shape[1]
    cache = DynamicCache()  # every layer whole
    start = width - keep
    if start:
        piece = batch.cut(0, start)
        lm.model.base_model(**piece.inputs, past_key_values=cache, use_cache=True)
        yield piece, None
    while start < width:
        stop = min(start + PIECE, width)
        piece = batch.cut(start, stop)
        yield piece, lm.model(**piece.inputs, past_key_values=cache, use_cache=True).logits
        start = stop
