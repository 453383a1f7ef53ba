"""The report page of a sae-features run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from analyses.reports.page import fill, finished
from hooks.files import write_text


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a finished run folder; returns its path."""
    results, environment = finished(run)
    return write_text(run / "report.html", render(results, environment))


def render(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The page as text."""
    figures = {f"logits_{f['latent']}": _logits(f["logits"]) for f in results["features"]}
    return fill("features.html.jinja", figures, r=results, environment=environment)


def _logits(logits: Mapping[str, Any]) -> go.Figure:
    """The next tokens that a direction favours and disfavours."""
    both = [*logits["up"], *reversed(logits["down"])]
    figure = go.Figure()
    figure.add_bar(
        x=[entry["logit"] for entry in both],
        y=[f"{place}: {entry['token']!r}" for place, entry in enumerate(both)],
        orientation="h",
        marker_color=["#2f7ed8" if entry["logit"] > 0 else "#d9822b" for entry in both],
    )
    figure.update_layout(height=340, margin={"l": 130, "r": 16, "t": 8, "b": 40}, showlegend=False)
    figure.update_yaxes(autorange="reversed", tickfont={"size": 11})
    figure.update_xaxes(title="logit, centred")
    return figure
