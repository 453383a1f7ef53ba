"""Record activations during a forward pass, and leave no trace on the model."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.rows import MAX_ROWS, Batch, Row, batches_of
from hooks.sites import Site
from hooks.taps import Tap, deepest, tapped

Activations = dict[Site, Float[Tensor, "batch pos d_model"]]


class _Stop(Exception):
    """The last wanted site has been read; nothing after it is needed."""


@contextmanager
def capture(lm: LanguageModel, sites: Iterable[Site]) -> Iterator[Activations]:
    """Fill a dict with the activation at each site as the model runs.

    The last forward pass inside the block wins. Tensors are detached views on the model's own
    device and dtype: clone before writing to them. Inside an open :func:`hooks.inject` the values
    are those after its edits.

    Args:
        sites: Where to record; a returned key is the site as you wrote it.

    Raises:
        SiteNotFoundError: if a site is not in this model; no hook is left behind.

    Example:
        >>> with capture(lm, [Site(-1, "resid_post")]) as acts:
        ...     lm.model(**batch.inputs)
    """
    activations: Activations = {}
    wanted = _distinct(lm, sites)
    with tapped(lm.anatomy, {s: partial(_store, activations, names) for s, names in wanted.items()}):
        yield activations


@torch.no_grad()
def run_to(lm: LanguageModel, batch: Batch, sites: Iterable[Site]) -> Activations:
    """The activations of one batch: runs the blocks up to the last site, and never the unembedding.

    Raises:
        SiteNotFoundError: if a site is not in this model.
        InputError: if no site is asked for.
    """
    wanted = _distinct(lm, sites)
    if not wanted:
        raise InputError("run_to was given no site; name at least one, e.g. Site(0, 'resid_post').")
    activations: Activations = {}
    last = deepest(list(wanted))
    taps: dict[Site, Tap] = {s: partial(_store, activations, names) for s, names in wanted.items()}
    taps[last] = partial(_store_and_stop, activations, wanted[last])
    with tapped(lm.anatomy, taps):
        try:
            lm.model.base_model(**batch.inputs, use_cache=False)
        except _Stop:
            pass
        else:
            raise AssertionError(f"the forward pass ended without computing {last}")
    return activations


def stream(
    lm: LanguageModel, rows: Sequence[Row], sites: Sequence[Site], *, max_rows: int | None = None
) -> Iterator[tuple[Batch, Activations]]:
    """Activations of many rows, a batch at a time, sorted by length; nothing is kept.

    Memory does not grow with the number of rows: reduce each batch before asking for the next.
    """
    per_token = lm.token_bytes(captured=len(set(sites)))
    batches = batches_of(
        rows,
        pad_id=lm.pad_id,
        device=lm.device,
        devices=lm.devices,
        row_bytes=per_token,
        max_rows=MAX_ROWS if max_rows is None else max_rows,
    )
    for batch in batches:
        yield batch, run_to(lm, batch, sites)


def _store(activations: dict[Site, Tensor], names: Sequence[Site], value: Tensor) -> None:
    for name in names:
        activations[name] = value.detach()


def _store_and_stop(activations: dict[Site, Tensor], names: Sequence[Site], value: Tensor) -> None:
    _store(activations, names, value)
    raise _Stop


def _distinct(lm: LanguageModel, sites: Iterable[Site]) -> dict[Site, list[Site]]:
    """Each site of the model that is asked for, and the ways it was written."""
    wanted: dict[Site, list[Site]] = {}
    for site in sites:
        wanted.setdefault(lm.anatomy.resolve(site), []).append(site)
    return wanted
