"""The activations of one token of each row: what probes, similarities and the lens are computed from."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooks.capture import stream
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.positions import Positions, last
from hooks.rows import Batch, Row
from hooks.sites import Site
from hooks.tracker import frame_of

last_token: Positions = last(1)
"""The last token of each row."""


def token_activations(
    lm: LanguageModel,
    rows: Sequence[Row],
    sites: Sequence[Site],
    *,
    read: Positions = last_token,
    max_rows: int | None = None,
) -> Float[np.ndarray, "site row d_model"]:
    """The activation at each site of the one token of each row that ``read`` selects, in float32.

    Only those tokens are kept, so memory is that of the result and of one batch.

    Raises:
        InputError: if there are no rows, or ``read`` does not select exactly one token of each.
        SiteNotFoundError: if a site is not in this model.
    """
    found = np.empty((len(sites), len(rows), lm.d_model), np.float32)
    for batch, acts in stream(lm, checked(rows), sites, max_rows=max_rows):
        token, number = token_of(lm, batch, read), batch.row.cpu().numpy()
        for place, site in enumerate(sites):
            found[place, number] = take(acts[site], token).float().cpu().numpy()
    return found


def token_of(lm: LanguageModel, batch: Batch, read: Positions) -> Int[Tensor, " batch"]:
    """The column of a batch in which each row has the one token that ``read`` selects.

    Raises:
        InputError: if it selects none or several of a row.
    """
    selected = read.select(frame_of(lm, batch, read.texts))
    count = selected.sum(1)
    if (wrong := count != 1).any():
        place = int(wrong.nonzero()[0])
        raise InputError(
            f"{read} selects {int(count[place])} tokens of row {int(batch.row[place])}; one token of each "
            "row is read here. last(1) always selects one, and mask(table) one that you choose."
        )
    return selected.int().argmax(1)


def take(activation: Float[Tensor, "batch pos d"], token: Int[Tensor, " batch"]) -> Float[Tensor, "batch d"]:
    """The activation of each row's token, on the activation's own device."""
    return activation[torch.arange(len(token), device=activation.device), token.to(activation.device)]


def checked(rows: Sequence[Row]) -> Sequence[Row]:
    """``rows``, unless there are none."""
    if not rows:
        raise InputError("There are no rows to read; pass at least one.")
    return rows
