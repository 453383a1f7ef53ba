"""The docstrings as the reference shows them: Sphinx roles, ``Example:``, and fields that say nothing more.

A role such as :func:`hooks.load` names something of this project from where it stands: a member of its class,
of its module, or a path from the top. What is in the reference becomes a link, and what is not (the analyses,
anything private) becomes code. A role that names nothing is an error, so the docstrings stay true.
"""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(func|class|meth|attr|mod|data|exc|obj):`([^`]+)`")
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
REFERENCE = ("hooks", "saes", "interp")


class Roles(griffe.Extension):
    """Rewrites the docstring of every object of the packages in the reference."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        for name in REFERENCE:  # a role may name an object of another package
            if name not in loader.modules_collection:
                loader.load(name)
        rewrite(pkg)
        thin(pkg)


def rewrite(obj: griffe.Object) -> None:
    """Rewrite the docstrings of ``obj`` and of all that is defined in it."""
    if obj.docstring is not None:
        text = ROLE.sub(lambda role: link(obj, role[1], role[2]), obj.docstring.value)
        obj.docstring.value = EXAMPLE.sub("Examples:", text)  # as the Google style calls what holds >>>
    for member in obj.members.values():
        if not member.is_alias:
            rewrite(member)  # type: ignore[arg-type]


def thin(obj: griffe.Object) -> None:
    """Drop the fields of dataclasses that have no docstring: the signature above them says as much."""
    for name, member in list(obj.members.items()):
        if member.is_alias:
            continue
        if "dataclass" in obj.labels and member.is_attribute and not member.docstring:
            if "property" not in member.labels:
                obj.del_member(name)
        else:
            thin(member)  # type: ignore[arg-type]


def link(obj: griffe.Object, kind: str, name: str) -> str:
    """Markdown for a role that stands in the docstring of ``obj``."""
    target = found(obj, kind, name)
    if target is None:
        if name.startswith("analyses."):
            return f"`{name}`"
        raise LookupError(f":{kind}:`{name}` in the docstring of {obj.path} names nothing.")
    shown = name.rpartition(".")[2] if kind in ("meth", "attr") else name
    parts = target.path.split(".")
    if parts[0] not in REFERENCE or any(part.startswith("_") for part in parts):
        return f"`{shown}`"
    return f"[`{shown}`][{target.path}]"


def found(obj: griffe.Object, kind: str, name: str) -> griffe.Object | None:
    """What ``name`` means in ``obj``: looked for in its class, then its module, then from the top."""
    scope: griffe.Object | None = obj
    places = []
    while scope is not None:
        places.append(scope)
        scope = scope.parent  # type: ignore[assignment]
    for place in [*places, obj.modules_collection]:
        try:
            target = place[name]
        except (KeyError, griffe.AliasResolutionError):
            continue
        if target.is_alias:
            target = target.final_target
        if kind != "mod" and target.is_module:  # hooks.load is a module and, re-exported, its function
            target = target.members.get(target.name, target)
        return target
    return None
