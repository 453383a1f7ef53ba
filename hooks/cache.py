"""A key-value cache whose rows come and go while it grows, without being copied at every step.

Rows end at the same column. Keys and values lie in buffers made once; a step writes one column and
attends over a view from the oldest running row's first column on. A row that leaves is overwritten
by the last one; a row that enters brings the keys and values of its prefix. Only when the columns run
out are the running rows moved to the front.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from hooks.errors import ModelRefusedError

SLACK = 1 / 4
"""Columns beyond the longest row, as a share of it: the cache is moved once in so many steps."""

Prefix = Sequence[tuple[Float[Tensor, "heads pos d_k"], Float[Tensor, "heads pos d_v"]]]
"""Keys and values of one row's first tokens, a pair for each layer."""


class _Layer(DynamicLayer):
    """One layer's buffers; the cache that it belongs to says which part of them is running."""

    def __init__(self, owner: "PackedCache") -> None:
        super().__init__()
        self._owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Zeros, since a masked value is multiplied by nought, and what lies in memory may be NaN."""
        self.dtype, self.device = key_states.dtype, key_states.device
        rows, columns = self._owner.max_rows, self._owner.columns
        self.keys, self.values = (
            torch.zeros(rows, t.shape[1], columns, t.shape[-1], dtype=t.dtype, device=t.device)
            for t in (key_states, value_states)
        )
        self.is_initialized = True

    @property
    def buffers(self) -> tuple[Tensor, ...]:
        """Keys and values; none before the first prefill or step."""
        return tuple(b for b in (self.keys, self.values) if b is not None) if self.is_initialized else ()

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        mine, new = self._owner, self._owner.end + key_states.shape[2]
        keys, values = self.buffers
        keys[: mine.rows, :, mine.end : new] = key_states
        values[: mine.rows, :, mine.end : new] = value_states
        return keys[: mine.rows, :, mine.first : new], values[: mine.rows, :, mine.first : new]

    def get_seq_length(self) -> int:
        return self._owner.end - self._owner.first


class PackedCache(Cache):
    """Passed to a model as ``past_key_values``; :meth:`advance` after each pass.

    Layers with a sliding window are kept whole: their window is in the mask, which counts columns,
    and columns of a row differ as its positions do.
    """

    def __init__(self, config: PreTrainedConfig, *, max_rows: int, longest: int, longest_prefix: int) -> None:
        """Room for ``max_rows`` rows of at most ``longest`` tokens.

        Raises:
            ModelRefusedError: if the model keeps anything but keys and values of its tokens.
        """
        if unknown := other_states(config):
            raise ModelRefusedError(
                f"A {config.model_type} model keeps {unknown} as it decodes; rows can be packed only over "
                "keys and values. `inject` works around `model.generate`."
            )
        n_layers = int(config.get_text_config(decoder=True).num_hidden_layers)
        self.max_rows, self.columns = max_rows, longest + max(16, int(longest * SLACK))
        self.rows = 0
        self.first = self.end = longest_prefix
        """The first column that a running row uses, and the next one to be written."""
        self._longest_prefix = longest_prefix
        self._packed = [_Layer(self) for _ in range(n_layers)]
        super().__init__(layers=list(self._packed))

    def enter(self, prefix: Prefix, count: int) -> None:
        """Append ``count`` rows that begin with ``prefix``, which may be empty."""
        rows = slice(self.rows, self.rows + count)
        for number, layer in enumerate(self._packed):
            if prefix and not layer.is_initialized:
                layer.lazy_initialization(*(states[None] for states in prefix[number]))
            for buffer in layer.buffers:
                buffer[rows] = 0  # a row that failed may have left NaN there
            if prefix:
                for buffer, states in zip(layer.buffers, prefix[number], strict=True):
                    buffer[rows, :, self.end - states.shape[1] : self.end] = states
        self.rows += count

    def leave(self, order: Sequence[int]) -> None:
        """Keep the rows at these places, in this order; a row only moves to a place before its own."""
        columns = slice(self.first, self.end)
        moves = [(place, source) for place, source in enumerate(order) if place != source]
        for buffer in self._buffers():
            for place, source in moves:
                buffer[place, :, columns] = buffer[source, :, columns]
        self.rows = len(order)

    def advance(self) -> None:
        """A pass over one token of each row has ended."""
        self.end += 1

    def settle(self, first: int) -> int:
        """Forget the columns before ``first``, and make room for another; returns the shift to the left."""
        self.first = first
        if self.end < self.columns:
            return 0
        end = max(self._longest_prefix, self.end - self.first)
        shift = self.end - end
        for buffer in self._buffers():
            running = buffer[: self.rows, :, self.first : self.end].clone()
            buffer[: self.rows] = 0
            buffer[: self.rows, :, self.first - shift : end] = running
        self.first, self.end = self.first - shift, end
        return shift

    def _buffers(self) -> Iterator[Tensor]:
        for layer in self._packed:
            yield from layer.buffers


def other_states(config: PreTrainedConfig) -> str:
    """What a model keeps beside keys and values of its tokens, by name; empty for most."""
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    return ", ".join(sorted(k.__name__ for k in kinds - {DynamicLayer, DynamicSlidingWindowLayer}))


def has_window(config: PreTrainedConfig) -> bool:
    """Whether some layer attends to the last few columns only."""
    return any(isinstance(layer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=config).layers)


def started(shared: Prefix, rows: int) -> DynamicCache:
    """A cache of ``rows`` rows that all begin with ``shared``, every layer whole."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(shared):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache


def prefixes_of(cache: DynamicCache, lengths: Sequence[int], *, shared: int = 0) -> list[Prefix]:
    """The keys and values of each row of a left-padded batch, without its padding.

    Args:
        shared: Columns before the padding, which all rows have.
    """
    layers = [(keys, values) for keys, values, _ in cache]

    def kept(states: Tensor, row: int, length: int) -> Tensor:
        own = states[row, :, states.shape[2] - (length - shared) :]
        return torch.cat([states[row, :, :shared], own], dim=1) if shared else own

    return [
        [(kept(keys, row, length), kept(values, row, length)) for keys, values in layers]
        for row, length in enumerate(lengths)
    ]
