"""The report page of a mode run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from analyses.reports.page import bars, fill, finished
from hooks.files import write_text

NAMES = {
    "direct": "asked for the answer alone",
    "direct+feature": "… and the latent raised for one step",
    "direct+dense": "… and the dense vector added for one step",
    "cot": "asked for steps",
    "cot+feature": "… and the latent raised for one step",
    "cot+suppressed": "… and the latent held at zero throughout",
    "override": "told not to think",
    "override+feature": "… and the latent raised for one step",
}
COLOURS = {"direct": "#d9822b", "cot": "#2f7ed8", "override": "#8e44ad"}
GREY = "#95a5a6"


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a finished run folder; returns its path."""
    results, environment = finished(run)
    return write_text(run / "report.html", render(results, environment))


def render(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The page as text."""
    figures = {
        "conditions": _conditions(results["conditions"]),
        "random": _random(results["random"]),
        "screening": _screening(results["select"]),
    }
    return fill("mode.html.jinja", figures, r=results, environment=environment, names=NAMES)


def _conditions(conditions: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """The share of responses that show a step, under each condition."""
    figure = go.Figure()
    for prompt, colour in COLOURS.items():
        names = [name for name in conditions if name.split("+")[0] == prompt]
        shares = [conditions[name]["steps"] for name in names]
        figure.add_bar(
            x=names,
            y=[share["estimate"] for share in shares],
            error_y=bars(shares),
            marker_color=colour,
            name=NAMES[prompt],
        )
    figure.update_yaxes(title="responses that show a step", range=[0, 1], tickformat=".0%")
    return figure


def _random(random: Mapping[str, Any]) -> go.Figure:
    """The matched random latents, and the one that was chosen, on the same problems."""
    figure = go.Figure()
    figure.add_histogram(
        x=random["steps"], xbins={"start": 0, "end": 1.05, "size": 0.05}, name="matched random latents",
        marker_color=GREY,
    )  # fmt: skip
    figure.add_vline(x=random["feature"], line_color="#d9822b", annotation_text="the latent")
    figure.update_xaxes(title="responses that show a step", range=[0, 1], tickformat=".0%")
    figure.update_yaxes(title="latents")
    return figure


def _screening(select: Mapping[str, Any]) -> go.Figure:
    """Every candidate at every strength, on the select problems."""
    figure = go.Figure()
    rows: Sequence[Mapping[str, Any]] = select["table"]
    for strength in sorted({row["strength"] for row in rows}):
        of = [row for row in rows if row["strength"] == strength]
        figure.add_scatter(
            x=[str(row["latent"]) for row in of],
            y=[row["steps"]["estimate"] for row in of],
            error_y=bars([row["steps"] for row in of]),
            mode="markers",
            name=f"strength {strength:g}",
        )
    for name in ("direct", "cot"):
        figure.add_hline(y=select[name]["steps"]["estimate"], line_dash="dot", annotation_text=NAMES[name])
    figure.update_xaxes(title="latent", type="category")
    figure.update_yaxes(title="responses that show a step", range=[0, 1], tickformat=".0%")
    return figure
