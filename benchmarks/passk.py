"""Samples for pass@k: a thousand of them, packed, beside a plain loop over transformers' ``generate``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from analyses.tasks import word_problems
from benchmarks.inputs import endless
from benchmarks.result import Aim, Entry, Result, Table
from benchmarks.timing import Timing, alternate
from hooks import LanguageModel
from hooks.chat import prompt_row
from hooks.generate import generate_rows
from hooks.rows import Row
from hooks.sampling import Sampling

Tokens = list[list[int]]
SAMPLING = Sampling(temperature=0.6, top_p=0.95)


@dataclass(frozen=True)
class Size:
    """How much is run. The loop takes as long for each sample, so that it is timed on few."""

    problems: int = 4
    samples: int = 24
    looped: int = 4
    new_tokens: int = 16
    repeats: int = 2


QUICK = Size(problems=2, samples=2, looped=2, new_tokens=4, repeats=1)


def run(lm: LanguageModel, *, quick: bool = False) -> Result:
    """Every sample makes all its tokens, in each way: none of them may end early."""
    size = QUICK if quick else Size()
    rows = [prompt_row(lm.tokenizer, problem.prompt) for problem in word_problems(size.problems)]
    every = [row for row in rows for _ in range(size.samples)]
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "transformers generate, one sample at a time": (
            partial(looped, lm, every[:: max(1, len(every) // size.looped)][: size.looped], size.new_tokens),
            size.looped,
        ),
        "transformers generate, the samples of one problem at a time": (
            partial(returned, lm, rows, size.samples, size.new_tokens),
            len(every),
        ),
        "unlatch": (partial(packed, endless(lm), every, size.new_tokens), len(every)),
    }
    timings = alternate({name: job for name, (job, _) in ways.items()}, repeats=size.repeats)
    entries = [_entry(name, timing, ways[name][1]) for name, timing in timings.items()]
    loop, batched, ours = (entry.seconds or 0.0 for entry in entries)
    return Result(
        tables=(
            Table(
                "A thousand samples",
                f"Seconds for 1,000 of {size.new_tokens} tokens each, from {len(every)} of {size.problems} "
                f"problems, {size.looped} for the first line; temperature {SAMPLING.temperature:g}, top-p "
                f"{SAMPLING.top_p:g}, none ends early.",
                tuple(entries),
                (
                    Aim("the plain loop over unlatch", loop / ours, 3.0, at_most=False),
                    Aim("a problem at a time over unlatch", batched / ours, 1.0, at_most=False),
                ),
            ),
        ),
        facts={"loop_over_unlatch": loop / ours, "problem_at_a_time_over_unlatch": batched / ours},
    )


def packed(lm: LanguageModel, rows: Sequence[Row], n: int, sampling: Sampling = SAMPLING) -> Tokens:
    """All samples together."""
    made = generate_rows(lm, rows, max_new_tokens=n, sampling=sampling)
    return [list(completion.tokens) for completion in made]


def looped(lm: LanguageModel, rows: Sequence[Row], n: int, sampling: Sampling = SAMPLING) -> Tokens:
    """One sample after the other."""
    return [line for row in rows for line in returned(lm, [row], 1, n, sampling)]


@torch.no_grad()
def returned(
    lm: LanguageModel, rows: Sequence[Row], samples: int, n: int, sampling: Sampling = SAMPLING
) -> Tokens:
    """All samples of one prompt together, one prompt after the other."""
    made: Tokens = []
    for row in rows:
        ids = torch.tensor([row.tokens], device=lm.device)
        out = lm.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            num_return_sequences=samples,
            min_new_tokens=n,
            max_new_tokens=n,
            pad_token_id=lm.pad_id,
            eos_token_id=sorted(lm.stop_ids),
        )
        made += out[:, ids.shape[1] :].tolist()
    return made


def _entry(name: str, timing: Timing, samples: int) -> Entry:
    """Scaled to a thousand samples."""
    seconds = [1000 * s / samples for s in timing.seconds]
    return Entry(
        name,
        seconds=1000 * timing.median / samples,
        n=len(seconds),
        peak_bytes=timing.peak_bytes,
        low=min(seconds),
        high=max(seconds),
        note=f"timed on {samples} samples",
    )
