"""The text that a dictionary is trained on, as token rows.

    word-problems:N    built-in problems with their worked solutions, as conversations
    own:N              conversations that the model has with itself: it writes the user's turn, then its own
    python-docs        what ``help()`` knows of the language: prose and code that every Python has with it
    FILE, FOLDER       .txt and .md, a document each; .jsonl, the field ``text`` of each line
    owner/name[:config][/split]    a hub data set's field ``text``

N may be left out, and is 300 then. A document of more than ``context`` tokens becomes several rows. Which
rows are held out is read off a hash of the row, so a document that is there twice is not on both sides.

Source: Xu et al. 2024 (Magpie), arXiv:2406.08464, for conversations that begin with an open user turn.
Differs from the source: nothing is filtered.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from analyses.progress import Stage
from analyses.run_folder import RunFolder
from analyses.tasks.generated import BUILT_IN
from analyses.tasks.sources import hub_rows, is_hub_id, json_lines
from analyses.tasks.word_problems import word_problems
from analyses.work import Work, record
from analyses.workers import Progress, Workers
from hooks.chat import render, response_row
from hooks.errors import InputError
from hooks.generate import generate, generate_rows
from hooks.language_model import LanguageModel
from hooks.positions import everything, first
from hooks.rows import Row
from hooks.sampling import Sampling

OWN, PYTHON = "own", "python-docs"
MADE = 300
"""Problems or conversations that are made where the source does not say how many."""

TEXT = everything - first(1)
"""The first token of a row takes the part of begin-of-text where there is none, and is no text else."""

TEXTS = (".txt", ".md")
SHORTEST = 8
"""Tokens; a shorter rest of a document is left out."""

HELD_OUT = 20
"""One row of so many is held out."""


def size_of(source: str) -> tuple[str, int]:
    """A source's name, and how many problems or conversations it makes; 1 where it makes none.

    Raises:
        InputError: if the number is none.
    """
    name, colon, number = source.partition(":")
    if name not in (OWN, BUILT_IN):
        return source, 1
    if not colon:
        return name, MADE
    if not number.isdigit() or int(number) < 1:
        raise InputError(f"{source!r} makes {number!r} texts; {name}:{MADE} would work.")
    return name, int(number)


def gather(
    sources: Sequence[str],
    lm: LanguageModel,
    run: RunFolder,
    workers: Workers,
    start: Callable[[str, int], Stage],
    *,
    context: int,
    max_new_tokens: int,
    chunk: int,
    seed: int,
) -> tuple[list[Row], list[dict[str, Any]]]:
    """The rows of all sources, none twice, and how much each gave.

    Args:
        run: Where the conversations are recorded, and taken up again.

    Raises:
        InputError: if a source is none, or holds no text.
    """
    rows: list[Row] = []
    told = []
    for source in sources:
        of_source = rows_of(
            source,
            lm,
            context=context,
            max_new_tokens=max_new_tokens,
            run=run,
            workers=workers,
            chunk=chunk,
            seed=seed,
            stage=start(f"text: {source}", size_of(source)[1]),
        )
        tokens = sum(len(row.tokens) for row in of_source)
        told.append({"source": source, "rows": len(of_source), "tokens": tokens})
        rows += of_source
    return list(dict.fromkeys(rows)), told


def rows_of(
    source: str,
    lm: LanguageModel,
    *,
    context: int,
    max_new_tokens: int,
    run: RunFolder,
    workers: Workers,
    chunk: int,
    seed: int,
    stage: Stage,
) -> list[Row]:
    """The rows of one source."""
    name, n = size_of(source)
    if name == BUILT_IN:
        rows = [response_row(lm.tokenizer, p.prompt, p.solutions["long"]) for p in word_problems(n, seed)]
    elif name == OWN:
        rows = own_conversations(
            lm, run, workers, n=n, max_new_tokens=max_new_tokens, chunk=chunk, seed=seed, stage=stage
        )
    else:
        ids = (lm.tokenizer(text, add_special_tokens=False).input_ids for text in _documents(source))
        rows = [Row(tuple(map(int, i)), len(i)) for i in ids if i]
    cut = [piece for row in rows for piece in _pieces(row, context, _start(lm))]
    if not cut:
        raise InputError(f"{source} holds no text of {SHORTEST} tokens or more.")
    return cut


def held_out(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows to train on, and those never trained on."""
    split: tuple[list[Row], list[Row]] = [], []
    for row in rows:
        digest = hashlib.sha256(str(row.tokens).encode()).digest()
        split[int.from_bytes(digest[:4], "big") % HELD_OUT == 0].append(row)
    if not split[0] or not split[1]:
        raise InputError(
            f"{len(rows)} rows of text are too few: {len(split[1])} would be held out. Give more text."
        )
    return split


def up_to(rows: Sequence[Row], tokens: int) -> list[Row]:
    """The first rows, of so many tokens together; at least one."""
    sums = accumulate(len(row.tokens) for row in rows)
    return [row for row, total in zip(rows, sums, strict=True) if total <= tokens] or list(rows[:1])


def _start(lm: LanguageModel) -> tuple[int, ...]:
    """What the tokenizer puts before a text."""
    ids = lm.tokenizer("a").input_ids
    plain = lm.tokenizer("a", add_special_tokens=False).input_ids
    return tuple(int(i) for i in ids[: len(ids) - len(plain)])


def _pieces(row: Row, context: int, start: tuple[int, ...]) -> Iterator[Row]:
    """Rows of up to ``context`` tokens.

    Of a run of one token at the beginning, one is kept: each of them sees nothing but itself, as the first
    does, and takes its part, with a norm a hundred times that of others.
    """
    tokens = row.tokens[len(start) :] if row.tokens[: len(start)] == start else row.tokens
    room = context - len(start)
    for at in range(0, len(tokens), room):
        here = tokens[at : at + room]
        same = len(list(takewhile(here[0].__eq__, here)))
        piece = start + here[same - 1 :]
        if len(piece) >= SHORTEST:
            yield Row(piece, len(piece))


def _documents(source: str) -> Iterator[str]:
    path = Path(source).expanduser()
    if source == PYTHON:
        yield from (topics[name] for name in sorted(topics))
    elif path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in (*TEXTS, ".jsonl") and f.is_file())
        if not files:
            raise InputError(f"{source} holds no .txt, .md or .jsonl file.")
        for file in files:
            yield from _of_file(file)
    elif path.is_file():
        yield from _of_file(path)
    elif is_hub_id(source):
        yield from (_text(row.fields, row.where) for row in hub_rows(source))
    else:
        raise InputError(
            f"There is no text {source!r}. {BUILT_IN}, {OWN}, {PYTHON}, a .txt, .md or .jsonl file, a "
            "folder of these, or a data set such as 'owner/name:config/train' would work."
        )


def _of_file(file: Path) -> Iterator[str]:
    if file.suffix == ".jsonl":
        yield from (_text(fields, f"{file}:{line}") for line, fields in json_lines(file))
        return
    if file.suffix not in TEXTS:
        raise InputError(f"{file} is no .txt, .md or .jsonl file.")
    try:
        yield file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        told = f"{file} is not UTF-8 text (byte {error.start}). Saved as UTF-8, it would work."
        raise InputError(told) from None


def _text(fields: Any, where: str) -> str:
    text = fields.get("text")
    if not isinstance(text, str):
        raise InputError(
            f"{where} has no text in a field 'text'; it has {', '.join(map(str, fields)) or 'none'}."
        )
    return text


# Conversations of the model with itself


@dataclass(frozen=True)
class Conversations:
    """One chunk: the numbers of some conversations."""

    numbers: tuple[int, ...]
    max_new_tokens: int
    seed: int

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """The fields of each conversation's record."""
        opening = _opening(lm)
        asked = generate_rows(
            lm,
            [opening] * len(self.numbers),
            streams=self.numbers,
            max_new_tokens=self.max_new_tokens // 2,
            sampling=Sampling(1.0, 1.0, self.seed),
            max_rows=len(self.numbers),
            on_tokens=on_tokens,
        )
        questions = [text.strip() or "?" for text in asked.texts]
        answered = generate(
            lm,
            questions,
            max_new_tokens=self.max_new_tokens,
            temperature=0.8,
            seed=self.seed + self.numbers[0] + 1,
            max_rows=len(self.numbers),
            on_tokens=on_tokens,
        )
        return [{"question": q, "text": a} for q, a in zip(questions, answered.texts, strict=True)]


def own_conversations(
    lm: LanguageModel,
    run: RunFolder,
    workers: Workers,
    *,
    n: int,
    max_new_tokens: int,
    chunk: int,
    seed: int,
    stage: Stage,
) -> list[Row]:
    """Conversations that a chat model has with itself, as rows; what is on disk is not made again."""
    work = [(OWN, str(number)) for number in range(n)]
    todo: list[Work] = [
        (part, Conversations(tuple(int(i) for _, i in part), max_new_tokens, seed))
        for part in run.missing(work, chunk=chunk)
    ]
    record(todo, workers, run, stage)
    records = [run.get(*key) for key in work]
    return [response_row(lm.tokenizer, r["question"], r["text"]) for r in records if r["text"].strip()]


def _opening(lm: LanguageModel) -> Row:
    """The tokens up to where a user's turn begins; the begin-of-text token without a chat template."""
    marker = "unlatch-marks-the-turn"
    if lm.tokenizer.chat_template is None:
        if lm.tokenizer.bos_token_id is None:
            raise InputError(
                f"{lm.name} has neither a chat template nor a begin-of-text token, so it cannot begin by "
                "itself. Give text from a file instead of 'own'."
            )
        return Row((int(lm.tokenizer.bos_token_id),), 1)
    before = render(lm.tokenizer, marker).partition(marker)[0]
    ids = tuple(int(i) for i in lm.tokenizer(before, add_special_tokens=False).input_ids)
    return Row(ids, len(ids))
