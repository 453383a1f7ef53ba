"""Dictionaries: training from text to weights, beside SAELens's own runner; and counting activity."""

import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.inputs import text_rows
from benchmarks.peers import hooked_transformer, require, unless_absent
from benchmarks.result import Aim, Entry, Result, Table, entries_of
from benchmarks.timing import Job, alternate, measured
from hooks import LanguageModel, Site
from hooks.capture import stream
from hooks.rows import WINDOW, Row
from saes import TopKSAE, write_shards
from saes.activity import latent_activity
from saes.dictionary import Origin
from saes.training import Recipe, train_dictionary

CONTEXT = 128
EXPANSION, K, BATCH = 8, 32, 2048


@dataclass(frozen=True)
class Size:
    """How much is run."""

    training_tokens: int = 65_536
    activity_tokens: tuple[int, int] = (50_000, 200_000)
    repeats: int = 3


QUICK = Size(training_tokens=8_192, activity_tokens=(2_000, 8_000), repeats=1)


def run(lm: LanguageModel, *, quick: bool = False) -> Result:
    """Training reads every token once, at the middle layer; activity is of an untrained dictionary."""
    size = QUICK if quick else Size()
    site = Site(lm.n_layers // 2, "resid_post")
    return Result(tables=(_training(lm, site, size), _activity(lm, site, size)))


def _training(lm: LanguageModel, site: Site, size: Size) -> Table:
    rows = text_rows(lm, size.training_tokens // CONTEXT, CONTEXT)
    absent: dict[str, str] = {}
    ours = "unlatch: shards on disk, then training"
    jobs: dict[str, Job] = {ours: lambda: _ours(lm, rows, site)}
    with unless_absent("SAELens's runner", absent):
        name = f"{require('sae-lens')}, its runner"
        theirs = hooked_transformer(lm)
        theirs.set_tokenizer(lm.tokenizer, default_padding_side="left")
        jobs[name] = lambda: _theirs(theirs, rows, site, lm)
    timings = alternate(jobs, repeats=size.repeats)
    tokens = len(rows) * CONTEXT
    speeds = ", ".join(f"{name}: {tokens / timing.median:,.0f} tokens/s" for name, timing in timings.items())
    aims = [
        Aim(f"{name} over unlatch", timings[name].median / timings[ours].median, 1.0, at_most=False)
        for name in timings
        if name != ours
    ]
    return Table(
        "Training a dictionary",
        f"TopK, {EXPANSION * lm.d_model} latents, k = {K}, {tokens} tokens of {site} in rows of {CONTEXT}, "
        f"each trained on once in batches of {BATCH}. {speeds}.",
        entries_of(timings, absent),
        tuple(aims),
    )


def _ours(lm: LanguageModel, rows: list[Row], site: Site) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(lm, rows, [site], Path(folder) / "acts", keep_special=True)
        recipe = Recipe(d_sae=EXPANSION * lm.d_model, k=K, vectors=len(shards), batch=BATCH, lr=3e-4)
        train_dictionary(shards, recipe, Path(folder) / "sae", device=lm.device, every=len(shards))


def _theirs(model: Any, rows: list[Row], site: Site, lm: LanguageModel) -> None:
    from datasets import Dataset
    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig

    config = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(
            d_in=lm.d_model,
            d_sae=EXPANSION * lm.d_model,
            k=K,
            normalize_activations="expected_average_only_in",
        ),
        model_name=lm.name,
        hook_name=str(site),
        is_dataset_tokenized=True,
        streaming=False,
        context_size=CONTEXT,
        prepend_bos=False,
        training_tokens=len(rows) * CONTEXT,
        train_batch_size_tokens=BATCH,
        n_batches_in_buffer=32,
        store_batch_size_prompts=16,
        n_batches_for_norm_estimate=2,
        lr=3e-4,
        device=str(lm.device),
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=None,
        verbose=False,
    )
    texts = Dataset.from_dict({"tokens": [list(row.tokens) for row in rows] * 2})  # its buffer reads ahead
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        LanguageModelSAETrainingRunner(config, override_dataset=texts, override_model=model).run()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _activity(lm: LanguageModel, site: Site, size: Size) -> Table:
    """Peak memory and speed over few and over four times as many tokens, and of the bare pass alone."""
    dictionary = TopKSAE(lm.d_model, EXPANSION * lm.d_model, K, origin=Origin(site=site))
    dictionary.to(lm.device).requires_grad_(False)
    entries, seconds, peaks = [], {}, {}
    few, many = size.activity_tokens
    rows = {n: text_rows(lm, n // CONTEXT, CONTEXT) for n in (few, many)}
    jobs: dict[str, Job] = {
        f"bare pass up to the layer, {few} tokens": lambda: _bare(lm, rows[few], site),
        f"activity of {few} tokens": lambda: latent_activity(lm, rows[few], dictionary, top=5),
        f"activity of {many} tokens": lambda: latent_activity(lm, rows[many], dictionary, top=5),
    }
    latent_activity(lm, rows[few][: len(rows[few]) // 4], dictionary, top=5)  # what is allocated once
    for name, job in jobs.items():
        seconds[name], peaks[name] = measured(job)
        entries.append(Entry(name, seconds[name], 1, peaks[name]))
    bare, small, large = jobs
    aims = [Aim("seconds of activity over those of the bare pass", seconds[small] / seconds[bare], 1.5)]
    if peaks[small] is not None and peaks[large] is not None:
        aims.append(Aim("peak memory of four times the tokens", peaks[large] / peaks[small], 1.1))
    return Table(
        "Activity of latents",
        f"{dictionary.d_sae} latents at {site}, rows of {CONTEXT} tokens, five top texts of each latent.",
        tuple(entries),
        tuple(aims),
    )


def _bare(lm: LanguageModel, rows: list[Row], site: Site) -> None:
    for _ in stream(lm, rows, [site], window=WINDOW):
        pass
