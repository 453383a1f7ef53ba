"""One ``generate`` with a vector added at one layer, as each library does it.

Each way is a function of the layer and the vector, None for neither, that returns the new tokens. Ours,
the plain loop's and nnsight's add it at the last prompt token and at every generated one;
steering-vectors and TransformerLens add it to the whole prompt as well, which is how they are used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import hooked_transformer, require, traced, unless_absent
from hooks import Add, LanguageModel, Site
from hooks.generate import generate_rows
from hooks.rows import Batch, Row

Tokens = list[list[int]]
Way = Callable[[int, Tensor | None], Tokens]


def ours(lm: LanguageModel, rows: list[Row], n: int) -> Way:
    def way(layer: int, vector: Tensor | None) -> Tokens:
        edits = [] if vector is None else [Add(Site(layer, "resid_post"), vector)]
        made = generate_rows(lm, rows, edits=edits, max_new_tokens=n)
        return [list(completion.tokens) for completion in made]

    return way


def plain(lm: LanguageModel, batch: Batch, n: int) -> Way:
    """transformers' own ``generate``, with a plain forward hook that adds the vector."""

    @torch.no_grad()
    def way(layer: int, vector: Tensor | None) -> Tokens:
        with nullcontext() if vector is None else _added(lm, layer, vector):
            return _generated(lm, batch, n)

    return way


def peers(lm: LanguageModel, batch: Batch, n: int, absent: dict[str, str]) -> dict[str, Way]:
    """The libraries that are here; ``absent`` is told of the others."""
    ways: dict[str, Way] = {}
    with unless_absent("steering-vectors", absent):
        name = require("steering-vectors")
        ways[name] = _steering_vectors(lm, batch, n)
    with unless_absent("TransformerLens", absent):
        name = require("transformer-lens")
        ways[name] = _transformer_lens(lm, batch, n)
    with unless_absent("nnsight", absent):
        name = require("nnsight")
        ways[name] = _nnsight(lm, batch, n)
    return ways


@contextmanager
def _added(lm: LanguageModel, layer: int, vector: Tensor) -> Iterator[None]:
    def add(_module: Any, _args: Any, out: Any) -> Any:
        hidden = out[0] if isinstance(out, tuple) else out
        hidden[:, -1] += vector

    handle = lm.anatomy.blocks[layer].module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _options(lm: LanguageModel, n: int) -> dict[str, Any]:
    """Greedy, ``n`` tokens at most."""
    return {
        "max_new_tokens": n,
        "do_sample": False,
        "pad_token_id": lm.pad_id,
        "eos_token_id": sorted(lm.stop_ids),
    }


def _inputs(batch: Batch) -> dict[str, Tensor]:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def _generated(lm: LanguageModel, batch: Batch, n: int) -> Tokens:
    ids = lm.model.generate(**_inputs(batch), **_options(lm, n))
    return _made(lm, batch, ids)


def _made(lm: LanguageModel, batch: Batch, ids: Tensor) -> Tokens:
    """The new tokens of each row, up to the one that ended it."""
    made = []
    for row in ids[:, batch.input_ids.shape[1] :].tolist():
        end = next((place for place, token in enumerate(row) if token in lm.stop_ids), len(row) - 1)
        made.append(row[: end + 1])
    return made


def _steering_vectors(lm: LanguageModel, batch: Batch, n: int) -> Way:
    from steering_vectors import SteeringVector

    @torch.no_grad()
    def way(layer: int, vector: Tensor | None) -> Tokens:
        with nullcontext() if vector is None else SteeringVector({layer: vector}).apply(lm.model):
            return _generated(lm, batch, n)

    return way


def _transformer_lens(lm: LanguageModel, batch: Batch, n: int) -> Way:
    """It has no tokenizer here, so it takes rows of one length."""
    model = hooked_transformer(lm)

    @torch.no_grad()
    def way(layer: int, vector: Tensor | None) -> Tokens:
        def add(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            return value + vector

        hooks = [] if vector is None else [(str(Site(layer, "resid_post")), add)]
        with model.hooks(fwd_hooks=hooks):
            ids = model.generate(
                batch.input_ids,
                max_new_tokens=n,
                do_sample=False,
                eos_token_id=sorted(lm.stop_ids),
                verbose=False,
            )
        return _made(lm, batch, ids)

    return way


def _nnsight(lm: LanguageModel, batch: Batch, n: int) -> Way:
    model, layers = traced(lm)

    @torch.no_grad()
    def way(layer: int, vector: Tensor | None) -> Tokens:
        inputs, options = _inputs(batch), _options(lm, n)
        with model.generate(inputs, **options) as tracer:
            if vector is not None:
                for _ in tracer.iter[:n]:
                    layers[layer].output[:, -1] += vector
            ids = tracer.result.save()
        return _made(lm, batch, ids)

    return way
