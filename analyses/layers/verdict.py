"""The one statistic, on every curve, and what it settles.

For each method: the centre of mass of the mean curve of each family, and reasoning less knowledge, with an
interval and a permutation test over matched pairs (:mod:`interp.depth`). One curve was chosen to answer the
question before any was seen: what a block adds, taken from the partner's prompt (``PRIMARY``). It is causal,
stays inside what the model does on such prompts, and looks at one block at a time. The other methods answer
for themselves, adjusted for their number (Holm); where one of them settles on the opposite, the headline
says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from analyses.run_folder import known
from interp.depth import DepthDifference, depth_difference
from interp.stats import holm, mean_interval

Verdict = Literal["deeper", "shallower", "not settled", "undefined"]
"""Where reasoning sits, compared with knowledge."""

LEVEL = 0.05

Families = Mapping[str, Float[np.ndarray, "_item layer"]]
"""Curves of the items of ``knowledge`` and ``reasoning``."""


@dataclass(frozen=True)
class Method:
    """A method, its curve, and how to read it."""

    name: str
    label: str
    unit: str
    what: str
    """What the curve shows, in a sentence."""

    opposite: str
    """What would have been seen if knowledge and reasoning had sat the other way round, or nowhere."""

    of: tuple[str, str]
    """The measure's name, and that of its curve."""

    floor: tuple[str, str]
    """A measure of the same without meaning; ``random`` stands for every random direction."""


PRIMARY = "block"
METHODS = (
    Method(
        "block",
        "a block's addition, from the partner's prompt",
        "nats of the logit difference",
        "What attention and MLP of one block add, from the subject on, is replaced by what they add in the "
        "partner's prompt; how much of the logit difference is lost.",
        "If reasoning sat where knowledge does, the two curves would peak at the same blocks.",
        ("block", "drop"),
        ("block:floor", "drop"),
    ),
    Method(
        "ablation_subject",
        "mean ablation at the subject",
        "nats of log p(answer)",
        "What one block adds at the subject's tokens is replaced by its mean over all prompts of both "
        "families; how much of the answer's log-probability is lost.",
        "A block that only carries on what others did would lose no more than the floor.",
        ("ablation_subject", "drop"),
        ("ablation_subject:floor", "drop"),
    ),
    Method(
        "ablation_last",
        "mean ablation at the last token",
        "nats of log p(answer)",
        "The same at the last token, where the answer is written.",
        "If the last token only copied what the subject's tokens hold, one block would lose all.",
        ("ablation_last", "drop"),
        ("ablation_last:floor", "drop"),
    ),
    Method(
        "patching_subject",
        "patching the subject: where it leaves",
        "share of recovery",
        "Clean activations at the subject's tokens bring the clean answer back only while later tokens still "
        "read them; the step from one block to the next is what has been read by then.",
        "Subjects read at the same depth in both families would give the same curve.",
        ("patching_subject", "step"),
        ("patching_subject:floor", "step"),
    ),
    Method(
        "patching_last",
        "patching the last token: where it arrives",
        "share of recovery",
        "Clean activations at the last token bring the clean answer back once it has arrived there; the step "
        "from one block to the next is what arrived in it.",
        "Answers that arrive at the same depth in both families would give the same curve.",
        ("patching_last", "step"),
        ("patching_last:floor", "step"),
    ),
    Method(
        "attribution",
        "attribution (integrated gradients)",
        "nats of the logit difference",
        "The first-order effect of putting what a block adds in the clean run into the corrupted one, its "
        "slope taken along the way between them.",
        "Where it disagrees with exact patching, below, patching is right.",
        ("attribution", "effect"),
        ("attribution:floor", "effect"),
    ),
    Method(
        "sensitivity_reasoning",
        "injection of the reasoning vector, at equal KL",
        "nats of log p(answer), either way",
        "How far the vector step by step - at once moves the answer when written at the last token of one "
        "layer, at the dose where the edit has the same measured KL at every layer.",
        "A vector that means nothing for these answers moves them as far as random directions do.",
        ("sensitivity_reasoning", "at_kl"),
        ("random", "at_kl"),
    ),
    Method(
        "sensitivity_verbosity",
        "injection of the verbosity vector, at equal KL",
        "nats of log p(answer), either way",
        "The same with the vector brief - long, another concept's.",
        "A vector that means nothing for these answers moves them as far as random directions do.",
        ("sensitivity_verbosity", "at_kl"),
        ("random", "at_kl"),
    ),
    Method(
        "lens",
        "logit lens: where the answer is written",
        "nats of log p(answer) - log p(partner's answer)",
        "The step, from one block to the next, of what the last token says of the two answers when it is "
        "read by the model's own unembedding.",
        "A block that writes in other coordinates looks as if it did nothing; the lens is no causal method.",
        ("lens", "step"),
        ("lens", "floor"),
    ),
)


def summary(
    method: Method,
    found: Families,
    floors: Families,
    *,
    paired: bool = True,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """A method's curves with intervals and floors, its statistic, and the difference at each layer.

    Pairs of which one has a curve that is not finite are left out, and counted.
    """
    curves = dict(found)
    left_out = 0
    if paired:
        finite = np.isfinite(np.concatenate(list(curves.values()), axis=1)).all(1)
        left_out = int((~finite).sum())
        curves = {family: curve[finite] for family, curve in curves.items()}
    depth = depth_difference(
        curves["reasoning"], curves["knowledge"], paired=paired, n_resamples=n_resamples, seed=seed
    )
    return {
        "name": method.name,
        "label": method.label,
        "unit": method.unit,
        "what": method.what,
        "opposite": method.opposite,
        "left_out": left_out,
        "families": {
            family: {
                "curve": _means(curve, seed),
                "floor": _means(floors[family], seed),
            }
            for family, curve in curves.items()
        },
        "depth": _depth(depth),
        "layers": [
            {"difference": layer.difference.as_dict(), "p": layer.p_value, "q": layer.q_value}
            for layer in depth.layers
        ],
    }


def _means(curve: Float[np.ndarray, "item layer"], seed: int) -> list[dict[str, Any]]:
    kept = curve[np.isfinite(curve).all(1)]
    return [mean_interval(values, n_resamples=1000, seed=seed).as_dict() for values in kept.T]


def _depth(found: DepthDifference) -> dict[str, Any]:
    return {
        "reasoning": found.reasoning.as_dict(),
        "knowledge": found.knowledge.as_dict(),
        "difference": found.difference.as_dict(),
        "share_of_depth": known(found.normalised),
        "p": known(found.p_value),
        "undefined": found.undefined,
    }


def judge(summaries: Sequence[dict[str, Any]], primary: str = PRIMARY) -> list[dict[str, Any]]:
    """With each method's ``p_adjusted`` and ``verdict``: the primary's as it is, the others' by Holm."""
    others = [s for s in summaries if s["name"] != primary and s["depth"]["p"] is not None]
    adjusted = holm(np.array([s["depth"]["p"] for s in others])).tolist() if others else []
    p_of = {s["name"]: p for s, p in zip(others, adjusted, strict=True)}
    judged = []
    for s in summaries:
        p = p_of.get(s["name"], s["depth"]["p"])
        judged.append({**s, "p_adjusted": p, "verdict": _verdict(s["depth"], p)})
    return judged


def _verdict(depth: Mapping[str, Any], p: float | None) -> Verdict:
    """Settled where the interval leaves zero out and the permutation test agrees."""
    difference = depth["difference"]
    if p is None or difference["low"] is None:
        return "undefined"
    if p > LEVEL or difference["low"] <= 0 <= difference["high"]:
        return "not settled"
    return "deeper" if difference["estimate"] > 0 else "shallower"


def headline(model: str, judged: Sequence[Mapping[str, Any]], primary: str = PRIMARY) -> str:
    """What was found, in a sentence with its interval; then what the other methods say."""
    (main,) = (s for s in judged if s["name"] == primary)
    d = main["depth"]["difference"]
    if main["verdict"] == "undefined":
        return f"Not settled for {model}: {main['depth']['undefined']}."
    numbers = (
        f"{abs(d['estimate']):.1f} layers [{d['low']:+.1f}, {d['high']:+.1f}] (reasoning less knowledge; "
        f"p = {main['p_adjusted']:.2g}, n = {d['n']} matched pairs)"
    )
    match main["verdict"]:
        case "deeper" | "shallower" as where:
            first = f"In {model} reasoning sits {where} than knowledge, by {numbers}."
        case _:
            where = "deeper" if d["estimate"] > 0 else "shallower"
            first = f"Not settled for {model}: reasoning sits {where} than knowledge by {numbers}."
    return f"{first} {_others([s for s in judged if s['name'] != primary])}"


def _others(judged: Sequence[Mapping[str, Any]]) -> str:
    said = {
        verdict: sum(s["verdict"] == verdict for s in judged)
        for verdict in ("deeper", "shallower", "not settled", "undefined")
    }
    parts = [f"{count} {verdict}" for verdict, count in said.items() if count]
    text = f"Of {len(judged)} other methods: {', '.join(parts)}."
    if said["deeper"] and said["shallower"]:
        text += " They contradict each other, so take none of them alone."
    return text


def agreement(judged: Sequence[Mapping[str, Any]], family: str) -> list[list[float | None]]:
    """Spearman's correlation over layers of every two methods' mean curves of a family; None if undefined."""
    means = [np.array([v["estimate"] for v in s["families"][family]["curve"]]) for s in judged]
    return [[_correlation(a, b) for b in means] for a in means]


def _correlation(a: Float[np.ndarray, " layer"], b: Float[np.ndarray, " layer"]) -> float | None:
    """Spearman's; None where a curve is the same at every layer."""
    return None if np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a, b).statistic)
