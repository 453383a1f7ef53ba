"""The verdict of each family in a few sentences, or what there was to see where none is settled."""

from collections.abc import Mapping
from typing import Any

from analyses.wording import points

MANY_CUT = 0.2
"""Share of a setting's responses that were cut off, from which the headline says so."""


def headline(results: Mapping[str, Any]) -> str:
    """A line for every family."""
    kind = None if results["second"] is None else results["second"]["kind"]
    told = (
        _single(name, found) if kind is None else _compared(name, found, f"the {kind} model", kind)
        for name, found in results["families"].items()
    )
    return "\n".join(told)


def _single(name: str, found: Mapping[str, Any]) -> str:
    k, base = found["k"], found["settings"]["base"]
    reached = " and ".join(f"pass@{k[place]} is {_share(base['curve'][place])}" for place in _ends(k))
    return (
        f"{_what(name, found)}: {reached}; blind guesses would reach {base['floor'][-1]:.0%} at k = {k[-1]}."
        f"{_cut(found)}"
    )


def _compared(name: str, found: Mapping[str, Any], second: str, kind: str) -> str:
    compared, k = found["compared"], found["k"]
    verdict = {
        "sharpens": f"{second} sharpens what the base samples",
        "expands": f"{second} expands what the base solves, up to k = {k[-1]}",
        "loses": f"{second} loses what the base solves, at every k up to {k[-1]}",
        "not settled": f"not settled whether {second} sharpens or expands",
    }[compared["verdict"]]
    changes = " and ".join(
        f"{'Pass' if place == 0 else 'pass'}@{k[place]} goes from "
        f"{found['settings']['base']['curve'][place]['estimate']:.0%} to "
        f"{found['settings'][kind]['curve'][place]['estimate']:.0%} "
        f"({points(compared['difference'][place])})"
        for place in _ends(k)
    )
    told = f"{_what(name, found)}: {verdict}. {changes}. {_seen(found)}{_alone(found, second)}"
    return f"{told}{_guessed(found)}{_cut(found)}"


def _seen(found: Mapping[str, Any]) -> str:
    """What would have been seen, where nothing is settled."""
    compared, k = found["compared"], found["k"]
    if compared["verdict"] != "not settled":
        return ""
    sizes = " and ".join(
        f"{100 * compared['detectable'][place]:.0f} points at k = {k[place]}" for place in _ends(k)
    )
    return f"A difference of {sizes} would have been seen with power {compared['power']}. "


def _alone(found: Mapping[str, Any], second: str) -> str:
    """What either solves alone at the largest k, as numbers of problems."""
    last, n = found["compared"]["coverage"][-1], found["n"]["problems"]

    def above(who: str) -> str:
        return f"{n * last[who]['above_guessing']['estimate']:.0f}"

    return (
        f"At k = {last['k']} {second} alone solves {last['counts']['only_second']:.0f} "
        f"({above('second_alone')} more often than by guessing), the base alone "
        f"{last['counts']['only_base']:.0f} ({above('base_alone')})."
    )


def _guessed(found: Mapping[str, Any]) -> str:
    """Where blind guesses would solve as much at the largest k."""
    many = [
        f"{told['floor'][-1]:.0%} with the answers of {name}"
        for name, told in found["settings"].items()
        if told["floor"][-1] > told["curve"][-1]["low"]
    ]
    if not many:
        return ""
    return (
        f" Blind guesses would reach {' and '.join(many)} at k = {found['k'][-1]}: what is solved there may "
        "be luck."
    )


def _cut(found: Mapping[str, Any]) -> str:
    """Where many responses were cut off, which hides what they would have said."""
    cut = {name: told["truncated"]["estimate"] for name, told in found["settings"].items()}
    many = [f"{share:.0%} of the responses of {name}" for name, share in cut.items() if share > MANY_CUT]
    return f" {' and '.join(many)} were cut off, which hides what they would have said." if many else ""


def _ends(k: list[int]) -> tuple[int, ...]:
    """The places of the smallest and the largest k."""
    return (0, len(k) - 1) if len(k) > 1 else (0,)


def _what(name: str, found: Mapping[str, Any]) -> str:
    return f"{name} ({found['n']['problems']} problems, {found['n']['samples']} samples)"


def _share(interval: Mapping[str, Any]) -> str:
    return f"{interval['estimate']:.0%} [{interval['low']:.0%}, {interval['high']:.0%}]"
