"""Problems from a generator, a JSONL, JSON or CSV file, or a Hugging Face data set."""

import csv
import difflib
import io
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from analyses.tasks import block_stacking, gym
from analyses.tasks.generated import BUILT_IN, generated, is_generated
from analyses.tasks.problem import Problem
from analyses.tasks.verify import boxed
from hooks.errors import InputError

PROMPT_FIELDS = ("question", "prompt", "problem", "input")
ANSWER_FIELDS = ("answer", "target", "solution")

_WOULD_WORK = (
    f"{BUILT_IN!r}, {block_stacking.SOURCE!r}, '{gym.PREFIX}chain_sum', a path ending in .jsonl, .json or "
    ".csv, or a data set such as 'openai/gsm8k:main/test' would work."
)
_LONGEST_ANSWER = 40  # words; beyond, the field holds a worked solution and not an answer


class SourceRow(NamedTuple):
    where: str
    """``problems.csv:7``, to stand at the start of an error."""
    fields: Mapping[str, object]


def load_problems(
    source: str,
    *,
    n: int | None = None,
    seed: int = 0,
    prompt_field: str | None = None,
    answer_field: str | None = None,
) -> list[Problem]:
    """Read problems, shuffle them by ``seed`` and take the first ``n``.

    Rows of GSM8K (the answer follows ``####``), MATH (it stands in a box), SVAMP (``Body`` and
    ``Question``) and ASDiv with masked numbers (``number0`` and a ``Numbers`` column) are
    recognised. Other rows need a prompt and a short answer in fields of the usual names.

    Args:
        source: ``word-problems`` or ``block-stacking`` (built in), a data set of reasoning-gym as
            ``gym:chain_sum``, a path to a .jsonl, .json or .csv file, or a hub data set as
            ``owner/name[:config][/split]``. One rung of a generator is ``gym:chain_sum@3``;
            without it, all its rungs take turns. A problem's level is its rung.
        n: How many; None takes all there are (of those that are generated, at most 360).
        prompt_field: Where the prompt is, if not in question, prompt, problem or input.
        answer_field: Where the answer is, if not in answer, target or solution.

    Raises:
        InputError: if the source cannot be read, a row is not a problem, or there are fewer than
            ``n``; the text says which row and what would work.
    """
    if n is not None and n < 1:
        raise InputError(f"n={n} problems were asked for; any n from 1 would work, or None for all.")
    if is_generated(source):
        if prompt_field or answer_field:
            raise InputError(
                f"{source!r} has no fields to choose from; leave prompt_field and answer_field out."
            )
        return generated(source, n, seed)
    rows = _rows(source)
    if not rows:
        raise InputError(f"{source} holds no problems: it has no rows. One row or more would work.")
    if n is not None and n > len(rows):
        raise InputError(
            f"n={n} problems were asked of {source}, which has {len(rows)}. "
            f"n={len(rows)} or fewer would work, or None for all."
        )
    stem = Path(source).stem if Path(source).suffix.lower() in _READERS else source
    problems = [
        _problem(row, f"{stem}-{place}", source, prompt_field, answer_field)
        for place, row in enumerate(rows, start=1)
    ]
    random.Random(seed).shuffle(problems)
    return problems[:n]


# From a source to rows.


def json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file, each with its 1-based line number; blank lines do not count.

    Raises:
        InputError: if there is no such file, or a line is not a JSON object.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(
                f"{path}:{number} is not JSON: {error}. A .jsonl file with one JSON object a line would work."
            ) from None
        if not isinstance(row, dict):
            raise InputError(
                f"{path}:{number} holds a JSON {_kind(row)}, not an object. "
                'A line such as {"question": "...", "answer": "..."} would work.'
            )
        rows.append((number, row))
    return rows


def _rows(source: str) -> list[SourceRow]:
    path = Path(source).expanduser()
    if path.suffix.lower() in _READERS:
        return _READERS[path.suffix.lower()](path)
    if path.exists():
        raise InputError(f"{source} is neither a .jsonl, a .json nor a .csv file. {_WOULD_WORK}")
    if is_hub_id(source):
        return hub_rows(source)
    near = difflib.get_close_matches(source, [BUILT_IN, block_stacking.SOURCE], n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise InputError(f"There are no problems called {source!r}. {hint}{_WOULD_WORK}")


def _text(path: Path) -> str:
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not there"
        raise InputError(f"{path} is {kind}. A path to a file that exists would work.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}). Saved as UTF-8, it would work."
        ) from None


def _jsonl_rows(path: Path) -> list[SourceRow]:
    return [SourceRow(f"{path}:{number}", row) for number, row in json_lines(path)]


def _json_rows(path: Path) -> list[SourceRow]:
    try:
        table = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"{path} is not JSON: {error}. A list of objects would work, "
            "or the ending .jsonl if each line is an object of its own."
        ) from None
    if not isinstance(table, list):
        raise InputError(
            f"{path} holds a JSON {_kind(table)}, not a list. "
            'A list such as [{"question": "...", "answer": "..."}] would work.'
        )
    for place, row in enumerate(table, start=1):
        if not isinstance(row, dict):
            raise InputError(
                f"Item {place} of {path} is a JSON {_kind(row)}, not an object. "
                'An item such as {"question": "...", "answer": "..."} would work.'
            )
    return [SourceRow(f"{path}, item {place}", row) for place, row in enumerate(table, start=1)]


def _csv_rows(path: Path) -> list[SourceRow]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    rows: list[SourceRow] = []
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                raise InputError(
                    f"{where} has more or fewer cells than the {len(reader.fieldnames or ())} "
                    "named in the first line. With commas inside a cell in quotes, it would work."
                )
            rows.append(SourceRow(where, row))
    except csv.Error as error:
        raise InputError(
            f"{path}:{reader.line_num} is not CSV: {error}. "
            "Cells parted by commas, with quotes closed on both sides, would work."
        ) from None
    return rows


_READERS: dict[str, Callable[[Path], list[SourceRow]]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
}

_HUB = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<config>[\w.-]+))?(?:/(?P<split>[\w.-]+))?")


def is_hub_id(source: str) -> bool:
    """Whether this has the form ``owner/name[:config][/split]``."""
    return _HUB.fullmatch(source) is not None


def hub_rows(source: str) -> list[SourceRow]:
    """The rows of a hub data set.

    Raises:
        InputError: if it does not load, or has no such split; with what would work.
    """
    match = _HUB.fullmatch(source)
    assert match is not None, source
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{source!r} names a Hugging Face data set, but the package datasets is not installed. "
            "pip install 'unlatch[hub]' would make it work, and so would a local .jsonl file."
        ) from None
    try:
        table = datasets.load_dataset(match["id"], match["config"])
    except (ValueError, OSError) as error:  # its own errors are kinds of these
        raise InputError(
            f"The data set {source!r} did not load: {error}\n"
            "The form is owner/name[:config][/split], as in 'openai/gsm8k:main/test'."
        ) from error
    split = match["split"] or (next(iter(table)) if len(table) == 1 else None)
    if split not in table:
        has = f"no split {split!r}" if split else "several splits, and none was named"
        base = match["id"] + (f":{match['config']}" if match["config"] else "")
        named = " or ".join(repr(f"{base}/{name}") for name in table)
        raise InputError(f"The data set {base!r} has {has}. {named} would work.")
    return [SourceRow(f"{source}, row {place}", row) for place, row in enumerate(table[split], start=1)]


def _kind(value: object) -> str:
    names: dict[type, str] = {dict: "object", list: "list", str: "string", bool: "boolean"}
    return names.get(type(value), "null" if value is None else "number")


# From a row to a problem.

_MASK = re.compile(r"\bnumber([0-9]+)\b")
_PRINTED = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_ANNOTATION = re.compile(r"<<([^<>]*)>>")


def _problem(
    row: SourceRow, identity: str, source: str, prompt_field: str | None, answer_field: str | None
) -> Problem:
    prompt = _prompt(row, prompt_field)
    answer, solutions = _answer(row, _field(row, answer_field, ANSWER_FIELDS, "answer"))
    level = row.fields.get("level", "")
    return Problem(
        id=identity,
        prompt=prompt,
        answer=answer,
        source=source,
        level=str(level) if isinstance(level, str | int) else "",
        solutions=solutions,
    )


def _field(row: SourceRow, named: str | None, usual: Sequence[str], role: str) -> str:
    """The name of the field to read: as given, else the first usual one that is there."""
    found = {name.lower(): name for name in reversed(list(row.fields))}
    names = [named] if named else [found[name] for name in usual if name in found]
    if not names or names[0] not in row.fields:
        asked = f"no field {named!r}" if named else f"none of the {role} fields {', '.join(usual)}"
        listed = ", ".join(map(str, row.fields)) or "none"
        raise InputError(
            f"{row.where} has {asked}. Its fields are {listed}; {role}_field= with one of them would work."
        )
    return names[0]


def _prompt(row: SourceRow, named: str | None) -> str:
    if named is None and {"Question", "Numbers"} <= set(row.fields):
        return _unmasked(row)
    if named is None and {"Body", "Question"} <= set(row.fields):
        return _joined(_string(row, "Body"), _string(row, "Question"))
    return _string(row, _field(row, named, PROMPT_FIELDS, "prompt"))


def _string(row: SourceRow, name: str) -> str:
    value = row.fields[name]
    if not isinstance(value, str):
        raise InputError(f"{row.where} has a {_kind(value)} in its field {name!r}. A text would work.")
    if not value.strip():
        raise InputError(f"{row.where} is blank in its field {name!r}. A text would work.")
    return value.strip()


def _joined(body: str, question: str) -> str:
    """SVAMP's two halves; its body often ends in an open condition ("If she had 4 pens")."""
    if body[-1] in ".?!,:;":
        return f"{body} {question}"
    if re.split(r"[.?!]\s+", body)[-1].startswith("If "):
        return f"{body}, {question[0].lower()}{question[1:]}"
    return f"{body}. {question}"


def _unmasked(row: SourceRow) -> str:
    """ASDiv's ``number0`` and so on, put back from the ``Numbers`` column."""
    numbers = _string(row, "Numbers").split()

    def number(mask: re.Match[str]) -> str:
        place = int(mask[1])
        if place >= len(numbers):
            raise InputError(
                f"{row.where} asks for {mask[0]}, but its field 'Numbers' holds {len(numbers)}: "
                f"{' '.join(numbers)}. One more would work."
            )
        return numbers[place]

    return re.sub(r" +([.,?!;])", r"\1", _MASK.sub(number, _string(row, "Question")))


def _answer(row: SourceRow, name: str) -> tuple[str, dict[str, str]]:
    """The answer alone, and the worked solutions that came with it."""
    value = row.fields[name]
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{row.where} has {value} in its field {name!r}. A number would work.")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(
            f"{row.where} has a {_kind(value)} in its field {name!r}. A text or a number would work."
        )
    text = str(value).strip()
    if "####" in text:
        working, _, last = text.rpartition("####")
        answer = _tidy(last)
        solutions = _gsm8k_solutions(working, answer)
    elif boxed(text) is not None:
        answer = _tidy(boxed(text) or "")
        solutions = {"long": text, "direct": f"The answer is {answer}."}
    else:
        answer, solutions = _tidy(text), {}
    if not answer:
        raise InputError(
            f"{row.where} has a blank answer in its field {name!r}. "
            "Every problem needs one; without that row the file would work."
        )
    if len(answer.split()) > _LONGEST_ANSWER:
        raise InputError(
            f"{row.where} has {len(answer.split())} words in its field {name!r}, and neither #### "
            "nor a box marks the answer among them. A field that holds the short answer alone "
            "would work; name it with answer_field=."
        )
    return answer, solutions


def _tidy(text: str) -> str:
    """1,080 and 1080.0 as 1080; anything but such a number as it is."""
    text = text.strip()
    if not _PRINTED.fullmatch(text):
        return text
    return re.sub(r"\.0+$", "", text.replace(",", ""))


def _gsm8k_solutions(working: str, answer: str) -> dict[str, str]:
    """The worked text without its calculator notes; the notes alone, where there are any."""
    conclusion = f"The answer is {answer}."
    solutions = {"direct": conclusion}
    told = _ANNOTATION.sub("", working).strip()
    if told:
        solutions["long"] = f"{told}\n{conclusion}"
    sides = [note.partition("=") for note in _ANNOTATION.findall(working)]
    notes = [f"{left} = {right}" for left, _, right in sides if right and left != right]
    if notes:
        solutions["brief"] = " ".join([*(f"{note}." for note in notes), f"Answer: {answer}"])
    return solutions
