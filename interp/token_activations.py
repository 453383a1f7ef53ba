"""The activations of one token of each row: what probes, similarities and the lens are computed from."""

from collections.abc import Iterator, Sequence

import numpy as np
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
    for number, acts in taken(lm, rows, sites, read=read, max_rows=max_rows):
        for place, site in enumerate(sites):
            found[place, number] = acts[site].float().cpu().numpy()
    return found


def taken(
    lm: LanguageModel,
    rows: Sequence[Row],
    sites: Sequence[Site],
    *,
    read: Positions,
    max_rows: int | None = None,
) -> Iterator[tuple[Int[np.ndarray, " some"], dict[Site, Float[Tensor, "some d_model"]]]]:
    """The numbers of some rows, and the activations of their tokens; every row comes once.

    Raises:
        InputError: if there are no rows, or ``read`` does not select exactly one token of each.
    """
    for batch, acts in stream(lm, checked(rows), sites, max_rows=max_rows):
        if batch.start == 0:
            token = token_of(lm, batch.whole, read)
        (here,) = ((token >= batch.start) & (token < batch.columns.stop)).nonzero(as_tuple=True)
        if len(here):
            column = token[here] - batch.start
            yield batch.row[here].cpu().numpy(), {site: take(acts[site], here, column) for site in sites}


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


def take(
    activation: Float[Tensor, "batch pos d"], row: Int[Tensor, " some"], token: Int[Tensor, " some"]
) -> Float[Tensor, "some d"]:
    """The activation of one token of each of some rows, on the activation's own device."""
    return activation[row.to(activation.device), token.to(activation.device)]


def checked(rows: Sequence[Row]) -> Sequence[Row]:
    """``rows``, unless there are none."""
    if not rows:
        raise InputError("There are no rows to read; pass at least one.")
    return rows
