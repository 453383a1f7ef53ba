"""Curves: how the cost of capture, of decoding and of a sweep grows with tokens, rows, layers and model size.

One of the four is changed at a time, the others stay at ``BASE``. A capture reads the residual stream
after the first layers and stops there; a decoding step and a sweep add a vector after each of the first.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.ceiling import operations
from benchmarks.decoding import step_times
from benchmarks.inputs import endless, small_vector, text_rows, whole_batch
from benchmarks.result import Curve, Result
from benchmarks.timing import timed
from hooks import Add, LanguageModel, Site, adopt
from hooks.capture import run_to
from hooks.sweep import sweep_rows


@dataclass(frozen=True)
class Work:
    """What is run."""

    rows: int
    tokens: int
    """Of each prompt."""

    layers: int
    """Read by a capture; edited by a decoding step or a sweep."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    tokens: tuple[int, ...] = (16, 64, 256, 1024)
    rows: tuple[int, ...] = (1, 4, 16, 32)
    layers: int = 4
    """So many numbers of layers, from one to all."""

    shapes: tuple[tuple[int, int], ...] = ((128, 4), (256, 8), (512, 12), (768, 16), (1024, 20))
    """d_model and layers of the models made up for the curve of sizes."""

    repeats: int = 3


QUICK = Size(tokens=(8, 16), rows=(1, 2), layers=2, shapes=((64, 2), (128, 2)), repeats=1)
STEPS, PLANS = 8, 4
"""Tokens that a decoding step's time and a sweep's are measured over; plans of a sweep."""


def run(lm: LanguageModel, *, quick: bool = False) -> Result:
    """Medians of a few runs; between the points of a line nothing else runs."""
    size = QUICK if quick else Size()
    base = Work(rows=4, tokens=16 if quick else 64, layers=lm.n_layers // 2)
    counts = sorted({round(lm.n_layers ** (i / (size.layers - 1))) for i in range(size.layers)})
    curves = [
        _curve(
            f"Cost against {axis}",
            f"{axis} ({_held(base, axis)})",
            [(x, lm, replace(base, **{axis: x})) for x in values],
            size.repeats,
        )
        for axis, values in (("tokens", size.tokens), ("rows", size.rows), ("layers", counts))
    ]
    models = [made_up(lm, d_model, n_layers) for d_model, n_layers in size.shapes]
    by_size = sorted((*models, lm), key=operations)
    whole = [(operations(model) / 2e6, model, replace(base, layers=model.n_layers // 2)) for model in by_size]
    x = f"million weights a token ({base.rows} rows, {base.tokens} tokens, half the layers)"
    curves.append(_curve("Cost against model size", x, whole, size.repeats))
    return Result(curves=tuple(curves))


def made_up(lm: LanguageModel, d_model: int, n_layers: int) -> LanguageModel:
    """A Llama of that shape with random weights, and the vocabulary, device and dtype of ``lm``."""
    config = LlamaConfig(
        hidden_size=d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=d_model // 64,
        num_key_value_heads=max(1, d_model // 256),
        intermediate_size=8 * d_model // 3 // 8 * 8,
        vocab_size=lm.d_vocab,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(lm.device, lm.dtype).eval()
    return adopt(model, lm.tokenizer, name=f"random, {d_model} wide, {n_layers} layers")


def capture_seconds(lm: LanguageModel, work: Work) -> float:
    """Of one pass."""
    batch = whole_batch(lm, text_rows(lm, work.rows, work.tokens))
    sites = [Site(layer, "resid_post") for layer in range(work.layers)]
    return timed(lambda: run_to(lm, batch, sites))


def step_seconds(lm: LanguageModel, work: Work) -> float:
    """Of the median step."""
    rows = text_rows(lm, work.rows, work.tokens)
    return statistics.median(step_times(endless(lm), rows, STEPS, edits=_edits(lm, work.layers)))


def sweep_seconds(lm: LanguageModel, work: Work) -> float:
    """Of all plans over all prompts, prefills included."""
    plans = {str(number): _edits(lm, work.layers) for number in range(PLANS)}
    rows = text_rows(lm, work.rows, work.tokens)
    return timed(lambda: sweep_rows(endless(lm), rows, plans, max_new_tokens=STEPS))


COSTS: dict[str, Callable[[LanguageModel, Work], float]] = {
    "capture, one pass": capture_seconds,
    "decoding, one step": step_seconds,
    f"sweep, {PLANS} plans of {STEPS} tokens": sweep_seconds,
}


def _edits(lm: LanguageModel, layers: int) -> list[Add]:
    return [Add(Site(layer, "resid_post"), small_vector(lm, seed=layer)) for layer in range(layers)]


def _held(base: Work, axis: str) -> str:
    words = (
        f"{value} {name if value > 1 else name[:-1]}" for name, value in vars(base).items() if name != axis
    )
    return ", ".join(words)


def _curve(title: str, x: str, points: Sequence[tuple[float, LanguageModel, Work]], repeats: int) -> Curve:
    lines = {}
    for name, cost in COSTS.items():
        cost(*points[0][1:])
        lines[name] = [
            (at, statistics.median(cost(lm, work) for _ in range(repeats))) for at, lm, work in points
        ]
    return Curve(title, x, "seconds", lines)
