"""Steered generation: what a vector at the middle layer costs each library, beside its own unsteered."""

from dataclasses import dataclass, replace
from functools import partial

from benchmarks import steered
from benchmarks.inputs import equal_prompts, small_vector, whole_batch
from benchmarks.peers import repeng, unless_absent
from benchmarks.result import Aim, Entry, Result, Table, entries_of
from benchmarks.timing import Job, alternate
from hooks import LanguageModel


@dataclass(frozen=True)
class Size:
    """How much is run."""

    prompts: int = 8
    new_tokens: int = 24
    repeats: int = 5


QUICK = Size(prompts=2, new_tokens=4, repeats=1)


def run(lm: LanguageModel, *, quick: bool = False) -> Result:
    """The vector is so short that every row's completion, and so the work, stays as it was."""
    size = QUICK if quick else Size()
    rows = equal_prompts(lm, size.prompts)
    batch = whole_batch(lm, rows)
    absent: dict[str, str] = {}
    ways = {
        "transformers generate": steered.plain(lm, batch, size.new_tokens),
        "unlatch": steered.ours(lm, rows, size.new_tokens),
        **steered.peers(lm, batch, size.new_tokens, absent),
    }
    layer, vector = lm.n_layers // 2, small_vector(lm)
    jobs: dict[str, Job] = {}
    for name, way in ways.items():
        jobs[f"{name}, unsteered"] = partial(way, layer, None)
        jobs[f"{name}, steered"] = partial(way, layer, vector)
    made = {name: way(layer, vector) for name, way in ways.items()}
    timings = alternate(jobs, repeats=size.repeats)
    first = made["transformers generate"]
    entries = [
        replace(entry, note=_same(made[entry.job.rpartition(", ")[0]], first))
        for entry in entries_of(timings)
    ]
    with unless_absent("repeng", absent):
        answer = repeng.ask(lm, rows, new_tokens=size.new_tokens, repeats=size.repeats)
        names = {"unsteered": "transformers beside repeng, unsteered", "steered": "repeng {repeng}, steered"}
        entries += repeng.entries(answer, "generation", names)
    ratio = timings["unlatch, steered"].median / timings["unlatch, unsteered"].median
    return Result(
        tables=(
            Table(
                "Steered generation",
                f"{size.prompts} prompts of {len(rows[0].tokens)} tokens, at most {size.new_tokens} new, "
                f"greedy, one batch; a vector added at layer {layer}.",
                (*entries, *(Entry(name, note=reason) for name, reason in absent.items())),
                (Aim("unlatch steered over unsteered", ratio, 1.03),),
            ),
        ),
        facts={"steered_over_unsteered": ratio},
    )


def _same(made: steered.Tokens, first: steered.Tokens) -> str:
    same = sum(mine == theirs for mine, theirs in zip(made, first, strict=True))
    return f"{same} of {len(first)} completions as transformers'"
