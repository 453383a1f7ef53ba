"""The report page of a thinking run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup, escape

from analyses.reports.page import add_band, bars, fill, finished, with_bounds
from hooks.files import write_text
from interp.thinking import marked

COLOURS = {"off": "#95a5a6", "on": "#2f7ed8"}
LINES = ("#2f7ed8", "#d9822b", "#8e44ad", "#27ae60", "#c0392b")
SWITCHES = {
    "template": "the chat template's own switch",
    "prompt": "what is asked",
    "tags": "a response begun with <think>, or not",
}


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a finished run folder; returns its path."""
    results, environment = finished(run)
    return write_text(run / "report.html", render(results, environment))


def render(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The page as text."""
    modes, missing = results["on_off"]["modes"], results["missing"]
    figures = {
        "markers": _markers(modes),
        "flips": _flips(modes),
        "budgets": _budgets(results["budgets"]["table"]),
    }
    if "why" not in results["gains"]:
        figures["gains"] = _gains(results["gains"])
    if missing is not None:
        figures |= {"layers": _layers(missing), "asking": _asking(missing["asking"])}
    return fill(
        "thinking.html.jinja",
        figures,
        r=results,
        environment=environment,
        highlight=highlight,
        switched_by=SWITCHES[results["switch"]],
    )


def highlight(text: str) -> Markup:
    """The text, escaped, with its markers marked by kind."""
    made, end = Markup(""), 0
    for start, stop, kind in marked(text):
        made += escape(text[end:start]) + Markup('<ins title="{}">{}</ins>').format(kind, text[start:stop])
        end = stop
    return made + escape(text[end:])


def _markers(modes: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """Markers of each kind, per 100 tokens."""
    figure = go.Figure()
    for mode, told in modes.items():
        of = told["markers"]
        _add_bars(figure, list(of), list(of.values()), f"thinking {mode}", COLOURS[mode])
    figure.update_yaxes(title="per 100 tokens")
    return figure


def _flips(modes: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """Changes of an announced answer, in a response."""
    figure = go.Figure()
    names = {
        "wrong_to_right": "wrong to right",
        "right_to_wrong": "right to wrong",
        "lost": "right, then lost",
    }
    for mode, told in modes.items():
        of = told["flips"]["announced"]
        if of["n"]:
            _add_bars(
                figure, list(names.values()), [of[name] for name in names], f"thinking {mode}", COLOURS[mode]
            )
    figure.update_yaxes(title="in a response, announced")
    return figure


def _budgets(table: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Accuracy over the tokens that were used, a line for each number of extensions."""
    figure = go.Figure()
    for more in sorted({row["extensions"] for row in table}):
        of = [row for row in table if row["extensions"] == more]
        name = "cut and answered" if more == 0 else f"made to go on up to {more} ×"
        add_band(
            figure, [row["budget"] for row in of], [row["accuracy"] for row in of], name, LINES[more % 5]
        )
    figure.update_xaxes(title="budget of the thought, tokens")
    figure.update_yaxes(title="right", range=[0, 1], tickformat=".0%")
    return figure


def _gains(gains: Mapping[str, Any]) -> go.Figure:
    """Nats that each kind of thought brings the right answer."""
    figure = go.Figure()
    sets = [("all questions", gains["total"], LINES[0])]
    if gains["silent"]["total"]:
        sets.append(("own thought does not state the answer", gains["silent"]["total"], LINES[1]))
    for name, of, colour in sets:
        _add_bars(figure, list(of["gain"]), list(of["gain"].values()), name, colour)
    figure.update_yaxes(title="nats")
    return figure


def _layers(missing: Mapping[str, Any]) -> go.Figure:
    """AUROC of probes by layer, beside the null."""
    figure = go.Figure()
    rows = missing["layers"]
    layers = [row["layer"] for row in rows]
    add_band(figure, layers, [row["missing"] for row in rows], "a number is missing", LINES[0])
    add_band(
        figure, layers, [row["irrelevant"] for row in rows], "a clause beside the point is", COLOURS["off"]
    )
    figure.add_vline(x=missing["layer"], line_dash="dot", annotation_text="chosen")
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title="AUROC, held out")
    return figure


def _asking(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """What the direction does to asking, beside the range of random ones."""
    figure = go.Figure()
    zero = {"estimate": 0.0, "low": 0.0, "high": 0.0}
    own = {0.0: zero, **{row["dose"]: row["injected"] for row in rows}}
    random = {
        0.0: zero,
        **{
            row["dose"]: {
                "estimate": row["random_mean"]["estimate"],
                "low": min(row["random"]),
                "high": max(row["random"]),
            }
            for row in rows
        },
    }
    doses = sorted(own)
    add_band(figure, doses, [own[dose] for dose in doses], "the direction", LINES[0])
    of_random = "random directions, from the least to the most"
    add_band(figure, doses, [random[dose] for dose in doses], of_random, COLOURS["off"])
    figure.update_xaxes(title="dose, of the median residual norm")
    figure.update_yaxes(title="asking, nats")
    return figure


def _add_bars(
    figure: go.Figure, names: Sequence[str], values: Sequence[Mapping[str, Any]], name: str, colour: str
) -> None:
    known = [with_bounds(v) for v in values]
    figure.add_bar(
        x=names, y=[v["estimate"] for v in known], error_y=bars(known), name=name, marker_color=colour
    )
