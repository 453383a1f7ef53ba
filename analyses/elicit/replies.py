"""The work of trying keys: one task is some problems under one key; one record a problem."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analyses.elicit.decodings import Asked, Greedy, Path, Reply, voted
from analyses.elicit.key import Key, Suffix
from analyses.progress import Stage
from analyses.run_folder import Record, RunFolder
from analyses.tasks import Problem
from analyses.work import Work, record
from analyses.workers import Progress, Workers
from hooks import LanguageModel
from hooks.chat import prompt_row

OPTIONAL = ("mean_logprob", "mean_margin")
"""Fields of a path that its record has only where they were asked for."""


@dataclass(frozen=True)
class Replies:
    """One chunk: some problems under one key."""

    key: Key
    problems: tuple[Problem, ...]
    max_new_tokens: int
    think: bool | None
    seed: int

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """The fields of each reply's record."""
        writes = self.key.prompt or Suffix()
        prompts = [writes(problem) for problem in self.problems]
        asked = Asked(
            self.problems, prompts, self.key.edits, self.max_new_tokens, self.think, self.seed, on_tokens
        )
        made = (self.key.decoding or Greedy()).replies(lm, asked)
        lengths = [len(prompt_row(lm.tokenizer, p, think=self.think).tokens) for p in prompts]
        return [_fields(reply, length) for reply, length in zip(made, lengths, strict=True)]


def _fields(reply: Reply, prompt_tokens: int) -> dict[str, Any]:
    spoken = voted(reply.paths)
    paths = [
        {k: x for k, x in asdict(path).items() if k != "text" and not (k in OPTIONAL and x is None)}
        for path in reply.paths
    ]
    return {
        "prompt_tokens": prompt_tokens,
        "paths": paths,
        "text": "" if spoken is None else spoken.text,
        **({"readings": dict(reply.readings)} if reply.readings else {}),
    }


def paths_of(record: Record) -> list[Path]:
    """The paths of a record, without their texts."""
    return [Path(text="", **fields) for fields in record["paths"]]


def replies(
    run: RunFolder,
    workers: Workers,
    keys: Sequence[Key],
    problems: Sequence[Problem],
    *,
    max_new_tokens: int,
    think: bool | None,
    chunk: int,
    seed: int,
    stage: Stage,
) -> dict[str, list[Record]]:
    """The records of each key, by its name; what is on disk already is not run again.

    Problems of different sources never share a task, since a decoding may read their answers differently.
    """
    by_source: dict[str, list[Problem]] = {}
    for problem in problems:
        by_source.setdefault(problem.source, []).append(problem)
    by_id = {problem.id: problem for problem in problems}
    work: list[Work] = [
        (part, Replies(key, tuple(by_id[item] for _, item in part), max_new_tokens, think, seed))
        for key in keys
        for of_source in by_source.values()
        for part in run.missing([(key.name, p.id) for p in of_source], chunk=chunk)
    ]
    record(work, workers, run, stage)
    return {key.name: [run.get(key.name, problem.id) for problem in problems] for key in keys}
