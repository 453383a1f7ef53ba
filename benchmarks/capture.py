"""Capture: the residual stream after every layer, over rows of mixed length."""

from dataclasses import dataclass

import torch

from benchmarks.ceiling import operations, square_rate
from benchmarks.inputs import mixed_rows
from benchmarks.peers import hooked_transformer, require, traced, unless_absent
from benchmarks.result import Aim, Result, Table, entries_of
from benchmarks.timing import Job, alternate
from hooks import LanguageModel, Site
from hooks.capture import run_to
from hooks.rows import Batch, batches_of


@dataclass(frozen=True)
class Size:
    """How much is run."""

    rows: int = 16
    rows_of_a_batch: int = 8
    repeats: int = 5


QUICK = Size(rows=2, rows_of_a_batch=2, repeats=1)


def run(lm: LanguageModel, *, quick: bool = False) -> Result:
    """Every library reads the same left-padded batches; what it captured of one is dropped at the next."""
    size = QUICK if quick else Size()
    rows = mixed_rows(lm, size.rows)
    batches = list(
        batches_of(
            rows,
            pad_id=lm.pad_id,
            device=lm.device,
            row_bytes=lm.token_bytes(captured=lm.n_layers),
            max_rows=size.rows_of_a_batch,
        )
    )
    bare, ours = "bare body, nothing captured", "unlatch capture"
    absent: dict[str, str] = {}
    jobs: dict[str, Job] = {
        bare: lambda: _bare(lm, batches),
        "transformers, output_hidden_states": lambda: _hidden_states(lm, batches),
        ours: lambda: _ours(lm, batches),
    }
    with unless_absent("steering-vectors", absent):
        name = require("steering-vectors")
        jobs[name] = _steering_vectors(lm, batches)
    with unless_absent("TransformerLens", absent):
        name = require("transformer-lens")
        jobs[name] = _transformer_lens(lm, batches)
    with unless_absent("nnsight", absent):
        name = require("nnsight")
        jobs[name] = _nnsight(lm, batches)
    timings = alternate(jobs, repeats=size.repeats)
    medians = {name: timing.median for name, timing in timings.items()}
    tokens = sum(len(row.tokens) for row in rows)
    padded = sum(batch.input_ids.numel() for batch in batches)
    aims = [Aim("unlatch capture over the bare body", medians[ours] / medians[bare], 1.05)]
    aims += [
        Aim(f"{name} over unlatch capture", seconds / medians[ours], 1.3, at_most=False)
        for name, seconds in medians.items()
        if name.startswith(("steering-vectors", "transformer-lens"))
    ]
    ceiling = square_rate(lm)
    needed = operations(lm, unembedding=False)
    return Result(
        tables=(
            Table(
                "Capture",
                f"resid_post of all {lm.n_layers} layers, {size.rows} rows of mixed length, {tokens} tokens "
                f"({padded} with padding), in batches of {size.rows_of_a_batch}.",
                entries_of(timings, absent),
                tuple(aims),
            ),
        ),
        facts={
            "tokens_per_second": tokens / medians[ours],
            "operations_per_token": needed,
            "ceiling": ceiling,
            "fraction_of_ceiling": padded * needed / medians[ours] / ceiling,
            "over_bare_body": medians[ours] / medians[bare],
        },
    )


@torch.no_grad()
def _bare(lm: LanguageModel, batches: list[Batch]) -> None:
    for batch in batches:
        lm.model.base_model(**batch.inputs, use_cache=False)


@torch.no_grad()
def _hidden_states(lm: LanguageModel, batches: list[Batch]) -> None:
    for batch in batches:
        lm.model(**batch.inputs, use_cache=False, output_hidden_states=True)


def _ours(lm: LanguageModel, batches: list[Batch]) -> None:
    sites = [Site(layer, "resid_post") for layer in range(lm.n_layers)]
    for batch in batches:
        run_to(lm, batch, sites)


def _steering_vectors(lm: LanguageModel, batches: list[Batch]) -> Job:
    from steering_vectors import record_activations

    @torch.no_grad()
    def job() -> None:
        for batch in batches:
            with record_activations(lm.model):
                lm.model(**batch.inputs, use_cache=False)

    return job


def _transformer_lens(lm: LanguageModel, batches: list[Batch]) -> Job:
    """Without logits: its fastest way."""
    theirs = hooked_transformer(lm)

    @torch.no_grad()
    def job() -> None:
        for batch in batches:
            theirs.run_with_cache(
                batch.input_ids,
                attention_mask=batch.attention_mask,
                names_filter=lambda name: name.endswith("hook_resid_post"),
                return_type=None,
            )

    return job


def _nnsight(lm: LanguageModel, batches: list[Batch]) -> Job:
    """Stopped after the last layer: its fastest way."""
    model, layers = traced(lm)
    import nnsight

    @torch.no_grad()
    def job() -> None:
        for batch in batches:
            with model.trace(batch.inputs, use_cache=False) as tracer:
                values = nnsight.save([])
                for layer in layers:
                    values.append(layer.output)
                tracer.stop()

    return job
