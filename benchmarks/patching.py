"""Patching by replay: the clean residual stream into the corrupted run, layer by layer, at two positions.

A sweep gives, for each layer and for the last and the subject position, the difference of the two answers'
logits. The loop runs every patched pass from the first block; a replay starts at the block after the patch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.inputs import evenly, whole_batch
from benchmarks.peers import hooked_transformer, require, traced, unless_absent
from benchmarks.result import Aim, Entry, Result, Table, entries_of
from benchmarks.timing import alternate
from hooks import LanguageModel, Site
from hooks.capture import run_to
from hooks.errors import InputError
from hooks.rows import Row
from interp.attribution import attribute
from interp.patching import patch
from interp.prompt_pairs import PromptPair, logit_difference

Sweep = Callable[[], Tensor]
"""The logit differences, as [layer, position, pair]; positions are the last one and the subject's."""

COUNTRIES = {
    "France": "Paris",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Germany": "Berlin",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Russia": "Moscow",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Cuba": "Havana",
}


@dataclass(frozen=True)
class Size:
    """How much is run."""

    pairs: int = 64
    layers: int = 8
    """So many of them, evenly spread: all, five times in every library, would take half an hour."""

    repeats: int = 5


QUICK = Size(pairs=4, layers=2, repeats=1)

ATTRIBUTED = 16
"""Pairs of the attribution."""

STEPS = 8


def run(lm: LanguageModel, *, quick: bool = False) -> Result:
    """Every library's numbers are compared with the loop's before anything is timed."""
    size = QUICK if quick else Size()
    pairs = prompt_pairs(lm, size.pairs)
    layers = evenly(range(lm.n_layers), size.layers)
    sweeps: dict[str, Sweep] = {
        "a full forward for each patch": lambda: loop(lm, pairs, layers),
        "unlatch, by replay": lambda: ours(lm, pairs, layers),
    }
    absent: dict[str, str] = {}
    with unless_absent("TransformerLens", absent):
        name = require("transformer-lens")
        sweeps[name] = _transformer_lens(lm, pairs, layers)
    with unless_absent("nnsight", absent):
        name = require("nnsight")
        sweeps[name] = _nnsight(lm, pairs, layers)
    expected = loop(lm, pairs, layers)
    tolerance = 1e-3 if lm.dtype == torch.float32 else 0.1
    for name, sweep in sweeps.items():
        torch.testing.assert_close(sweep(), expected, atol=tolerance, rtol=tolerance, msg=name)
    timings = alternate(sweeps, repeats=size.repeats)
    ratio = timings["unlatch, by replay"].median / timings["a full forward for each patch"].median
    return Result(
        tables=(
            Table(
                "Patching sweep",
                f"{len(pairs)} pairs of {len(pairs[0])} tokens, resid_post of {len(layers)} of the "
                f"{lm.n_layers} layers, evenly spread, at the last and at the subject position. All agree.",
                (*entries_of(timings), *(Entry(name, note=reason) for name, reason in absent.items())),
                (Aim("unlatch replay over the loop", ratio, 0.55),),
            ),
            _attribution(lm, pairs, size.repeats),
        )
    )


def _attribution(lm: LanguageModel, pairs: Sequence[PromptPair], repeats: int) -> Table:
    """First-order attribution beside exact patching of the same sites: what it saves, how far it is off."""
    few, kinds = pairs[:ATTRIBUTED], ("attn_out", "mlp_out")
    exact = f"exact patching, {2 * lm.n_layers} sites"
    jobs: dict[str, Callable[[], object]] = {
        exact: lambda: patch(lm, few, kinds=kinds),
        "attribution, one backward pass": lambda: attribute(lm, few, kinds=kinds),
        f"integrated gradients, {STEPS} steps": lambda: attribute(lm, few, kinds=kinds, steps=STEPS),
    }
    timings = alternate(jobs, repeats=repeats)
    told = "; ".join(
        f"{name}: {attribute(lm, few, kinds=kinds, steps=steps).against(lm, few, n=len(few))}"
        for name, steps in (("one pass", 1), (f"{STEPS} steps", STEPS))
    )
    return Table(
        "Attribution",
        f"{len(few)} pairs, what attention and MLP of {lm.n_layers} layers add at the last position. {told}.",
        entries_of(timings),
        (),
    )


def prompt_pairs(lm: LanguageModel, n: int) -> list[PromptPair]:
    """Capitals of two countries whose prompts differ in one token."""
    ids = {country: tuple(lm.tokenizer(f"The capital of {country} is").input_ids) for country in COUNTRIES}
    first = {country: lm.tokenizer(f" {city}").input_ids[0] for country, city in COUNTRIES.items()}
    pairs = []
    for clean, corrupted in permutations(COUNTRIES, 2):
        if len(ids[clean]) != len(ids["France"]) or len(ids[clean]) != len(ids[corrupted]):
            continue
        differ = [i for i, (a, b) in enumerate(zip(ids[clean], ids[corrupted], strict=True)) if a != b]
        if len(differ) == 1:
            rows = (Row(ids[clean], len(ids[clean])), Row(ids[corrupted], len(ids[corrupted])))
            pairs.append(PromptPair(*rows, first[clean], first[corrupted], (differ[0], differ[0] + 1)))
    if len(pairs) < n:
        raise InputError(
            f"{n} pairs that differ in one token were asked for; this tokenizer makes {len(pairs)} of them."
        )
    return pairs[:n]


def ours(lm: LanguageModel, pairs: Sequence[PromptPair], layers: Sequence[int]) -> Tensor:
    """:func:`interp.patching.patch`, which replays each patched run from where its patch is."""
    found = [patch(lm, pairs, layers=layers, where=where).patched for where in ("last", "subject")]
    return torch.from_numpy(np.stack([o.logit_difference.T for o in found], axis=1)).float()


@torch.no_grad()
def loop(lm: LanguageModel, pairs: Sequence[PromptPair], layers: Sequence[int]) -> Tensor:
    """One whole pass, logits of the last position alone, for each layer and position."""
    clean = _clean(lm, pairs, layers)
    batch = whole_batch(lm, [pair.corrupted for pair in pairs])
    found = []
    for layer in layers:
        for where in _positions(pairs):

            def put(_module: Any, _args: Any, out: Any, layer: int = layer, where: Tensor = where) -> Any:
                hidden = out[0] if isinstance(out, tuple) else out
                row = torch.arange(len(hidden), device=hidden.device)
                hidden[row, where] = clean[Site(layer, "resid_post")][row, where]

            handle = lm.anatomy.blocks[layer].module.register_forward_hook(put)
            try:
                logits = lm.model(**batch.inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
            finally:
                handle.remove()
            found.append(logit_difference(logits, pairs))
    return torch.stack(found).unflatten(0, (len(layers), 2))


def _clean(lm: LanguageModel, pairs: Sequence[PromptPair], layers: Sequence[int]) -> dict[Site, Tensor]:
    batch = whole_batch(lm, [pair.clean for pair in pairs])
    return run_to(lm, batch, [Site(layer, "resid_post") for layer in layers])


def _positions(pairs: Sequence[PromptPair]) -> tuple[Tensor, Tensor]:
    """The last position of each pair, and that of its subject."""
    return torch.tensor([len(p) - 1 for p in pairs]), torch.tensor([p.subject[0] for p in pairs])


def _transformer_lens(lm: LanguageModel, pairs: Sequence[PromptPair], layers: Sequence[int]) -> Sweep:
    """As ``transformer_lens.patching`` does it, one hooked run for each index; that gives one number for a
    batch and takes one position for all its rows, so the loop is written out here."""
    model = hooked_transformer(lm)
    clean, corrupted = (
        whole_batch(lm, [getattr(pair, side) for pair in pairs]).input_ids for side in ("clean", "corrupted")
    )

    @torch.no_grad()
    def sweep() -> Tensor:
        names = [str(Site(layer, "resid_post")) for layer in layers]
        _, cache = model.run_with_cache(clean, names_filter=names, return_type=None)
        found = []
        for name in names:
            for where in _positions(pairs):

                def put(value: Tensor, hook: Any, name: str = name, where: Tensor = where) -> Tensor:  # noqa: ARG001
                    row = torch.arange(len(value), device=value.device)
                    value[row, where] = cache[name][row, where]
                    return value

                logits = model.run_with_hooks(corrupted, fwd_hooks=[(name, put)])
                found.append(logit_difference(logits[:, -1], pairs))
        return torch.stack(found).unflatten(0, (len(layers), 2))

    return sweep


def _nnsight(lm: LanguageModel, pairs: Sequence[PromptPair], layers: Sequence[int]) -> Sweep:
    model, blocks = traced(lm)
    import nnsight

    batch = whole_batch(lm, [pair.corrupted for pair in pairs])
    clean_batch = whole_batch(lm, [pair.clean for pair in pairs])

    @torch.no_grad()
    def sweep() -> Tensor:
        with model.trace(clean_batch.inputs, use_cache=False) as tracer:
            clean = nnsight.save([])
            for layer in layers:
                clean.append(blocks[layer].output)
            tracer.stop()
        found = []
        for layer, values in zip(layers, clean, strict=True):
            for where in _positions(pairs):
                row = torch.arange(len(values), device=values.device)
                with model.trace(batch.inputs, use_cache=False, logits_to_keep=1):
                    blocks[layer].output[row, where] = values[row, where]
                    logits = model.output.logits.save()
                found.append(logit_difference(logits[:, -1], pairs))
        return torch.stack(found).unflatten(0, (len(layers), 2))

    return sweep
