"""Record activations during a forward pass, and leave no trace on the model."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from hooks.cache import other_states
from hooks.errors import InputError, ModelRefusedError
from hooks.inject import open_injections
from hooks.language_model import LanguageModel
from hooks.rows import MAX_ROWS, PIECE, PIECE_TOKENS, Batch, Row, batches_of, free_bytes, windows
from hooks.sites import Site
from hooks.taps import Tap, deepest, tapped

Activations = dict[Site, Float[Tensor, "batch pos d_model"]]

SCORES = 2**26
"""Bytes that the masks, and scores that are kept, of one piece may take: they grow with what went before."""

FEWEST = 16
"""Columns of a piece, however little memory is free: below it the weights are read for almost nothing."""


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
def run_to(
    lm: LanguageModel, batch: Batch, sites: Iterable[Site], *, cache: DynamicCache | None = None
) -> Activations:
    """The activations of one batch: runs the blocks up to the last site, and never the unembedding.

    Args:
        cache: For a piece of a batch: what the pieces before it left, to which this one adds its own.

    Raises:
        SiteNotFoundError: if a site is not in this model.
        InputError: if no site is asked for.
    """
    wanted = _distinct(lm, sites)
    if not wanted:
        raise InputError("run_to was given no site; name at least one, e.g. Site(0, 'resid_post').")
    activations: Activations = {}
    # a cache grows as the first attention runs, which also tells the next piece how many came before it
    last = deepest([*wanted] if cache is None else [*wanted, Site(0, "attn_out")])
    taps: dict[Site, Tap] = {s: partial(_store, activations, names) for s, names in wanted.items()}
    taps[last] = partial(_store_and_stop, activations, wanted.get(last, ()))
    with tapped(lm.anatomy, taps):
        try:
            lm.model.base_model(**batch.inputs, past_key_values=cache, use_cache=cache is not None)
        except _Stop:
            pass
        else:
            raise AssertionError(f"the forward pass ended without computing {last}")
    return activations


def run_pieces(
    lm: LanguageModel, batch: Batch, sites: Sequence[Site], *, size: int
) -> Iterator[tuple[Batch, Activations]]:
    """The activations of one batch, up to ``size`` columns at a time; keys and values alone grow with it.

    h_t depends on what came before t through keys and values alone, so the pieces hold what one pass
    would, but for rounding. Layers with a sliding window keep theirs whole too: the window is in the
    mask, which counts columns. Only layers up to the last site have a cache.

    Raises:
        ModelRefusedError: if the batch is wider and the model keeps more than keys and values.
    """
    if batch.input_ids.shape[1] <= size:
        yield batch, run_to(lm, batch, sites)
        return
    if unknown := other_states(lm.model.config):
        raise ModelRefusedError(
            f"A {lm.model.config.model_type} model keeps {unknown} from token to token, so a batch of "
            f"{batch.input_ids.shape[1]} columns cannot be run in pieces of {size}. Pass a larger `piece`."
        )
    n_rows, width = batch.input_ids.shape
    attended = SCORES // (n_rows * lm.attention_bytes(width))
    cache = DynamicCache()  # every layer whole
    for piece in batch.pieces(min(size, max(FEWEST, attended))):
        yield piece, run_to(lm, piece, sites, cache=cache)


def batches(
    lm: LanguageModel,
    rows: Sequence[Row],
    sites: Sequence[Site],
    *,
    max_rows: int | None = None,
    max_tokens: int | None = None,
    piece: int = PIECE,
    first: int = 0,
) -> Iterator[Batch]:
    """The batches of a :func:`stream`, none of which has run; rows longer than ``piece`` come first."""
    long = [n for n, row in enumerate(rows) if len(row.tokens) > piece]
    short = [n for n, row in enumerate(rows) if len(row.tokens) <= piece]
    most = MAX_ROWS if max_rows is None else max_rows
    made = partial(batches_of, rows, pad_id=lm.pad_id, device=lm.device, devices=lm.devices, first=first)
    if long:
        layers = deepest([lm.anatomy.resolve(site) for site in sites]).layer + 1
        few = min(most, max(1, PIECE_TOKENS // piece))
        if max_tokens is None:
            half = free_bytes(*lm.devices) // 2  # the other half is for the pieces
            yield from made(numbers=long, max_rows=few, row_bytes=lm.cache_bytes(layers), limit=half)
        else:
            yield from made(numbers=long, max_rows=few, row_bytes=0, limit=0)
    if short:
        row_bytes = lm.token_bytes(captured=len(set(sites))) if max_tokens is None else 1
        yield from made(numbers=short, max_rows=most, row_bytes=row_bytes, limit=max_tokens)


def stream(
    lm: LanguageModel,
    rows: Iterable[Row],
    sites: Sequence[Site],
    *,
    max_rows: int | None = None,
    max_tokens: int | None = None,
    piece: int = PIECE,
    window: int | None = None,
) -> Iterator[tuple[Batch, Activations]]:
    """Activations of many rows, a batch at a time, sorted by length; nothing is kept.

    Memory does not grow with the number of rows: reduce each batch before asking for the next. Nor
    does it with their length: rows of more than ``piece`` tokens come in pieces, one batch for some
    columns of them, first to last. ``batch.start`` is 0 for the first piece, and for every batch that
    is whole. Selections depend on all of a row, so select on the whole and cut:

        positions.select(frame_of(lm, batch.whole))[:, batch.columns]

    Every open injection is told which row of ``rows`` is where, and where its prompt ends.

    Args:
        max_tokens: Tokens of one pass, padding included. None takes what the free memory holds, so
            that runs may differ by rounding; a number makes the batches the same everywhere.
        piece: The longest row that runs in one pass; fewer columns where the memory asks for it.
        window: Rows that are sorted together, and held; None takes all.

    Raises:
        SiteNotFoundError: if a site is not in this model.
        ModelRefusedError: if a row is longer than ``piece`` and the model keeps more than keys and values.
    """
    longest = piece if max_tokens is None else min(piece, max_tokens)
    parts = [(0, list(rows))] if window is None else windows(rows, window)
    for first, part in parts:
        for batch in batches(
            lm, part, sites, max_rows=max_rows, max_tokens=max_tokens, piece=longest, first=first
        ):
            numbers = batch.row.tolist()
            for injection in open_injections(lm):
                injection.tracker.register(numbers, [part[n - first] for n in numbers])
                injection.tracker.resume(batch.row)
            size = longest if max_tokens is not None else _fitting(lm, batch, sites, longest)
            yield from run_pieces(lm, batch, sites, size=size)


def _fitting(lm: LanguageModel, batch: Batch, sites: Sequence[Site], piece: int) -> int:
    """Columns of a pass over a batch: fewer than ``piece`` where it is wider and the memory is short."""
    n_rows, width = batch.input_ids.shape
    if width <= piece:
        return piece
    column_bytes = n_rows * (lm.token_bytes(captured=len(set(sites))) + lm.attention_bytes(width))
    return min(piece, max(FEWEST, free_bytes(*lm.devices) // column_bytes))


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
