"""Knowledge items: tables of facts, asked for in plain sentences after demonstrations of the same kind.

    The capital of Austria is Vienna.       <- a demonstration, from facts kept out of the items
    The capital of Kenya is Nairobi.
    The capital of France is                -> Paris

No chat template is used, for any model: a base model has none, and the last token of a template
stands between the subject and the answer. The demonstrations say what is asked and in which form,
so that a small model is not failed for a wrong article or a line break. None of them names the
answer of the item or of a partner: copying from the prompt is never right.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from analyses.items.item import Item
from hooks.errors import InputError

SHOTS = (1, 3)
"""Fewest and most demonstrations of an item, so that prompts differ in length as those of reasoning do."""


@dataclass(frozen=True)
class Table:
    """Facts of one kind, and the sentences that ask for them."""

    kind: str
    templates: tuple[str, ...]
    """Each with one ``{}`` for the subject; the answer follows after a space."""

    facts: tuple[tuple[str, str], ...]
    """(subject, answer); items are made of these."""

    demonstrations: tuple[tuple[str, str], ...]
    """(subject, answer); shown in prompts, never asked for."""


def tables() -> list[Table]:
    """The tables in the package, by name."""
    folder = files("analyses.items") / "tables"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    return [read_table(folder / name) for name in names]


def read_table(path: Path | Traversable) -> Table:
    """Read one table: a JSON object of ``kind``, ``templates``, ``demonstrations`` and ``facts``.

    ``facts`` maps subjects to answers, and ``demonstrations`` lists some of the subjects.

    Raises:
        InputError: if the file is no such table, or a subject stands in it twice.
    """
    table = read_json(path, 'An object such as {"kind": "capital", "templates": ["..."], ...}')
    for key, form in {"kind": str, "templates": list, "demonstrations": list, "facts": dict}.items():
        if not isinstance(table.get(key), form):
            raise InputError(
                f"{path} has no {key!r} that is a {form.__name__}. It has {', '.join(table) or 'no keys'}."
            )
    facts: dict[str, str] = table["facts"]
    if not all(isinstance(answer, str) for answer in facts.values()):
        raise InputError(f"{path} has an answer that is no text. A text for each subject would work.")
    shown: list[str] = table["demonstrations"]
    for subject in shown:
        if subject not in facts:
            raise InputError(
                f"{path} demonstrates {subject!r}, which is not among its facts. One of its "
                f"{len(facts)} subjects would work."
            )
    return Table(
        kind=table["kind"],
        templates=checked_templates(table["templates"], path),
        facts=tuple(fact for fact in facts.items() if fact[0] not in shown),
        demonstrations=tuple((subject, facts[subject]) for subject in shown),
    )


def read_json(path: Path | Traversable, example: str) -> dict[str, Any]:
    """A JSON file that holds one object, in which no key comes twice.

    Raises:
        InputError: if it does not; the text says where.
    """

    def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(members)
        if len(table) < len(members):
            names = [name for name, _ in members]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{path} has {twice!r} twice. Once would work.")
        return table

    if not path.is_file():
        raise InputError(f"There is no file {path}. A path to a .json file that exists would work.")
    try:
        table = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}. {example} would work.") from None
    if not isinstance(table, dict):
        raise InputError(f"{path} holds a JSON {type(table).__name__}, not an object. {example} would work.")
    return table


def checked_templates(templates: object, path: Path | Traversable) -> tuple[str, ...]:
    """Templates that are texts with one ``{}`` each, without space at the end.

    Raises:
        InputError: if one is not, or there is none.
    """
    if not isinstance(templates, list) or not templates:
        raise InputError(f'{path} has no templates. A list such as ["The capital of {{}} is"] would work.')
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise InputError(
                f"{path} has the template {template!r}. A text with one {{}}, for the subject, would work."
            )
    return tuple(template.rstrip() for template in templates)


def knowledge_items(
    sources: Sequence[Table] | None = None,
    *,
    seed: int = 0,
    shots: tuple[int, int] = SHOTS,
    per_kind: int | None = None,
) -> list[Item]:
    """One item a fact: its template, its demonstrations and their number drawn by the seed.

    Args:
        sources: Tables; None takes those of the package.
        shots: Fewest and most demonstrations. There are fewer where too few have other answers.
        per_kind: Take at most so many facts of a table; None takes all.

    Raises:
        InputError: if ``shots`` is no range from 0, or ``per_kind`` is not positive.
    """
    if not 0 <= shots[0] <= shots[1]:
        raise InputError(f"shots={shots} were asked for; a range such as {SHOTS} or (0, 0) would work.")
    if per_kind is not None and per_kind < 1:
        raise InputError(f"per_kind={per_kind} was asked for; any number from 1 would work, or None for all.")
    items: list[Item] = []
    for table in tables() if sources is None else sources:
        stream = random.Random(f"{seed}/{table.kind}")
        facts = stream.sample(table.facts, min(len(table.facts), per_kind or len(table.facts)))
        items += [_item(table, subject, answer, shots, stream) for subject, answer in facts]
    return items


def _item(table: Table, subject: str, answer: str, shots: tuple[int, int], stream: random.Random) -> Item:
    choices = tuple(dict.fromkeys(a for _, a in (*table.facts, *table.demonstrations)))
    spared = [choice for choice in choices if choice != answer]
    kept = {answer, stream.choice(spared)} if spared else {answer}  # so that there is a partner
    usable = [s for s in table.demonstrations if s[1] not in kept and s[0] != answer]
    shown = stream.sample(usable, min(len(usable), stream.randint(*shots)))
    template = stream.choice(table.templates)
    head, tail = template.split("{}")
    lines = [f"{template.replace('{}', s)} {a}.\n" for s, a in shown]
    taken = {answer, *(word for demonstration in shown for word in demonstration)}
    return Item(
        family="knowledge",
        kind=table.kind,
        before="".join(lines) + head,
        subject=subject,
        after=tail,
        answer=answer,
        others=tuple((s, a) for s, a in table.facts if a not in taken and s != subject),
        choices=choices,
    )
