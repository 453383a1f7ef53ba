"""The report page of an elicit run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from analyses.reports.page import bars, fill, finished
from hooks.files import write_text

COLOURS = {"base": "#2f7ed8", "reference": "#d9822b", "tuned": "#8e44ad"}
PLACES = ("top center", "bottom right", "top left", "bottom left", "top right", "bottom center")
"""Of the names in turn, so that those of keys that cost the same can be read."""

CLOSED, OPEN = "rgba(128,136,144,0.18)", "#2f7ed8"


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a finished run folder; returns its path."""
    results, environment = finished(run)
    return write_text(run / "report.html", render(results, environment))


def render(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The page as text."""
    figures: dict[str, go.Figure] = {}
    for place, table in enumerate(results["tables"].values()):
        figures[f"cost{place}"] = _cost(table, results["reference"])
    figures["lock"] = _lock(next(iter(results["tables"].values())))
    return fill("elicit.html.jinja", figures, r=results, environment=environment)


def _cost(table: Mapping[str, Any], reference: str) -> go.Figure:
    """Accuracy against tokens a problem, a point a key."""
    figure = go.Figure()
    for place, (name, row) in enumerate(table["keys"].items()):
        role = "tuned" if name.split("+")[0] == "tuned" else "reference" if name == reference else "base"
        figure.add_scatter(
            x=[row["tokens"]["estimate"]],
            y=[row["accuracy"]["estimate"]],
            error_y=bars([row["accuracy"]]),
            mode="markers+text",
            text=[name],
            textposition=PLACES[place % len(PLACES)],
            marker={"size": 9, "color": COLOURS[role]},
            showlegend=False,
        )
    figure.update_xaxes(title="generated tokens a problem", type="log")
    figure.update_yaxes(title="accuracy", range=[0, 1.05], tickformat=".0%")
    figure.update_layout(height=440, margin={"l": 64, "r": 24, "t": 24, "b": 56})
    return figure


def _lock(table: Mapping[str, Any]) -> go.Figure:
    """Which key opens which problem; problems in order of how many keys open them."""
    names = sorted(table["opened"], key=lambda name: table["opened"][name].count("1"))
    columns = sorted(
        range(table["n"]), key=lambda i: (-sum(table["opened"][name][i] == "1" for name in names), i)
    )
    figure = go.Figure(
        go.Heatmap(
            z=[[int(table["opened"][name][i]) for i in columns] for name in names],
            x=[table["problems"][i] for i in columns],
            y=names,
            colorscale=[[0, CLOSED], [1, OPEN]],
            showscale=False,
            ygap=2,
            hovertemplate="%{y}<br>%{x}<extra></extra>",
        )
    )
    figure.update_xaxes(title="problems, those that most keys open first", showticklabels=False)
    figure.update_yaxes(automargin=True)
    figure.update_layout(height=60 + 26 * len(names), margin={"l": 64, "r": 24, "t": 12, "b": 40})
    return figure
