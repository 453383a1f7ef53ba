"""The report page of a verbosity run."""

import difflib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup, escape

from analyses.reports.page import bars, fill, finished
from hooks.files import write_text

NAMES = {
    "plain": "unedited",
    "vector": "the vector",
    "prompt": "the prompt",
    "shuffled": "shuffled labels",
    "minus": "minus the vector",
}
COLOURS = {
    "plain": "#7f8c8d",
    "vector": "#2f7ed8",
    "prompt": "#d9822b",
    "shuffled": "#9b59b6",
    "minus": "#c0392b",
    "random": "#95a5a6",
}


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a finished run folder; returns its path."""
    results, environment = finished(run)
    records = run / "records.jsonl"
    lines = records.read_bytes().splitlines() if records.exists() else []
    page = render(results, [json.loads(line) for line in lines], environment, run)
    return write_text(run / "report.html", page)


def render(
    results: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    run: Path,
) -> str:
    """The page as text."""
    return fill(
        "verbosity.html.jinja",
        _figures(results),
        r=results,
        names=NAMES,
        speeds=speeds(records),
        failed=sum(record["finish"] == "nan" for record in records),
        halved=sum("halvings" in record for record in records),
        environment=environment,
        vector_file=run / "vectors" / "verbosity.safetensors",
        examples=[_example(example) for example in results["examples"]],
    )


def speeds(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Words a second under each condition: the time of a step is divided among the rows of it."""
    words: dict[str, float] = defaultdict(float)
    seconds: dict[str, float] = defaultdict(float)
    for record in records:
        words[record["condition"]] += record["words"]
        seconds[record["condition"]] += record["seconds"]
    return {name: words[name] / seconds[name] for name in words if seconds[name] > 0}


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
    plain, steered = example["plain"]["text"], example["vector"]["text"]
    return {
        **example,
        "plain_marked": changed(plain, steered, "del"),
        "vector_marked": changed(steered, plain, "ins"),
    }


def changed(text: str, other: str, tag: str) -> Markup:
    """``text``, escaped, with the words that are not in ``other`` at their place in a tag."""
    mine, theirs = text.split(), other.split()
    parts = []
    for kind, start, stop, _, _ in difflib.SequenceMatcher(a=mine, b=theirs, autojunk=False).get_opcodes():
        if start == stop:
            continue
        words = escape(" ".join(mine[start:stop]))
        parts.append(words if kind == "equal" else Markup("<{0}>{1}</{0}>").format(Markup(tag), words))
    return Markup(" ").join(parts)


def _figures(results: Mapping[str, Any]) -> dict[str, go.Figure]:
    return {
        "frontier": _frontier(results),
        "reliability": _reliability(results),
        "layers": _layers(results),
        "dose": _dose(results),
    }


def _frontier(results: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    table = results["doses"]["table"]
    figure.add_scatter(
        x=[row["tokens"]["estimate"] for row in table],
        y=[100 * row["accuracy"]["estimate"] for row in table],
        text=[f"dose {row['dose']:g} (select, n = {row['n']})" for row in table],
        mode="lines+markers",
        line={"color": COLOURS["vector"], "dash": "dot"},
        name="doses, select problems",
    )
    for name, row in results["conditions"].items():
        figure.add_scatter(
            x=[row["tokens"]["estimate"]],
            y=[100 * row["accuracy"]["estimate"]],
            error_x=bars([row["tokens"]]),
            error_y=bars([row["accuracy"]], 100.0),
            text=[f"{NAMES[name]} (confirm, n = {row['n']})"],
            mode="markers",
            marker={"size": 11, "color": COLOURS[name]},
            name=NAMES[name],
        )
    base = results["conditions"]["plain"]
    figure.add_scatter(
        x=[base["tokens"]["estimate"] * (1 + d["tokens_change"]) for d in results["random"]["each"]],
        y=[
            100 * (base["accuracy"]["estimate"] + d["accuracy_difference"]) for d in results["random"]["each"]
        ],
        mode="markers",
        marker={"size": 5, "color": COLOURS["random"], "symbol": "x"},
        name=f"{results['random']['directions']} random directions",
    )
    figure.update_xaxes(title="response tokens, mean (left is briefer)", rangemode="tozero")
    figure.update_yaxes(title="accuracy, %", rangemode="tozero")
    return figure


def _reliability(results: Mapping[str, Any]) -> go.Figure:
    rows = results["reliability"]
    x = [row["layer"] for row in rows]
    figure = go.Figure()
    for key, name, colour in (
        ("split_half", "split-half cosine", "#2f7ed8"),
        ("left_out", "left-out cosine", "#27ae60"),
        ("auroc", "held-out AUROC", "#d9822b"),
        ("cos_matched", "cosine with the length-matched vector", "#8e44ad"),
        ("cos_position_out", "cosine with position taken out", "#c0392b"),
    ):
        figure.add_scatter(x=x, y=[row[key] for row in rows], name=name, line={"color": colour})
        if f"{key}_null" in rows[0]:
            figure.add_scatter(
                x=x,
                y=[row[f"{key}_null"] for row in rows],
                name=f"{name}, shuffled 95%",
                line={"color": colour, "dash": "dot", "width": 1},
            )
    figure.update_layout(
        height=520, margin={"l": 64, "r": 24, "t": 8, "b": 160}, legend={"y": -0.2, "yanchor": "top"}
    )
    figure.update_xaxes(title="layer")
    return figure


def _layers(results: Mapping[str, Any]) -> go.Figure:
    table = results["layers"]["table"]
    figure = go.Figure()
    figure.add_bar(
        x=[row["layer"] for row in table],
        y=[100 * row["tokens_change"]["estimate"] for row in table],
        error_y=bars([row["tokens_change"] for row in table], 100.0),
        text=[f"{row['lost']:+d} lost" for row in table],
        marker_color=[
            COLOURS["vector"] if row["layer"] == results["layers"]["chosen"] else "#9db4cc" for row in table
        ],
    )
    figure.update_xaxes(title="layer", dtick=1)
    figure.update_yaxes(title=f"change of tokens, %, at a KL of {results['layers']['kl_target']:g} nats")
    return figure


def _dose(results: Mapping[str, Any]) -> go.Figure:
    doses, figure = results["doses"], go.Figure()
    table, cap = doses["table"], doses["cap"]
    x = [cap["dose"], *(row["dose"] for row in table)]
    measured = [cap["measured"], *(row["kl"] for row in table)]
    for key, name in (("median", "measured, median"), ("p95", "measured, 95th percentile")):
        figure.add_scatter(x=x, y=[m[key] for m in measured], name=name, mode="lines+markers")
    figure.add_scatter(
        x=x,
        y=[cap["eps"], *(row["kl_bound_median"] for row in table)],
        name="bound, median state",
        line={"dash": "dot", "color": "#c0392b"},
    )
    figure.update_xaxes(title="dose, fraction of the median residual norm", type="log")
    figure.update_yaxes(title="KL at one position, nats", type="log", exponentformat="power")
    return figure
