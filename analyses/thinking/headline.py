"""What a thinking run found, in a few sentences that claim no more than its intervals allow."""

from collections.abc import Mapping
from typing import Any

from analyses.wording import bounded, points

MANY = 0.1
"""Share of responses cut off from which the headline says so."""


def headline(results: Mapping[str, Any]) -> str:
    """Accuracy first, then the gain of thoughts, then what is noticed and asked."""
    said = [
        _accuracy(results),
        _flips(results["on_off"]),
        _gains(results["gains"]),
        _missing(results["missing"]),
    ]
    return " ".join(sentence for sentence in said if sentence)


def _accuracy(results: Mapping[str, Any]) -> str:
    of = results["on_off"]
    off, on = of["modes"]["off"], of["modes"]["on"]
    change, p = of["differences"]["accuracy"], of["differences"]["mcnemar"]["p"]
    with_, without = (f"{mode['accuracy']['estimate']:.0%}" for mode in (on, off))
    text = f"Accuracy is {with_} with thinking and {without} without"
    if sure := excludes_zero(change) and p < 0.05:
        text = (
            f"Thinking {'raises' if change['estimate'] > 0 else 'lowers'} accuracy from {without} to {with_}"
        )
    text += (
        f" ({points(change)}, n = {off['n']}, McNemar p = {p:.2g}) at {on['tokens']['estimate']:.0f} tokens "
        f"instead of {off['tokens']['estimate']:.0f}."
    )
    if (cut := on["truncated"]["estimate"]) > MANY:
        text += f" {cut:.0%} of the responses with thinking were cut off."
    power = of["power"]["accuracy_points"]
    if not sure:
        text += " The difference is not settled" + (
            f": with power 0.8, {100 * power:.0f} points would have been seen." if power is not None else "."
        )
    return text


def _flips(of: Mapping[str, Any]) -> str:
    found = of["modes"]["on"]["flips"]["announced"]
    if not found["n"]:
        return ""
    announcing = round(found["n"] * found["stated"]["estimate"])
    gained, lost = (found[name]["total"] for name in ("wrong_to_right", "right_to_wrong"))
    return (
        f"{announcing} of {found['n']} responses with thinking announce an answer; along them it went "
        f"{gained} times from wrong to right and {lost} times from right to wrong."
    )


def _gains(found: Mapping[str, Any]) -> str:
    if "why" in found:
        return ""
    own, over = found["total"]["gain"]["own"], found["total"]["own_beyond"]["shuffled"]
    text = f"The model's own thoughts bring the right answer {_nats(own)} (n = {found['n']}), {_nats(over)} "
    text += "over their words in random order"
    if not excludes_zero(over):
        text += ", which is not told from none"
    silent = found["silent"]
    if silent["total"]:
        text += f"; the {silent['n']} that do not state it, {_nats(silent['total']['gain']['own'])}"
    return f"{text}."


def _missing(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    row = next(row for row in found["layers"] if row["layer"] == found["layer"])
    seen = row["q"] < 0.05 and row["beyond"]["estimate"] > 0
    most = max(found["asking"], key=lambda asked: asked["dose"])
    over = most["beyond_random"]
    noticed = (
        f"A missing number {'is' if seen else 'is not shown to be'} noticed beyond a clause beside the point "
        f"at layer {found['layer']} (AUROC {row['missing']['estimate']:.2f} against "
        f"{row['irrelevant']['estimate']:.2f}, q = {row['q']:.2g}, n = {found['n']['confirm']['triples']})"
    )
    works = over["low"] is not None and over["low"] > 0 and most["p"] < 0.05
    return (
        f"{noticed}; its direction {'makes' if works else 'is not shown to make'} the model likelier to ask "
        f"than random ones do ({_nats(over)} at dose {most['dose']:g}, p = {most['p']:.2g}, "
        f"n = {found['n_asked']})."
    )


def excludes_zero(interval: Mapping[str, Any]) -> bool:
    """Whether zero lies outside the bounds; False where there are none."""
    low, high = interval["low"], interval["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def _nats(interval: Mapping[str, Any]) -> str:
    return bounded(interval, "nats", 1.0, "+.2f")
