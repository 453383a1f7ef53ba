"""torch.compile of the MLPs, kept only where it is measured to pay and changes nothing but rounding.

The forward methods inside the hooked modules are compiled, so every site is read and edited as before.
Attention is left alone: its cache changes shape at every step, and would be compiled again each time.

With SmolLM2-135M in float32 on one CPU thread compiling takes 45 s; then a prefill of 4 x 64 tokens
takes 0.82 of its time, and a decoding step of 64 rows 1.03. It pays for long captures, not for answers.
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.self_check import rounding

SHAPES = {"decoding": (64, 1), "prefill": (8, 64)}
"""Rows and tokens of the passes that are timed."""

REPEATS = 5


@dataclass(frozen=True)
class Compilation:
    """What compiling did, and whether it was kept."""

    kept: bool
    ratio: Mapping[str, float]
    """Time compiled over time before, by kind of pass."""

    difference: float
    """Largest change of a final residual, as a share of the largest entry."""

    seconds: float
    """Spent on compiling and measuring."""

    def __str__(self) -> str:
        times = ", ".join(f"{what} x {ratio:.2f}" for what, ratio in self.ratio.items())
        return f"{'kept' if self.kept else 'not kept'}: {times}; off by {self.difference:.1g}"


@torch.no_grad()
def compile_where_it_pays(
    lm: LanguageModel, *, least: float = 0.05, backend: str = "inductor", mode: str | None = None
) -> Compilation:
    """Compile every block's MLP, time a decoding step and a prefill, and keep it or take it back.

    Kept if the mean of the two times falls by the share ``least`` and no final residual moves by more than
    the rounding of the model's dtype (:func:`hooks.self_check.rounding`).

    Args:
        mode: As ``torch.compile`` has it; "reduce-overhead" uses CUDA graphs where there is a GPU.

    Raises:
        InputError: for a model spread over devices, whose weights come and go between the modules.
    """
    if any(hasattr(module, "_hf_hook") for module in lm.model.modules()):
        raise InputError(
            f"{lm.name} is spread over devices by accelerate, which moves weights as modules run; compiling "
            "would freeze them. Load it on one device, e.g. device='cuda:0'."
        )
    began = time.perf_counter()
    plain = {what: _run(lm, shape) for what, shape in SHAPES.items()}
    parts = [
        part for block in lm.anatomy.blocks for name, part in block.module.named_children() if name in _NAMES
    ]
    compiled: dict[str, tuple[float, Tensor]] = {}
    kept = False
    try:
        for part in parts:
            part.forward = torch.compile(part.forward, dynamic=True, backend=backend, mode=mode)
        for what, shape in SHAPES.items():
            _run(lm, shape, repeats=1)  # compiles
            compiled[what] = _run(lm, shape)
        ratio = {what: compiled[what][0] / plain[what][0] for what in SHAPES}
        off = max(
            float((compiled[what][1] - plain[what][1]).abs().max() / plain[what][1].abs().max())
            for what in SHAPES
        )
        kept = statistics.fmean(ratio.values()) <= 1 - least and off <= rounding(lm.dtype)
    finally:
        if not kept:
            for part in parts:
                vars(part).pop("forward", None)
    return Compilation(kept, ratio, off, time.perf_counter() - began)


_NAMES = ("mlp", "feed_forward", "ffn")


def _run(
    lm: LanguageModel, shape: tuple[int, int], *, repeats: int = REPEATS
) -> tuple[float, Float[Tensor, "rows pos d_model"]]:
    """Median seconds of the body on some tokens, and what it gives."""
    d_vocab = min(lm.d_vocab, len(lm.tokenizer))
    tokens = torch.arange(shape[0] * shape[1], device=lm.device).reshape(shape) * 7919 % d_vocab
    seconds = []
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        resid: Tensor = lm.model.base_model(tokens, use_cache=False).last_hidden_state
        resid.flatten()[0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), resid
