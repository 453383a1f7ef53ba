"""The report page of a passk run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from analyses.reports.page import add_band, fill, finished
from hooks.files import write_text

COLOURS = ("#2f7ed8", "#d9822b")


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a finished run folder; returns its path."""
    results, environment = finished(run)
    return write_text(run / "report.html", render(results, environment))


def render(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The page as text."""
    figures: dict[str, go.Figure] = {}
    for name, found in results["families"].items():
        figures[f"curves:{name}"] = _curves(found)
        if found["compared"] is not None:
            figures[f"difference:{name}"] = _difference(found)
    return fill("passk.html.jinja", figures, r=results, environment=environment)


def _curves(found: Mapping[str, Any]) -> go.Figure:
    """pass@k of each setting with its interval, and the guessing floor of each."""
    figure = go.Figure()
    for (name, setting), colour in zip(found["settings"].items(), COLOURS, strict=False):
        add_band(figure, found["k"], setting["curve"], name, colour)
        figure.add_scatter(
            x=found["k"],
            y=setting["floor"],
            name=f"{name}, blind guesses",
            mode="lines",
            line={"dash": "dot", "color": colour},
        )
    figure.update_xaxes(title="k, draws of each problem", type="log", tickvals=found["k"])
    figure.update_yaxes(title="pass@k", range=[0, 1.02], tickformat=".0%")
    return figure


def _difference(found: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    add_band(figure, found["k"], found["compared"]["difference"], "second less base", COLOURS[1])
    figure.add_hline(y=0, line_color="#808890")
    figure.update_xaxes(title="k, draws of each problem", type="log", tickvals=found["k"])
    figure.update_yaxes(title="difference of pass@k", tickformat="+.0%")
    return figure
