"""Activation shards: the activations of a corpus on disk, for data sets larger than memory.

    index.json                                     settings, the shards, how far the rows are done
    blocks.3.hook_resid_post/000000.safetensors    ``activations`` [tokens d_model], in order of capture

Written as it goes: a shard, then the index that names it. Every shard is full but the last. What is
in them depends on the rows and the settings alone, so that a run which was killed, given again, ends
with the same bytes in every file as one that was not: batches are cut without regard to the memory
that happens to be free, and those that were under way are run again.

Special tokens are left out unless asked for, since their norms are tens of times those of others.
Where a model has no begin-of-text token, its first token takes that part: ``everything - first(1)``.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hooks.capture import batches, run_pieces
from hooks.chat import special_ids
from hooks.errors import EmptySelectionError, InputError, ShardError, SiteNotFoundError
from hooks.files import HOLDER, LOCK, hold, let_go, whole, write_json, writing
from hooks.inject import open_injections
from hooks.language_model import LanguageModel
from hooks.positions import Positions, everything
from hooks.rows import MAX_ROWS, PIECE, PIECE_TOKENS, WINDOW, Row, windows
from hooks.sites import Site
from hooks.tracker import frame_of

FORMAT = "unlatch.activation-shards.1"
INDEX, TENSOR = "index.json", "activations"
DTYPES = ("float64", "float32", "float16", "bfloat16")
TOKENS_PER_SHARD = 2**15

BLOCK = 256
"""Neighbours on disk that a reader takes together, and then shuffles apart: enough to read at full speed."""

MIX = 2**15
"""Vectors that a reader shuffles together, from blocks of all shards; it holds no more than these."""


def write_shards(
    lm: LanguageModel,
    rows: Iterable[str | Row],
    sites: Sequence[Site],
    folder: str | Path,
    *,
    positions: Positions = everything,
    keep_special: bool = False,
    tokens_per_shard: int = TOKENS_PER_SHARD,
    dtype: torch.dtype | None = None,
    max_tokens: int = PIECE_TOKENS,
    on_tokens: Callable[[int], None] | None = None,
) -> "ActivationShards":
    """Write the activations of all rows, at several sites in one pass; or go on where a run stopped.

    Rows are drawn as they are needed, 1024 at a time, which are sorted by length. Memory: a shard of
    each site, one more while it is written, and a pass over ``max_tokens`` tokens.

    Args:
        rows: Texts, tokenized as they stand, or token rows. To go on, the same ones from the start.
        positions: Which tokens; nothing that differs by the number of a row.
        keep_special: Also take tokens that stand for no text, such as begin-of-text.
        dtype: Of the shards; None takes the model's.
        max_tokens: Tokens of one pass. Part of the settings, since it decides the last bits.
        on_tokens: Called with the number of tokens of each pass, for progress.

    Raises:
        SiteNotFoundError: before anything is written.
        ShardError: if the folder holds other shards, or anything else; or if the rows that were done
            are not those that are given.
        RunError: if another process is writing the folder; if the disk is full, in which case what was
            written is whole and the same call goes on.
        EmptySelectionError: if no token of any row is selected.
        InputError: if an activation is not finite in ``dtype``; if edits are open on the model.
    """
    folder = Path(folder)
    if isinstance(rows, str):
        raise InputError("write_shards takes many rows and was given one text; pass a list of texts.")
    if open_injections(lm):
        raise InputError(
            "Edits are open on this model, and the shards would pass for those of the model without "
            "them. Close `inject` first."
        )
    settings = _settings(
        lm, sites, positions=positions, keep_special=keep_special, tokens_per_shard=tokens_per_shard,
        dtype=lm.dtype if dtype is None else dtype, max_tokens=max_tokens,
    )  # fmt: skip
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        names = {file.name for file in folder.iterdir()}
    if INDEX not in names and names - {LOCK, HOLDER, f"{HOLDER}.part", f"{INDEX}.part"}:
        raise ShardError(
            f"{folder} is not empty and holds no shards. Pass another folder; nothing in it was touched."
        )
    lock = hold(folder)
    try:
        index = _begun(folder, lm, settings)
        if not index["complete"]:
            _write(lm, rows, positions, folder, index, on_tokens)
    finally:
        let_go(folder, lock)
    return ActivationShards.open(folder)


def _settings(
    lm: LanguageModel,
    sites: Sequence[Site],
    *,
    positions: Positions,
    keep_special: bool,
    tokens_per_shard: int,
    dtype: torch.dtype,
    max_tokens: int,
) -> dict[str, Any]:
    """All that decides what is in the shards, apart from the rows."""
    chosen = sorted({lm.anatomy.resolve(site) for site in sites})
    name = str(dtype).removeprefix("torch.")
    if not chosen:
        raise InputError("write_shards was given no site; name at least one, e.g. Site(0, 'resid_post').")
    if name not in DTYPES:
        raise InputError(f"Shards in {dtype}? They are in {', '.join(DTYPES)}.")
    if tokens_per_shard < 1 or max_tokens < 1:
        raise InputError(
            f"tokens_per_shard={tokens_per_shard} and max_tokens={max_tokens}: both are 1 or more."
        )
    if positions.by_row:
        raise InputError(
            f"{positions} differs by the number of a row, which an index cannot say. Leave out what is "
            "not wanted of the rows, or pass a rule such as `response` or `last(5)`."
        )
    return {
        "fingerprint": lm.fingerprint,
        "tokenizer_hash": lm.tokenizer_hash,
        "sites": [str(site) for site in chosen],
        "d_model": lm.d_model,
        "dtype": name,
        "positions": str(positions),
        "keep_special": keep_special,
        "tokens_per_shard": tokens_per_shard,
        "max_tokens": max_tokens,
        "max_rows": MAX_ROWS,
        "piece": min(PIECE, max_tokens),
        "attention": str(lm.model.config._attn_implementation),
        "window": WINDOW,
    }


def _begun(folder: Path, lm: LanguageModel, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The index of a folder, which is begun if there is none.

    ``rows`` before the one numbered so are done, and ``further`` vectors of the window that begins
    there; ``rows_sha256`` is of all rows up to the end of that window.
    """
    if not (folder / INDEX).exists():
        progress = {"shards": [], "rows": 0, "further": 0, "rows_sha256": "", "complete": False}
        index = {"format": FORMAT, "model": lm.name, **settings, **progress}
        write_json(folder / INDEX, index)
        return index
    index = _read_index(folder)
    if other := [name for name, value in settings.items() if index.get(name) != value]:
        differences = "; ".join(
            f"{name} is {index.get(name)} there and {settings[name]} here" for name in other
        )
        raise ShardError(
            f"{folder} holds shards of {index['model']} with other settings: {differences}. Pass another "
            "folder, or delete it yourself; nothing in it was touched."
        )
    _check_sizes(folder, index)
    return index


def _write(
    lm: LanguageModel,
    rows: Iterable[str | Row],
    positions: Positions,
    folder: Path,
    index: dict[str, Any],
    on_tokens: Callable[[int], None] | None,
) -> None:
    """Go on from where ``index`` is, shard by shard, to the end of the rows."""
    start, skip = index["rows"], index["further"]
    shard = _Shard(index)
    digest = hashlib.sha256()
    total, met = 0, not index["shards"]
    for first, items in windows(rows, index["window"]):
        total = first + len(items)
        for item in items:
            known = item if isinstance(item, str) else [item.prompt_length, *item.tokens]
            digest.update(json.dumps(known).encode() + b"\n")
        if first < start:
            continue
        if first == start and index["shards"]:
            met = digest.hexdigest() == index["rows_sha256"]
            if not met:
                break
        done = skip if first == start else 0
        for vectors in _vectors(lm, items, positions, index, done, on_tokens):
            for taken in shard.take(vectors):
                done += taken
                if shard.filled == index["tokens_per_shard"]:
                    index["shards"].append(shard.save(folder, len(index["shards"])))
                    index.update(rows=first, further=done, rows_sha256=digest.hexdigest())
                    write_json(folder / INDEX, index)
    if not met:
        raise ShardError(
            f"The rows that {folder} was written from are not those that are given now: {start} were done, "
            f"and some of the next {index['window']}. Give the same from the start, or pass another folder."
        )
    if shard.filled:
        index["shards"].append(shard.save(folder, len(index["shards"])))
    if not index["shards"]:
        raise EmptySelectionError(
            f"The selection {positions} matches no token of {total} rows"
            f"{'' if index['keep_special'] else ' that stands for text'}; there is nothing to write."
        )
    index.update(rows=total, further=0, rows_sha256=digest.hexdigest(), complete=True)
    write_json(folder / INDEX, index)


def _vectors(
    lm: LanguageModel,
    items: Sequence[str | Row],
    positions: Positions,
    index: Mapping[str, Any],
    skip: int,
    on_tokens: Callable[[int], None] | None,
) -> Iterator[dict[Site, Float[Tensor, "tokens d_model"]]]:
    """The selected activations of some rows, but for the first ``skip``; a batch of only those is not run."""
    rows = [row for item in items if (row := _row(lm.tokenizer, item)) is not None]
    sites = [Site.parse(name) for name in index["sites"]]
    dtype = getattr(torch, index["dtype"])
    ids = set() if index["keep_special"] else special_ids(lm.tokenizer)
    special = torch.tensor(sorted(ids), dtype=torch.long, device=lm.device)
    cut = batches(
        lm, rows, sites, max_rows=index["max_rows"], max_tokens=index["max_tokens"], piece=index["piece"]
    )
    for batch in cut:
        selected = positions.select(frame_of(lm, batch, positions.texts))
        selected &= ~torch.isin(batch.input_ids, special)
        if (n := int(selected.sum())) <= skip:
            skip -= n
            continue
        for piece, acts in run_pieces(lm, batch, sites, size=index["piece"]):
            here = selected[:, piece.columns]
            drop = min(skip, int(here.sum()))
            skip -= drop
            yield {
                site: _narrowed(acts[site][here.to(acts[site].device)][drop:], dtype, site) for site in sites
            }
            if on_tokens is not None:
                on_tokens(int(piece.attention_mask.sum()))


def _row(tokenizer: PreTrainedTokenizerBase, item: str | Row) -> Row | None:
    """None for a text without tokens."""
    if isinstance(item, Row):
        return item
    ids = tuple(int(i) for i in tokenizer(item).input_ids)
    return Row(ids, len(ids)) if ids else None


def _narrowed(
    values: Float[Tensor, "tokens d_model"], dtype: torch.dtype, site: Site
) -> Float[Tensor, "tokens d_model"]:
    narrow = values.to(dtype)
    if not torch.isfinite(narrow).all():
        largest = float(values.abs().nan_to_num(posinf=float("inf")).max())
        raise InputError(
            f"An activation at {site} is not finite in {dtype}; the largest one is {largest:.3g}, in "
            f"{values.dtype}. torch.float32 and torch.bfloat16 hold up to 3e38, torch.float16 up to 65504."
        )
    return narrow.cpu()


class _Shard:
    """The shard of each site that is being filled."""

    def __init__(self, index: Mapping[str, Any]) -> None:
        shape, dtype = (index["tokens_per_shard"], index["d_model"]), getattr(torch, index["dtype"])
        self._values = {Site.parse(name): torch.empty(shape, dtype=dtype) for name in index["sites"]}
        self.filled = 0

    def take(self, vectors: Mapping[Site, Float[Tensor, "tokens d_model"]]) -> Iterator[int]:
        """Take up ``vectors``, and stop to say how many whenever no more fit or all are taken."""
        at, n = 0, len(next(iter(vectors.values())))
        while at < n:
            for site, values in self._values.items():
                room = values[self.filled : self.filled + n - at]
                room.copy_(vectors[site][at : at + len(room)])
            self.filled, at = self.filled + len(room), at + len(room)
            yield len(room)

    def save(self, folder: Path, number: int) -> dict[str, Any]:
        """Write what is filled, and begin anew."""
        digests = {}
        for site, values in self._values.items():
            file = _file(folder, site, number)
            data = to_bytes({TENSOR: values[: self.filled]})
            with writing(file):
                file.parent.mkdir(exist_ok=True)
            with whole(file) as part, part.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            digests[str(site)] = hashlib.sha256(data).hexdigest()
        tokens, self.filled = self.filled, 0
        return {"tokens": tokens, "sha256": digests}


def _file(folder: Path, site: Site | str, number: int) -> Path:
    return folder / str(site) / f"{number:06d}.safetensors"


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text("utf-8"))
    except FileNotFoundError:
        raise ShardError(f"{folder} holds no {INDEX}: it is no folder that write_shards made.") from None
    except ValueError:
        raise ShardError(f"{folder / INDEX} is damaged: it is no JSON. Write the folder again.") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ShardError(f"{folder / INDEX} is not of the format {FORMAT}.")
    try:
        known = index["dtype"] in DTYPES and all(str(Site.parse(name)) == name for name in index["sites"])
    except (KeyError, SiteNotFoundError):
        known = False
    if not known:
        raise ShardError(
            f"{folder / INDEX} is damaged: it names no dtype, or no sites. Write the folder again."
        )
    return index


def _check_sizes(folder: Path, index: Mapping[str, Any]) -> None:
    """Every shard is there, and long enough; what is in it is checked as it is read."""
    row_bytes = index["d_model"] * getattr(torch, index["dtype"]).itemsize
    wrong = []
    for number, shard in enumerate(index["shards"]):
        for site in index["sites"]:
            file = _file(folder, site, number)
            if not file.exists():
                wrong.append(f"{file} is missing")
            elif (size := file.stat().st_size) < shard["tokens"] * row_bytes:
                wrong.append(f"{file} was cut off at {size} bytes")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ShardError(
            f"{'; '.join(wrong[:5])}{more}. Copy the folder anew, or delete it and write it again."
        )


@dataclass(frozen=True)
class ActivationShards:
    """A folder of activation shards, read a little at a time."""

    folder: Path
    sites: tuple[Site, ...]
    model: str
    fingerprint: str
    tokenizer_hash: str
    positions: str
    d_model: int
    dtype: str
    rows: int
    """Rows whose vectors are all in the shards."""

    complete: bool
    tokens: tuple[int, ...]
    """Vectors in each shard."""

    sha256: tuple[Mapping[str, str], ...]
    """Of the file of each shard, by site."""

    _sound: set[Path] = field(default_factory=set, repr=False, compare=False)

    @staticmethod
    def open(folder: str | Path, *, incomplete: bool = False) -> "ActivationShards":
        """Open a folder that :func:`write_shards` made.

        Args:
            incomplete: Also open one that is not done, and read the shards that there are.

        Raises:
            ShardError: if it is none, or incomplete; naming the shards that are missing or cut off.
        """
        folder = Path(folder)
        index = _read_index(folder)
        if not index["complete"] and not incomplete:
            raise ShardError(
                f"{folder} is incomplete: {len(index['shards'])} shards, {index['rows']} rows done. Call "
                "write_shards again with the same rows to go on, or open it with incomplete=True."
            )
        _check_sizes(folder, index)
        return ActivationShards(
            folder=folder,
            sites=tuple(Site.parse(name) for name in index["sites"]),
            model=index["model"],
            fingerprint=index["fingerprint"],
            tokenizer_hash=index["tokenizer_hash"],
            positions=index["positions"],
            d_model=index["d_model"],
            dtype=index["dtype"],
            rows=index["rows"],
            complete=index["complete"],
            tokens=tuple(shard["tokens"] for shard in index["shards"]),
            sha256=tuple(shard["sha256"] for shard in index["shards"]),
        )

    def __len__(self) -> int:
        """Vectors at each site."""
        return sum(self.tokens)

    def read(self, number: int, *, site: Site | None = None) -> Float[Tensor, "tokens {self.d_model}"]:
        """One shard, as it was written.

        Raises:
            ShardError: if it is missing or damaged.
        """
        (vectors,) = self._spans(self.one_of(site), number, [(0, self.tokens[number])])
        return vectors

    def verify(self) -> None:
        """Read every shard, and compare it with its checksum.

        Raises:
            ShardError: naming the first one that is missing or damaged.
        """
        for site in self.sites:
            for number in range(len(self.tokens)):
                self._check(site, number)

    def batches(
        self,
        size: int,
        *,
        site: Site | None = None,
        seed: int = 0,
        epochs: int | None = 1,
        start: int = 0,
        mix: int = MIX,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Iterator[Float[Tensor, "batch {self.d_model}"]]:
        """Shuffled vectors, ``size`` at a time: in each epoch every vector once.

        Blocks of 256 neighbours are drawn from all shards in an order of each epoch's own, and ``mix``
        vectors of them shuffled together; only those are in memory. Epochs follow one another without
        a seam, so that every batch is full but the last. Order depends on ``seed`` and ``mix`` alone.
        A shard is checked when it is first read, and so read as a whole then.

        Args:
            site: May be left out where there is one.
            epochs: None never ends, as trainers want it.
            start: The number of the first batch to give: where an earlier run stopped.

        Raises:
            InputError: if ``site`` is not in the folder, or left out where there are several.
            ShardError: while reading, if a shard is missing or damaged.

        Example:
            >>> shards = ActivationShards.open("acts")
            >>> provider = shards.batches(4096, epochs=None)  # what SAELens's SAETrainer trains on
        """
        if size < 1 or mix < 1 or start < 0 or seed < 0 or (epochs is not None and epochs < 1):
            raise InputError(
                f"size={size}, mix={mix}, epochs={epochs}, start={start}, seed={seed}: the first three are 1 "
                "or more (epochs may be None), the others 0 or more."
            )
        if not len(self):
            raise ShardError(f"{self.folder} holds no vectors yet.")
        chosen = self.one_of(site)
        return self._batched(
            self._mixed(chosen, seed, epochs, mix, skip=start * size), size, torch.device(device), dtype
        )

    def one_of(self, site: Site | None) -> Site:
        """The site that is asked for, or the only one."""
        if site is None and len(self.sites) == 1:
            return self.sites[0]
        if site not in self.sites:
            asked = "No site was named" if site is None else f"No shards of {site}"
            raise InputError(f"{asked}; {self.folder} holds {', '.join(map(str, self.sites))}. Pass site=.")
        return site

    def _batched(
        self, buffers: Iterator[Tensor], size: int, device: torch.device, dtype: torch.dtype
    ) -> Iterator[Tensor]:
        """What comes in ``buffers``, in batches of ``size``."""
        left: Tensor | None = None
        for buffer in buffers:
            at = 0
            if left is not None:
                at = min(size - len(left), len(buffer))
                left = torch.cat([left, buffer[:at]])
                if len(left) == size:
                    yield left.to(device, dtype)
                    left = None
            while at + size <= len(buffer):
                yield buffer[at : at + size].to(device, dtype, copy=True)
                at += size
            if at < len(buffer):
                left = buffer[at:].clone()
            del buffer  # before the next one is made
        if left is not None:
            yield left.to(device, dtype)

    def _mixed(
        self, site: Site, seed: int, epochs: int | None, mix: int, skip: int
    ) -> Iterator[Float[Tensor, "mix {self.d_model}"]]:
        """Shuffled vectors from the one numbered ``skip`` on; none before it is read."""
        starts = [np.arange(0, n, BLOCK) for n in self.tokens]
        shard = np.repeat(np.arange(len(self.tokens)), [len(s) for s in starts])
        start = np.concatenate(starts)
        stop = np.minimum(start + BLOCK, np.asarray(self.tokens)[shard])
        n_blocks = max(1, mix // BLOCK)
        begin, skip = divmod(skip, len(self))
        for epoch in count(begin) if epochs is None else range(begin, epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(shard))
            for number, at in enumerate(range(0, len(order), n_blocks)):
                blocks = order[at : at + n_blocks]
                size = int((stop - start)[blocks].sum())
                if skip >= size:
                    skip -= size
                    continue
                place = np.random.default_rng([seed, epoch, number]).permutation(size)
                spans = zip(
                    shard[blocks].tolist(), start[blocks].tolist(), stop[blocks].tolist(), strict=True
                )
                yield self._buffer(site, list(spans), torch.from_numpy(place))[skip:]
                skip = 0

    def _buffer(
        self, site: Site, blocks: Sequence[tuple[int, int, int]], place: Tensor
    ) -> Float[Tensor, "mix {self.d_model}"]:
        """These (shard, start, stop), of which the i-th vector goes to the i-th place."""
        buffer = torch.empty(len(place), self.d_model, dtype=getattr(torch, self.dtype))
        of_shard: dict[int, list[tuple[int, int]]] = {}
        for shard, start, stop in sorted(blocks):
            of_shard.setdefault(shard, []).append((start, stop))
        done = 0
        for shard, spans in of_shard.items():
            for vectors in self._spans(site, shard, spans):
                buffer[place[done : done + len(vectors)]] = vectors
                done += len(vectors)
        return buffer

    def _spans(self, site: Site, number: int, spans: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        """Some stretches of one shard."""
        self._check(site, number)
        with safe_open(_file(self.folder, site, number), "pt") as opened:
            stored = opened.get_slice(TENSOR)
            for start, stop in spans:
                yield stored[start:stop]

    def _check(self, site: Site, number: int) -> None:
        file = _file(self.folder, site, number)
        if file in self._sound:
            return
        try:
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            raise ShardError(f"{file} is missing. Copy the folder anew, or write it again.") from None
        if found != (said := self.sha256[number][str(site)]):
            raise ShardError(
                f"{file} is damaged: its sha256 is {found[:12]}… and the index says {said[:12]}…. Copy the "
                "folder anew, or delete it and write it again."
            )
        self._sound.add(file)
