"""A state as the query of a link, and back: versioned, bounded, and refused with a reason if it is no state.

    ?play=<base64url of {"v": 1, "prompt": ..., "edits": [{"vector": ..., "layer": ..., "dose": ...}, ...]}>

Fields at their defaults are left out. Nothing is compressed, so a short link cannot hold a long state.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from analyses.play.state import AnyEdit, LatentEdit, State, VectorEdit
from hooks.errors import InputError

PARAMETER = "play"
VERSION = 1
MAX_LINK = 16_000
"""Characters of a link's state."""

T = TypeVar("T")

_KINDS: dict[Any, tuple[Any, str]] = {
    str: ((str,), "a text"),
    bool: ((bool,), "true or false"),
    bool | None: ((bool, type(None)), "true, false or null"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
}


def to_link(state: State) -> str:
    """The value of ``?play=`` for this state.

    Raises:
        InputError: if it is longer than a link may be.
    """
    facts = asdict(state)
    plain = asdict(State(prompt=""))
    kept = {name: value for name, value in facts.items() if name == "prompt" or value != plain[name]}
    text = json.dumps({"v": VERSION, **kept}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    link = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    if len(link) > MAX_LINK:
        raise InputError(
            f"This state makes a link of {len(link)} characters; up to {MAX_LINK} are read back. "
            "Shorten the prompt."
        )
    return link


def from_link(link: str) -> State:
    """The state of a link, whoever wrote it.

    Raises:
        InputError: if it is too long, damaged, of another version, or no state that this page could be in.
    """
    if len(link) > MAX_LINK:
        raise InputError(f"This link's state is {len(link)} characters long; up to {MAX_LINK} are read.")
    try:
        raw = base64.b64decode(link.encode("ascii") + b"=" * (-len(link) % 4), altchars=b"-_", validate=True)
        facts = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (binascii.Error, ValueError, RecursionError):
        raise InputError("This link is damaged: its state cannot be read. Copy the whole of it.") from None
    if not isinstance(facts, dict) or facts.get("v") != VERSION:
        version = facts.get("v") if isinstance(facts, dict) else None
        raise InputError(f"This link is of version {str(version)[:20]}; this page reads version {VERSION}.")
    del facts["v"]
    edits = facts.pop("edits", [])
    if not isinstance(edits, list):
        raise InputError("This link is no state: its edits are no list.")
    return _read(State, facts, edits=tuple(_edit(edit) for edit in edits))


def _edit(facts: Any) -> AnyEdit:
    if not isinstance(facts, dict):
        raise InputError("This link is no state: one of its edits is no object.")
    return _read(LatentEdit, facts) if "dictionary" in facts else _read(VectorEdit, facts)


def _read(kind: Callable[..., T], facts: Mapping[str, Any], **others: Any) -> T:
    """An object of a dataclass, if each fact is a field of it, and of its kind."""
    known = {field.name: field.type for field in fields(kind) if field.name not in others}  # type: ignore[arg-type]
    if unknown := sorted(facts.keys() - known.keys()):
        raise InputError(
            f"This link is no state: it has {', '.join(unknown)[:60]!r}, which this page has not."
        )
    taken: dict[str, Any] = {}
    for name, value in facts.items():
        types, what = _KINDS[known[name]]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise InputError(f"This link is no state: its {name} is not {what}.")
        try:
            taken[name] = float(value) if known[name] is float else value
        except OverflowError:
            raise InputError(f"This link is no state: its {name} is too large.") from None
    try:
        return kind(**taken, **others)
    except TypeError:
        missing = sorted(known.keys() - taken.keys())
        raise InputError(f"This link is no state: it lacks some of {', '.join(missing)}.") from None


def _no_constant(name: str) -> float:
    raise ValueError(name)
