"""The card of a repository: Markdown that no text put into it can break, and one section of it that is ours.

Whatever a user, a model or a file wrote stands in code, where Markdown has no markup, no links and no HTML,
or in a fence longer than any in it. It is on one line, and what cannot be seen, or turns the direction of
writing, is shown as its code. Numbers are numbers, or stand in code too.

Between two comments on lines of their own, one pair a file, is what was written from that file's metadata. A
push replaces what is between them and keeps every other character of the text. Of the front matter it adds
what is missing.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import RepoCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hooks.errors import InputError
from hooks.gguf import BUNDLED

BUNDLED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_FRONT = re.compile(r"\A\s*---[ \t]*\r?\n")


def code(value: object, length: int = 200) -> str:
    """Text as inline code, on one line."""
    text = " ".join("".join(map(_seen, str(value))).split())
    text = text if len(text) <= length else text[:length] + "…"
    if not text:
        text = "(empty)"
    ticks = "`" * (_longest(text) + 1)
    pad = " " if len(ticks) > 1 or text != text.strip() else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def fenced(text: str, language: str) -> str:
    """Lines of code as a block."""
    ticks = "`" * max(3, _longest(text) + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def number(value: object, spec: str = ".3g") -> str:
    """A number; whatever else a file has in its place, as code."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return code(value).replace("|", "&#124;") if value is not None else "–"
    return format(value, spec)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, of words of ours and of :func:`number`."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown_name(model: object) -> str:
    """A model's name; of a folder on somebody's machine, the last part."""
    text = str(model)
    local = Path(text).is_absolute() or text.startswith(("~", ".")) or re.match(r"[A-Za-z]:\\", text)
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] if local else text


def front_matter(tags: Sequence[str], model: str | None, license: str | None) -> dict[str, Any]:
    """What the hub files a repository under. The base model is named if the hub has one by that name.

    Raises:
        InputError: for a licence that is no identifier.
    """
    if license is not None and not _LICENSE.fullmatch(license):
        raise InputError(
            f"license={license!r} is none of the hub's: they are short names in lower case such as "
            "apache-2.0, mit, cc-by-4.0, or other."
        )
    base = base_model(model)
    return (
        {"library_name": "unlatch", "tags": list(tags)}
        | ({} if base is None else {"base_model": [base]})
        | ({} if license is None else {"license": license})
    )


def base_model(name: str | None) -> str | None:
    """The hub id of a model by this name, if it can be one."""
    if name == BUNDLED:
        return BUNDLED_ON_HUB
    if name is None or name.count("/") != 1 or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def with_section(card: str | None, name: str, section: str, front: Mapping[str, Any], title: str) -> str:
    """The card with this section, in place of the one by this name or at the end.

    Args:
        card: As it is; None where there is none.
        name: Of the file or folder that the section is about; see :func:`hooks.hub.plain`.
        front: What the front matter should have; what it has stays, lists are joined.
        title: Of a new card.

    Raises:
        InputError: if the front matter cannot be read, or the marks of the section are not a pair.
    """
    begin, end = f"<!-- unlatch:begin {name} -->", f"<!-- unlatch:end {name} -->"
    block = f"{begin}\n{section.strip()}\n{end}"
    text = f"# {title}\n" if card is None else card
    text = _with_front(text, front)
    if "\r\n" in text:
        block = block.replace("\n", "\r\n")
    starts, ends = ([m.start() for m in _lines(mark, text)] for mark in (begin, end))
    if not starts and not ends:
        gap = "\r\n" if "\r\n" in text else "\n"
        return f"{text}{'' if text.endswith(gap) else gap}{gap}{block}{gap}"
    if len(starts) != 1 or len(ends) != 1 or ends[0] < starts[0]:
        raise InputError(
            f"The card has {len(starts)} lines {begin} and {len(ends)} lines {end}; one of each, in this "
            "order, marks what a push replaces. Mend them, or take both out and a new section is added. "
            "Nothing was uploaded."
        )
    return text[: starts[0]] + block + text[ends[0] + len(end) :]


def _lines(mark: str, text: str) -> list[re.Match[str]]:
    return list(re.finditer(rf"^{re.escape(mark)}(?=[ \t]*\r?$)", text, re.MULTILINE))


def _with_front(text: str, ours: Mapping[str, Any]) -> str:
    try:
        card = RepoCard(text if _FRONT.match(text) else f"---\n{{}}\n---\n{text}")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(
            f"The front matter of the card cannot be read ({' '.join(str(error).split())[:200]}). Mend it, "
            "between the two lines ---, and push again. Nothing was uploaded."
        ) from None
    theirs = card.data.to_dict()
    for key, value in ours.items():
        if isinstance(value, list):
            has = card.data.get(key, [])
            has = has if isinstance(has, list) else [has]
            card.data[key] = has + [one for one in value if one not in has]
            if card.data[key] == has and key in theirs:
                card.data[key] = theirs[key]
        elif key not in theirs:
            card.data[key] = value
    return text if card.data.to_dict() == theirs else str(card.content)


def pretty(value: object, length: int = 4000) -> str:
    """JSON in lines, ASCII alone, cut where it is long."""
    text = json.dumps(value, indent=2, default=str)
    return text if len(text) <= length else text[:length] + "\n…"


def _longest(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _seen(character: str) -> str:
    """Itself, a space for a space of any kind, or the code of what cannot be seen."""
    if character.isspace():
        return " "
    if unicodedata.category(character)[0] == "C":
        return f"\\u{ord(character):04x}"
    return character
