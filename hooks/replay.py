"""Run a batch again from where an edit first changes it: what lies before is kept, not computed.

One pass is recorded: every block's input from column ``since`` on, and the keys and values of the
columns before. A variant is one row of the batch with edits of its own. It enters at the first block
that its edits change, and from there runs with all the others that have entered, in one pass over the
blocks; so a sweep over layers costs about half of one full pass for each, in a few large products, and
one that edits only the last tokens costs those tokens.

A variant gets what a full run with the same edits gets, but for rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from hooks.anatomy import first
from hooks.capture import capture
from hooks.edits import Edit
from hooks.errors import InputError, ModelRefusedError
from hooks.inject import Injection, open_injections
from hooks.language_model import LanguageModel
from hooks.positions import NEVER, Frame
from hooks.receipts import Receipt
from hooks.rows import Batch, free_bytes
from hooks.self_check import rounding
from hooks.sites import Site
from hooks.taps import tapped
from hooks.tracker import frame_of
from hooks.unembed import unembed

Read = Callable[[Float[Tensor, "variants d_vocab"], Sequence[int]], Float[Tensor, "variants ..."]]
"""Reduces next-token logits; the second argument says which variants they are of."""


@dataclass(frozen=True)
class Variant:
    """One row of the batch, by its place there, with edits."""

    place: int
    edits: tuple[Edit, ...] = field(default=())


@dataclass(frozen=True)
class Replayed:
    """What ``read`` made of each variant, in their order, and the receipt; its rows are the variants."""

    values: Float[Tensor, "variants ..."]
    receipt: Receipt


class Replay:
    """One recorded pass over ``batch``, ready to be run again under edits.

    Args:
        since: First column of the batch that an edit may change; what lies before is run once.

    Raises:
        InputError: inside an open :func:`hooks.inject`, whose edits it could not follow.
        ModelRefusedError: if the recorded last block, run again, does not give what the model gave.

    Example:
        >>> recorded = Replay(lm, batch)
        >>> variants = [Variant(0, (Patch(Site(i, "resid_post"), clean[i]),)) for i in range(lm.n_layers)]
        >>> recorded.run(variants, lambda logits, _: logits.log_softmax(-1)[:, answer]).values
    """

    @torch.no_grad()
    def __init__(self, lm: LanguageModel, batch: Batch, *, since: int = 0) -> None:
        if not 0 <= since < batch.input_ids.shape[1]:
            raise InputError(f"since={since}: the batch has columns 0..{batch.input_ids.shape[1] - 1}.")
        if open_injections(lm):
            raise InputError(
                "A replay inside an open `inject` would run its edits on rows that it has not seen. Close "
                "it, and pass its edits to each Variant."
            )
        self._lm, self._batch, self._since = lm, batch, since
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._prefix: DynamicCache | None = None
        cache: Cache | None = None
        if since:
            self._prefix = DynamicCache()  # every layer whole
            lm.model.base_model(**batch.cut(0, since).inputs, past_key_values=self._prefix, use_cache=True)
            cache = _Prefix(self._prefix)  # a pass appends to its cache; what is kept must stay as it is
        after = batch.cut(since, batch.input_ids.shape[1])
        last = Site(lm.n_layers - 1, "resid_post")
        with ExitStack() as stack:
            for block in lm.anatomy.blocks:
                handle = block.module.register_forward_pre_hook(self._record, with_kwargs=True)
                stack.callback(handle.remove)
            acts = stack.enter_context(capture(lm, [last]))
            lm.model.base_model(**after.inputs, past_key_values=cache, use_cache=cache is not None)
        self._ended = acts[last]
        self._check()

    def _record(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls.append((args, kwargs))

    def _check(self) -> None:
        """The last block, run again by hand, gives what it gave."""
        layer, places = self._lm.n_layers - 1, torch.arange(len(self._batch.row))
        found = self.block(layer, self.resid_pre(layer), places)
        scale = float(self._ended.abs().max())
        off = float((found - self._ended).abs().max())
        if not off <= rounding(self._lm.dtype) * scale:
            raise ModelRefusedError(
                f"{self._lm.name} cannot be replayed: its last block, run again on the input that it had, is "
                f"off by {off:.2g} of {scale:.2g}. Use `generate` or `inject`, which run the whole model."
            )

    def resid_pre(self, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """The recorded input of a block, or at ``n_layers`` the output of the last, from ``since`` on."""
        if layer == self._lm.n_layers:
            return self._ended
        args, kwargs = self._calls[layer]
        resid: Tensor = args[0] if args else kwargs["hidden_states"]
        return resid

    @property
    def logits(self) -> Float[Tensor, "batch d_vocab"]:
        """The unedited next-token logits of each row."""
        with torch.no_grad():
            return unembed(self._lm, self._ended[:, -1:])[:, 0]

    @torch.no_grad()
    def run(self, variants: Sequence[Variant], read: Read) -> Replayed:
        """Every variant's next-token logits, reduced by ``read`` a batch at a time.

        Raises:
            InputError: for no variants, or an edit of a column before ``since``.
            VectorError, SiteNotFoundError: for an edit that does not fit, before anything runs.
            EmptySelectionError: if an edit matched no token of its row.
        """
        if not variants:
            raise InputError("replay was given no variants; pass at least one.")
        injection = Injection(self._lm, [list(variant.edits) for variant in variants])
        full = frame_of(self._lm, self._batch, injection.tracker.found)
        enters = [self._enters(variant, full) for variant in variants]
        self._announce(injection, variants, full)
        order = sorted(range(len(variants)), key=lambda number: enters[number])
        ended, values = [], []
        with tapped(self._lm.anatomy, injection.taps):
            most = self._max_rows  # asked once: the free memory changes as the waves run
            for start in range(0, len(order), most):
                numbers = order[start : start + most]
                ended.append(_Wave(self, injection, full, variants, enters).run(numbers)[:, -1:])
        step = max(1, free_bytes(self._lm.device) // (self._lm.d_vocab * 16))
        last = torch.cat(ended)
        for start in range(0, len(order), step):
            part = slice(start, start + step)
            values.append(read(unembed(self._lm, last[part])[:, 0], order[part]))
        back = torch.tensor(order).argsort().to(values[0].device)
        return Replayed(torch.cat(values)[back], injection.receipt())

    @property
    def _max_rows(self) -> int:
        """Variants that run together: as many as the free memory holds."""
        columns = self._batch.input_ids.shape[1]
        row_bytes = self._lm.token_bytes(captured=2, cached=bool(self._since)) * columns
        return max(1, free_bytes(*self._lm.devices) // row_bytes)

    def _announce(self, injection: Injection, variants: Sequence[Variant], full: Frame) -> None:
        """Tell the injection how long the row of each variant is, and where the texts in it are."""
        tracker = injection.tracker
        lengths = (full.position.max(1).values + 1).tolist()
        prompts = full.prompt_length.tolist()
        for number, variant in enumerate(variants):
            place = variant.place
            tracker.rows[number] = prompts[place]
            tracker.given[number] = tracker.seen[number] = lengths[place]
            for text, completed in full.completed.items():
                if (at := int(completed[place])) != NEVER:
                    tracker.found[text][number] = at

    def _enters(self, variant: Variant, full: Frame) -> int:
        """The first block that a variant has to run, ``n_layers`` for none; refuses what it could not run."""
        if not 0 <= variant.place < len(self._batch.row):
            raise InputError(f"No row {variant.place}: the batch has 0..{len(self._batch.row) - 1}.")
        if not variant.edits:
            return self._lm.n_layers
        for edit in variant.edits:
            if edit.positions.by_row:
                raise InputError(
                    f"A variant edits {edit.positions}, which counts rows, and a replay runs a row several "
                    "times. Name positions by what they are in the row."
                )
            if self._since:
                chosen = edit.positions.select(full)[variant.place, : self._since]
                if bool(chosen.any()):
                    raise InputError(
                        f"An edit at {edit.site} selects {edit.positions}, which begins in column "
                        f"{int(chosen.nonzero()[0])}; this replay keeps the columns before {self._since}. "
                        "Record it with a smaller `since`."
                    )
        sites = [self._lm.anatomy.resolve(edit.site) for edit in variant.edits]
        return min(site.layer + (site.kind == "resid_post") for site in sites)

    def block(
        self, layer: int, hidden: Float[Tensor, "rows pos d_model"], places: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows pos d_model"]:
        """A block's output for rows of the batch, which may come several times."""
        args, kwargs = self._calls[layer]
        n = len(self._batch.row)

        def of_rows(value: Any) -> Any:
            if isinstance(value, Cache):
                return _Prefix(self._prefix, places)
            if isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == n:
                return value[places.to(value.device)]
            if isinstance(value, tuple):
                return tuple(of_rows(item) for item in value)
            if isinstance(value, Mapping):
                return {key: of_rows(item) for key, item in value.items()}
            return value

        if args:
            rest = tuple(of_rows(value) for value in args[1:])
            out = self._lm.anatomy.blocks[layer].module(hidden, *rest, **of_rows(kwargs))
        else:
            out = self._lm.anatomy.blocks[layer].module(**{**of_rows(kwargs), "hidden_states": hidden})
        return first(out)


class _Wave:
    """Variants that pass through the blocks together, each from the block at which it enters."""

    def __init__(
        self,
        recorded: Replay,
        injection: Injection,
        full: Frame,
        variants: Sequence[Variant],
        enters: Sequence[int],
    ) -> None:
        self._recorded, self._injection, self._full = recorded, injection, full
        self._variants, self._enters = variants, enters

    def run(self, numbers: Sequence[int]) -> Float[Tensor, "rows pos d_model"]:
        """The last block's output for these variants, which are sorted by where they enter."""
        lm, recorded = self._recorded._lm, self._recorded
        hidden = recorded.resid_pre(0)[:0]
        running = 0
        for layer in range(lm.n_layers + 1):
            count = sum(self._enters[number] <= layer for number in numbers)
            if count > running:
                new = self._enter(layer, numbers[running:count])
                hidden = torch.cat([hidden.to(new.device), new])
                running = count
            if layer < lm.n_layers and running:
                self._injection.look_at(self._frame(numbers[:running]))
                hidden = recorded.block(layer, hidden, self._places(numbers[:running]))
        return hidden

    def _enter(self, layer: int, numbers: Sequence[int]) -> Float[Tensor, "rows pos d_model"]:
        """What these variants bring along: the recorded residual, edited where it leaves the block before."""
        lm = self._recorded._lm
        hidden = self._recorded.resid_pre(layer)
        hidden = hidden[self._places(numbers).to(hidden.device)]
        tap = self._injection.taps.get(Site(layer - 1, "resid_post"))
        if tap is not None:
            self._injection.look_at(self._frame(numbers))
            edited = tap(hidden.to(lm.device_at(Site(layer - 1, "resid_post"))))
            hidden = hidden if edited is None else edited
        return hidden

    def _places(self, numbers: Sequence[int]) -> Int[Tensor, " rows"]:
        return torch.tensor([self._variants[n].place for n in numbers], device=self._full.row.device)

    def _frame(self, numbers: Sequence[int]) -> Frame:
        places, full = self._places(numbers), self._full
        return Frame(
            row=torch.tensor(numbers, device=places.device),
            position=full.position[places][:, self._recorded._since :],
            prompt_length=full.prompt_length[places],
            given_length=full.given_length[places],
            completed={text: at[places] for text, at in full.completed.items()},
        )


class _Prefix(Cache):
    """The keys and values of the columns before ``since``: read for some rows, never written."""

    def __init__(self, cache: DynamicCache | None, places: Int[Tensor, " rows"] | None = None) -> None:
        assert cache is not None
        super().__init__(layers=[_PrefixLayer(keys, values, places) for keys, values, _ in cache])


class _PrefixLayer(DynamicLayer):
    """Gives a block what was kept, and after it what the block has just made."""

    def __init__(self, keys: Tensor, values: Tensor, places: Tensor | None) -> None:
        super().__init__()
        self.keys, self.values, self._places = keys, values, places
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self._joined(self.keys, key_states), self._joined(self.values, value_states)

    def _joined(self, kept: Tensor | None, new: Tensor) -> Tensor:
        assert kept is not None
        if self._places is not None:
            kept = kept[self._places.to(kept.device)]
        return torch.cat([kept, new], dim=-2)
