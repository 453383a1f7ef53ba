"""Write edits into a running model, keep a receipt, and restore the model afterwards."""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from hooks.edits import Edit, widened
from hooks.errors import EmptySelectionError, InputError
from hooks.language_model import LanguageModel
from hooks.positions import Frame, Positions
from hooks.receipts import Receipt
from hooks.rows import Row
from hooks.sites import Site
from hooks.taps import Tap, tapped
from hooks.tracker import Tracker

Edits = Sequence[Edit] | Sequence[Sequence[Edit]]
"""Edits of every row; or one list for each row, in the order the rows enter."""


@dataclass(frozen=True)
class _Group:
    """Edits of one kind, site and positions: one for all rows, or at most one for each."""

    site: Site
    edit: Edit
    positions: Positions
    parameters: tuple[Tensor, ...]
    place: dict[int, int] | None
    """Row number to place in ``parameters``; None when one edit serves every row."""


@dataclass(frozen=True)
class _Written:
    """The cells of one group in one forward pass, still on their layer's device."""

    group: _Group
    row: Int[Tensor, " batch"]
    position: Int[Tensor, "batch chunk"]
    mask: Bool[Tensor, "batch chunk"]
    ratio: Float[Tensor, "batch chunk"]


class Injection:
    """An open set of edits. ``tracker`` follows the rows; :meth:`receipt` says what was written."""

    def __init__(self, lm: LanguageModel, edits: Edits) -> None:
        self._lm, self._edits = lm, edits
        self._groups = _compile(lm, edits)
        self._lists = None if all(isinstance(e, Edit) for e in edits) else len(edits)
        texts = {text for groups in self._groups.values() for g in groups for text in g.positions.texts}
        self.tracker = Tracker(texts, lambda ids: str(lm.tokenizer.decode(list(ids))))
        self._touched: dict[Hashable, bool] = {}
        self._frame: Frame | None = None
        self._selected: dict[Positions, Tensor] = {}
        self._places: dict[int, tuple[Tensor, Tensor] | None] = {}
        self._written: list[_Written] = []

    @property
    def taps(self) -> dict[Site, Tap]:
        """One tap for each edited site."""
        return {site: partial(self._write_all, groups) for site, groups in self._groups.items()}

    def enter(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the whole model: find out which tokens this pass holds."""
        self.look_at(self.tracker.frame(args, kwargs))

    def look_at(self, frame: Frame) -> None:
        """The blocks run these tokens next."""
        before = None if self._frame is None else self._frame.row
        self._frame = frame
        self._selected.clear()
        if before is not self._frame.row:
            self._places.clear()
            if self._lists is not None and (highest := int(self._frame.row.max())) >= self._lists:
                raise InputError(
                    f"{self._lists} lists of edits and row {highest} is running; pass one list for "
                    "each row, in the order the rows enter."
                )

    def leave(self, _module: nn.Module, _args: object, kwargs: dict[str, Any], _out: object) -> None:
        """Forward hook of the whole model: remember the cache, to see if its rows are moved."""
        self.tracker.leave(kwargs.get("past_key_values"))

    # --- for a loop in which rows share what they have in common

    def edits_of_prefix(self, number: int, row: Row) -> Hashable:
        """What this injection does to the tokens of row ``number`` but the last: equal keys, equal edits."""
        return tuple(
            (id(edit), number if edit.positions.by_row else None)
            for edit in self._edits_of(number)
            if self._touches(edit.positions, number, row, len(row.tokens) - 1)
        )

    def touches(self, number: int, row: Row, n: int) -> bool:
        """Whether an edit of row ``number`` selects any of its first ``n`` tokens."""
        return any(self._touches(edit.positions, number, row, n) for edit in self._edits_of(number))

    def _edits_of(self, number: int) -> Sequence[Any]:
        return self._edits if self._lists is None else self._edits[number]  # type: ignore[return-value]

    def _touches(self, positions: Positions, number: int, row: Row, n: int) -> bool:
        key = row, positions, n, number if positions.by_row else None
        if key not in self._touched:
            tracker = Tracker(positions.texts, lambda ids: str(self._lm.tokenizer.decode(list(ids))))
            tracker.register([number], [row])
            tracker.resume(torch.tensor([number]))
            start = torch.tensor([row.tokens[:n]], dtype=torch.long)
            self._touched[key] = bool(start.numel() and positions.select(tracker.frame((start,), {})).any())
        return self._touched[key]

    def mark(self) -> int:
        """A point in time, for :meth:`share`."""
        return len(self._written)

    def share(self, numbers: Sequence[int], *, since: int) -> None:
        """What was written in the first of these rows since ``since`` was written in all of them."""
        first, others = numbers[0], numbers[1:]
        if not others:
            return
        self.tracker.copy(first, others)
        for entry in self._written[since:]:
            (place,) = (entry.row == first).nonzero(as_tuple=True)
            if len(place) and bool(entry.mask[place].any()):
                self._written.append(
                    _Written(
                        entry.group,
                        torch.tensor(others, device=entry.row.device),
                        *(
                            t[place].expand(len(others), -1)
                            for t in (entry.position, entry.mask, entry.ratio)
                        ),
                    )
                )

    def forget(self, numbers: Collection[int]) -> None:
        """These rows are taken back: nothing was written in them."""
        self.tracker.forget(numbers)
        gone = torch.tensor(sorted(numbers))
        self._written = [
            replace(entry, mask=entry.mask & ~torch.isin(entry.row, gone.to(entry.row.device))[:, None])
            for entry in self._written
        ]

    def _write_all(self, groups: Sequence[_Group], h: Tensor) -> Tensor | None:
        new = h
        for group in groups:
            new = self._write(group, new)
        return None if new is h else new

    def _write(self, group: _Group, h: Tensor) -> Tensor:
        assert self._frame is not None, "a site fired before the model was entered"
        frame = self._frame
        if group.positions not in self._selected:
            self._selected[group.positions] = group.positions.select(frame)
        selected = self._selected[group.positions]
        mask, position, row = (t.to(h.device) for t in (selected, frame.position, frame.row))
        parameters = tuple(p.to(h.device) for p in group.parameters)
        if group.place is None:
            before = widened(h)
            after = torch.where(mask[..., None], group.edit.apply(before, position, *parameters), before)
            out = after.to(h.dtype)
        else:
            found = self._rows_of(group, frame)
            if found is None:
                return h
            here, place = (t.to(h.device) for t in found)
            mask, position, row, before = mask[here], position[here], row[here], widened(h[here])
            parameters = tuple(p[place] for p in parameters)
            after = torch.where(mask[..., None], group.edit.apply(before, position, *parameters), before)
            out = h.index_copy(0, here, after.to(h.dtype))
        ratio = (after - before).detach().norm(dim=-1) / before.detach().norm(dim=-1).clamp(min=1e-12)
        self._written.append(_Written(group, row, position, mask, ratio.float()))
        return out

    def _rows_of(self, group: _Group, frame: Frame) -> tuple[Tensor, Tensor] | None:
        """Places in the batch of the rows that carry this group's edits, and in its parameters."""
        assert group.place is not None
        if id(group) not in self._places:
            numbers = frame.row.tolist()
            pairs = [(i, group.place[n]) for i, n in enumerate(numbers) if n in group.place]
            device = frame.row.device
            self._places[id(group)] = (
                None
                if not pairs
                else (
                    torch.tensor([i for i, _ in pairs], device=device),
                    torch.tensor([p for _, p in pairs], device=device),
                )
            )
        return self._places[id(group)]

    def check_selected(self) -> None:
        """Raise :class:`EmptySelectionError` if an edit's rows ran and it was written nowhere."""
        self.tracker.finish()
        written = {id(entry.group) for entry in self._written if entry.mask.any()}
        for site, groups in self._groups.items():
            for group in groups:
                ran = group.place is None or group.place.keys() & self.tracker.seen.keys()
                if self.tracker.seen and ran and id(group) not in written:
                    raise EmptySelectionError(
                        f"{type(group.edit).__name__} at {site} asked for positions {group.positions}, "
                        f"and none of the {len(self.tracker.seen)} rows has such a token (longest "
                        f"prompt {max(self.tracker.rows.values())}, longest row "
                        f"{max(self.tracker.seen.values())}). `all`, `prompt` and `generated` always "
                        "match."
                    )

    def receipt(self) -> Receipt:
        """What has been written so far.

        Raises:
            EmptySelectionError: if rows carried an edit whose positions matched none of their tokens.
        """
        self.check_selected()
        sites = tuple(sorted(self._groups))
        columns: dict[str, list[np.ndarray]] = defaultdict(list)
        for entry in self._written:
            cells = entry.mask.cpu()
            count = int(cells.sum())
            columns["row"].append(entry.row.cpu()[:, None].expand_as(cells)[cells].numpy())
            columns["position"].append(entry.position.cpu()[cells].numpy())
            columns["ratio"].append(entry.ratio.cpu()[cells].numpy())
            columns["site"].append(np.full(count, sites.index(entry.group.site), dtype=np.int64))

        def join(name: str, dtype: type) -> np.ndarray:
            return np.concatenate(columns[name]) if columns[name] else np.empty(0, dtype)

        return Receipt(
            sites=sites,
            site=join("site", np.int64),
            row=join("row", np.int64),
            position=join("position", np.int64),
            ratio=join("ratio", np.float32),
            prompt_length=dict(self.tracker.rows),
            given_length=dict(self.tracker.given),
            seen=dict(self.tracker.seen),
            found={text: dict(at) for text, at in self.tracker.found.items()},
        )


_open: WeakKeyDictionary[PreTrainedModel, list[Injection]] = WeakKeyDictionary()


def open_injections(lm: LanguageModel) -> list[Injection]:
    """All injections that are open on a model: who decodes tells them of its rows."""
    return list(_open.get(lm.model, ()))


@contextmanager
def inject(lm: LanguageModel, edits: Edits) -> Iterator[Injection]:
    """Apply ``edits`` to every forward pass of ``lm.model`` while the block is open.

    Works around your own calls, ``model.generate`` included. The prompt of a row is what its first
    pass holds; for text that already contains a response, announce it first:
    ``injection.tracker.begin(batch.row, batch.prompt_length)``.

    Args:
        edits: One list for every row, or one list for each row in the order the rows enter.

    Yields:
        The open injection; ``injection.receipt()`` says what was written.

    Raises:
        VectorError, SiteNotFoundError: before anything runs.
        EmptySelectionError: at the end, if an edit matched no token of any of its rows.

    Example:
        >>> with inject(lm, [Add(Site(12, "resid_post"), vector)]) as injection:
        ...     lm.model.generate(**inputs)
        >>> injection.receipt().check(generated)
    """
    injection = Injection(lm, edits)
    with ExitStack() as stack:
        base = lm.model.base_model
        stack.callback(base.register_forward_pre_hook(injection.enter, with_kwargs=True).remove)
        stack.callback(base.register_forward_hook(injection.leave, with_kwargs=True).remove)
        stack.enter_context(tapped(lm.anatomy, injection.taps))
        _open.setdefault(lm.model, []).append(injection)
        stack.callback(_open[lm.model].remove, injection)
        yield injection
    injection.check_selected()


def _compile(lm: LanguageModel, edits: Edits) -> dict[Site, list[_Group]]:
    """Check every edit, and stack those of a kind."""
    per_row = [list(e) for e in edits if not isinstance(e, Edit)]
    if per_row and len(per_row) != len(edits):
        raise InputError("Pass edits for every row, or a list of edits for each row; not a mixture.")
    groups: dict[Site, list[_Group]] = defaultdict(list)
    if not per_row:
        for edit in edits:
            assert isinstance(edit, Edit)
            site = _checked(lm, edit)
            stacked = tuple(_onto(lm, site, p[None]) for p in edit.parameters())
            groups[site].append(_Group(site, edit, edit.positions, stacked, None))
        return dict(groups)
    for place_in_list in range(max(map(len, per_row))):
        alike: dict[tuple[Site, Positions, Hashable], list[tuple[int, Edit]]] = defaultdict(list)
        for row, row_edits in enumerate(per_row):
            if place_in_list < len(row_edits):
                edit = row_edits[place_in_list]
                alike[_checked(lm, edit), edit.positions, edit.group].append((row, edit))
        for (site, positions, _), members in alike.items():
            distinct = list({id(edit): edit for _, edit in members}.values())
            places = {id(edit): i for i, edit in enumerate(distinct)}
            columns = zip(*(edit.parameters() for edit in distinct), strict=True)
            stacked = tuple(_onto(lm, site, torch.stack(column)) for column in columns)
            place = {row: places[id(edit)] for row, edit in members}
            groups[site].append(_Group(site, distinct[0], positions, stacked, place))
    return dict(groups)


def _onto(lm: LanguageModel, site: Site, parameter: Tensor) -> Tensor:
    """A parameter where its site's block computes, and in the dtype in which it is edited."""
    dtype = torch.promote_types(lm.dtype, torch.float32) if parameter.is_floating_point() else None
    return parameter.to(lm.device_at(site), dtype)


def _checked(lm: LanguageModel, edit: Edit) -> Site:
    edit.check(lm)
    return lm.anatomy.resolve(edit.site)
