"""What the report pages share: the frame, numbers with their intervals, and figures.

Everything that a model or a problem wrote is escaped; a page fetches nothing.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs


def finished(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of a finished run, and its environment."""
    results, environment = (
        json.loads((run / name).read_text(encoding="utf-8")) for name in ("results.json", "environment.json")
    )
    return results, environment


def fill(template: str, figures: Mapping[str, go.Figure], **values: Any) -> str:
    """A page as text, from a template of this folder."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": percent, "points": points, "number": number}
    return templates.get_template(template).render(
        plotly_js=Markup(get_plotlyjs()),  # the library's own script
        figures={name: Markup(_html(figure)) for name, figure in figures.items()},
        **values,
    )


def percent(value: Mapping[str, Any] | float | None) -> str:
    """A share, with its interval where there is one."""
    return _with_interval(value, lambda x: f"{100 * x:.0f}%")


def points(value: Mapping[str, Any] | float | None) -> str:
    """A signed change in percent or percentage points, with its interval where there is one."""
    return _with_interval(value, lambda x: f"{100 * x:+.1f}")


def number(value: Mapping[str, Any] | float | None) -> str:
    """A number to three digits, with its interval where there is one."""
    return _with_interval(value, lambda x: f"{x:.3g}" if abs(x) < 100 else f"{x:.0f}")


def _with_interval(value: Mapping[str, Any] | float | None, show: Callable[[float], str]) -> str:
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        if value["estimate"] is None:
            return "–"
        if value["low"] is None or value["high"] is None:
            return show(value["estimate"])
        return f"{show(value['estimate'])} [{show(value['low'])}, {show(value['high'])}]"
    return show(value)


def add_line(figure: go.Figure, curve: Sequence[Mapping[str, Any]], name: str, **style: Any) -> None:
    """One curve over layers, of intervals; a value without bounds is drawn without a bar."""
    known = [v if v["low"] is not None else {**v, "low": v["estimate"], "high": v["estimate"]} for v in curve]
    known = [v if v["estimate"] is not None else dict.fromkeys(v, 0) for v in known]
    figure.add_scatter(
        x=list(range(len(curve))),
        y=[v["estimate"] for v in curve],
        error_y=bars(known),
        name=name,
        mode="lines+markers",
        marker={"size": 5},
        line=style,
    )


def add_band(
    figure: go.Figure,
    x: Sequence[int] | Sequence[float],
    values: Sequence[Mapping[str, Any]],
    name: str,
    colour: str,
) -> None:
    """One curve of intervals over ``x``, its bounds as a band; where there are none, of no width."""
    known = [with_bounds(v) for v in values]
    figure.add_scatter(
        x=[*x, *reversed(x)],
        y=[*(v["high"] for v in known), *(v["low"] for v in reversed(known))],
        fill="toself", fillcolor=colour, opacity=0.2, line={"width": 0}, showlegend=False, hoverinfo="skip",
        mode="lines",
    )  # fmt: skip
    figure.add_scatter(
        x=list(x), y=[v["estimate"] for v in known], name=name, mode="lines+markers", line_color=colour
    )


def with_bounds(value: Mapping[str, Any]) -> dict[str, float]:
    """An interval to draw; its own estimate where it has no bounds."""
    estimate = value["estimate"]
    return {
        "estimate": estimate,
        **{end: estimate if value[end] is None else value[end] for end in ("low", "high")},
    }


def _html(figure: go.Figure) -> str:
    if figure.layout.height is None:
        figure.update_layout(height=380, margin={"l": 64, "r": 24, "t": 24, "b": 56}, legend={"y": 1.12})
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#808890", "family": "system-ui, sans-serif", "size": 13},
        legend_orientation="h",
    )
    figure.update_xaxes(gridcolor="rgba(128,136,144,0.25)", zerolinecolor="rgba(128,136,144,0.4)")
    figure.update_yaxes(gridcolor="rgba(128,136,144,0.25)", zerolinecolor="rgba(128,136,144,0.4)")
    return str(
        figure.to_html(
            full_html=False, include_plotlyjs=False, config={"responsive": True, "displayModeBar": False}
        )
    )


def bars(values: Sequence[Mapping[str, Any]], scale: float = 1.0) -> dict[str, Any]:
    """Error bars of intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * (v["high"] - v["estimate"]) for v in values],
        "arrayminus": [scale * (v["estimate"] - v["low"]) for v in values],
        "thickness": 1,
        "color": "#808890",
        "width": 3,
    }
