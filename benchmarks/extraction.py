"""Extraction: one vector at every layer, the mean difference at the last token of pairs.

TransformerLens and nnsight have no such routine; what they take to capture is the capture benchmark's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.inputs import pairs_of_solutions
from benchmarks.peers import repeng, require, unless_absent
from benchmarks.result import Entry, Result, Table, entries_of
from benchmarks.timing import Job, alternate
from hooks import LanguageModel
from hooks.chat import response_row
from hooks.positions import last
from hooks.rows import Row
from interp import contrast


@dataclass(frozen=True)
class Size:
    """How much is run."""

    pairs: int = 8
    repeats: int = 5


QUICK = Size(pairs=4, repeats=1)


def run(lm: LanguageModel, *, quick: bool = False) -> Result:
    """Ours also takes the vectors that do not see length; reliability is left out, as theirs is."""
    size = QUICK if quick else Size()
    pairs = pairs_of_solutions(size.pairs)
    rows = [
        (response_row(lm.tokenizer, p.prompt, p.positive), response_row(lm.tokenizer, p.prompt, p.negative))
        for p in pairs
    ]
    texts = [(_text(lm, first), _text(lm, second)) for first, second in rows]
    flat = [row for pair in rows for row in pair]
    absent: dict[str, str] = {}
    jobs: dict[str, Job] = {
        "bare body, a forward for each text": partial(_bare, lm, flat),
        "transformers, a forward for each text": partial(_loop, lm, rows),
        "unlatch contrast, no reliability": partial(contrast, lm, pairs, read=last(1), n_null=0),
    }
    with unless_absent("steering-vectors", absent):
        theirs = require("steering-vectors")
        from steering_vectors import train_steering_vector

        for n in (1, 16):
            jobs[f"{theirs}, batches of {n}"] = partial(
                train_steering_vector, lm.model, lm.tokenizer, texts, batch_size=n
            )
    timings = alternate(jobs, repeats=size.repeats)
    entries = list(entries_of(timings))
    with unless_absent("repeng", absent):
        answer = repeng.ask(lm, texts=texts, repeats=size.repeats)
        names = {"bare body": "bare body beside repeng", "repeng": "repeng {repeng}, pca_diff"}
        entries += repeng.entries(answer, "extraction", names)
    return Result(
        tables=(
            Table(
                "Extraction",
                f"{size.pairs} pairs, {sum(len(row.tokens) for row in flat)} tokens, every layer.",
                (*entries, *(Entry(name, note=reason) for name, reason in absent.items())),
            ),
        )
    )


def _text(lm: LanguageModel, row: Row) -> str:
    return str(lm.tokenizer.decode(list(row.tokens)))


@torch.no_grad()
def _bare(lm: LanguageModel, rows: Sequence[Row]) -> None:
    for row in rows:
        lm.model.base_model(torch.tensor([row.tokens], device=lm.device), use_cache=False)


@torch.no_grad()
def _loop(lm: LanguageModel, pairs: Sequence[tuple[Row, Row]]) -> torch.Tensor:
    """The mean difference of ``hidden_states`` at the last token, as [layer, d_model]."""
    differences = []
    for pair in pairs:
        first, second = (torch.stack([states[0, -1] for states in _states(lm, row)]) for row in pair)
        differences.append(first - second)
    return torch.stack(differences).mean(0)


def _states(lm: LanguageModel, row: Row) -> tuple[torch.Tensor, ...]:
    states: tuple[torch.Tensor, ...] = lm.model(
        torch.tensor([row.tokens], device=lm.device), use_cache=False, output_hidden_states=True
    ).hidden_states
    return states[1:]
