"""The verdict of each family in a few sentences, or what there was to see where none is settled."""

from collections.abc import Mapping
from typing import Any


def headline(results: Mapping[str, Any]) -> str:
    """The verdict of each family, or what there was to see where none is settled."""
    kind = None if results["second"] is None else results["second"]["kind"]
    return " ".join(_sentence(name, found, kind) for name, found in results["families"].items())


def _sentence(name: str, found: Mapping[str, Any], kind: str | None) -> str:
    n, k, base = found["n"], found["k"], found["settings"]["base"]
    of = f"{name} ({n['problems']} problems, {n['samples']} samples)"
    if kind is None:
        return (
            f"{of}: pass@{k[0]} is {_share(base['curve'][0])} and pass@{k[-1]} {_share(base['curve'][-1])}; "
            f"blind guesses would reach {base['floor'][-1]:.0%} at k = {k[-1]}."
        )
    compared, second = found["compared"], found["settings"][kind]

    def change(place: int) -> str:
        was, now = base["curve"][place]["estimate"], second["curve"][place]["estimate"]
        return f"pass@{k[place]} goes from {was:.0%} to {now:.0%} ({_points(compared['difference'][place])})"

    changes = change(0) if len(k) == 1 else f"{change(0)} and {change(-1)}"
    if compared["verdict"] != "not settled":
        words = {
            "sharpens": f"the {kind} model sharpens what the base samples",
            "expands": f"the {kind} model expands what the base solves, up to k = {k[-1]}",
            "loses": f"the {kind} model loses what the base solves, at every k up to {k[-1]}",
        }
        return f"{of}: {words[compared['verdict']]}. {_capital(changes)}. {_alone(compared, kind)}"
    first, last = (100 * compared["detectable"][place] for place in (0, -1))
    return (
        f"{of}: not settled whether the {kind} model sharpens or expands. {_capital(changes)}. A difference "
        f"of {first:.0f} points at k = {k[0]} and of {last:.0f} at k = {k[-1]} would have been seen with power "
        f"{compared['power']}. {_alone(compared, kind)}"
    )


def _alone(compared: Mapping[str, Any], kind: str) -> str:
    last = compared["coverage"][-1]
    n = last["both"]["n"]

    def above(who: str) -> float:
        return float(last[who]["above_guessing"]["estimate"]) * n

    return (
        f"At k = {last['k']} the {kind} model alone solves {last['counts']['only_tuned']:.0f} "
        f"({above('second_alone'):.0f} more often than by guessing), the base alone "
        f"{last['counts']['only_base']:.0f} ({above('base_alone'):.0f})."
    )


def _share(interval: Mapping[str, Any]) -> str:
    return f"{interval['estimate']:.0%} [{interval['low']:.0%}, {interval['high']:.0%}]"


def _points(interval: Mapping[str, Any]) -> str:
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f"{100 * interval['estimate']:+.0f} points [{low:+.0f}, {high:+.0f}]"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
