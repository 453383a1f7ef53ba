"""The page of a benchmark run: every table and curve in one HTML file that fetches nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from benchmarks.result import Curve, Result

COLOURS = ("#2f7ed8", "#d9822b", "#27ae60", "#9b59b6", "#c0392b", "#7f8c8d")


def render(results: Mapping[str, Result], environment: Mapping[str, Any]) -> str:
    """The page as text."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    curves = [curve for result in results.values() for curve in result.curves]
    return templates.get_template("page.html.jinja").render(
        results=results,
        environment=environment,
        plotly_js=Markup(get_plotlyjs()),  # the library's own script
        figures={curve.title: Markup(_html(curve)) for curve in curves},
    )


def _html(curve: Curve) -> str:
    figure = go.Figure()
    for (name, points), colour in zip(curve.lines.items(), COLOURS, strict=False):
        figure.add_scatter(
            x=[x for x, _ in points],
            y=[y for _, y in points],
            name=name,
            mode="lines+markers",
            line={"color": colour},
        )
    scale = "log" if curve.log else "linear"
    grid = {"gridcolor": "rgba(128,136,144,0.25)", "zerolinecolor": "rgba(128,136,144,0.4)"}
    every_x = sorted({x for points in curve.lines.values() for x, _ in points})
    figure.update_xaxes(
        title=curve.x, type=scale, tickvals=every_x, ticktext=[f"{x:.4g}" for x in every_x], **grid
    )
    figure.update_yaxes(title=curve.y, type=scale, dtick="D2" if curve.log else None, **grid)
    figure.update_layout(
        template="none",
        height=400,
        margin={"l": 72, "r": 16, "t": 16, "b": 96},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#808890", "family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": -0.24, "yanchor": "top"},
    )
    return str(
        figure.to_html(
            full_html=False, include_plotlyjs=False, config={"responsive": True, "displayModeBar": False}
        )
    )
