"""The report page of a layers run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analyses.reports.page import add_line, bars, fill, finished
from hooks.files import write_text

COLOURS = {"knowledge": "#d9822b", "reasoning": "#2f7ed8"}
GREY = "#95a5a6"
CKA = {"slow": "#2f7ed8", "paraphrased": "#27ae60", "shuffled": "#8e44ad"}
CKA_NAMES = {"slow": "after its thought", "paraphrased": "paraphrased", "shuffled": "after another's thought"}


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a finished run folder; returns its path."""
    results, environment = finished(run)
    return write_text(run / "report.html", render(results, environment))


def render(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The page as text."""
    figures: dict[str, go.Figure] = {}
    if "not_enough" not in results:
        figures = _figures(results)
    return fill("layers.html.jinja", figures, r=results, environment=environment)


def _figures(results: Mapping[str, Any]) -> dict[str, go.Figure]:
    made = {f"curve_{method['name']}": _curves(method) for method in results["methods"]}
    made["statistic"] = _statistic(results["methods"])
    made["agreement"] = _agreement(results["agreement"])
    made["lens_rank"] = _lens_rank(results["lens"])
    made |= {f"map_{i}": _map(found) for i, found in enumerate(results["maps"])}
    if any(found["layers"] for found in results["probes"].values()):
        made["probes"] = _probes(results["probes"])
    for family, found in (results["fast_slow"] or {}).items():
        if found["cka"]:
            made[f"cka_{family}"] = _cka(found["cka"])
    if results["two_models"]:
        made["change"] = _change(results["two_models"]["change"])
        made["grafts"] = _grafts(results["two_models"]["grafts"])
    return made


def _curves(method: Mapping[str, Any]) -> go.Figure:
    """Both families' curves with intervals, and what random directions do."""
    figure = go.Figure()
    for family, found in method["families"].items():
        if found["floor"]:
            figure.add_scatter(
                x=list(range(len(found["floor"]))),
                y=[v["estimate"] for v in found["floor"]],
                name=f"{family}, floor (n = {found['floor'][0]['n']})",
                line={"color": COLOURS[family], "dash": "dot", "width": 1},
            )
    for family, found in method["families"].items():
        curve = found["curve"]
        add_line(figure, curve, f"{family} (n = {curve[0]['n']})", color=COLOURS[family])
        center = method["depth"][family]["estimate"]
        if center is not None:
            figure.add_vline(x=center, line={"color": COLOURS[family], "width": 1, "dash": "dash"})
    for layer, found in enumerate(method["layers"]):
        if found["q"] is not None and found["q"] <= 0.05:
            figure.add_vrect(x0=layer - 0.5, x1=layer + 0.5, fillcolor=GREY, opacity=0.15, line_width=0)
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title=method["unit"])
    return figure


def _statistic(methods: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Reasoning less knowledge, in layers, by every method."""
    shown = [m for m in reversed(methods) if m["depth"]["difference"]["low"] is not None]
    differences = [m["depth"]["difference"] for m in shown]
    figure = go.Figure()
    figure.add_scatter(
        x=[d["estimate"] for d in differences],
        y=[m["label"] for m in shown],
        error_x=bars(differences),
        mode="markers",
        marker={
            "size": 10,
            "color": [
                {"deeper": COLOURS["reasoning"], "shallower": COLOURS["knowledge"]}.get(m["verdict"], GREY)
                for m in shown
            ],
        },
        text=[f"{m['verdict']}, p = {m['p_adjusted']:.2g}" for m in shown],
        showlegend=False,
    )
    figure.add_vline(x=0, line={"color": GREY})
    figure.update_layout(
        height=90 + 34 * len(shown), margin={"l": 330, "r": 24, "t": 8, "b": 56}, template="none"
    )
    figure.update_xaxes(title="reasoning less knowledge, layers")
    return figure


def _agreement(found: Mapping[str, Any]) -> go.Figure:
    figure = make_subplots(rows=1, cols=2, subplot_titles=("knowledge", "reasoning"), horizontal_spacing=0.08)
    numbers = [str(i + 1) for i in range(len(found["names"]))]
    for column, family in enumerate(("knowledge", "reasoning"), start=1):
        figure.add_heatmap(
            z=found[family],
            x=numbers,
            y=numbers,
            zmin=-1,
            zmax=1,
            colorscale="RdBu",
            showscale=column == 2,
            customdata=[[f"{a} / {b}" for b in found["names"]] for a in found["names"]],
            hovertemplate="%{customdata}: %{z:.2f}<extra></extra>",
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    return figure


def _lens_rank(lens: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    for family, found in lens.items():
        figure.add_scatter(
            x=list(range(len(found["rank"]))),
            y=[1 + rank for rank in found["rank"]],
            name=family,
            line={"color": COLOURS[family]},
        )
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title="median place of the answer", type="log", autorange="reversed")
    return figure


def _map(found: Mapping[str, Any]) -> go.Figure:
    tokens = [
        token if token == other else f"{other}→{token}"
        for token, other in zip(found["tokens"], found["corrupted_tokens"], strict=True)
    ]
    figure = go.Figure()
    figure.add_heatmap(
        z=list(zip(*found["recovery"], strict=True)),
        x=list(range(len(tokens))),
        zmin=-1,
        zmax=1,
        colorscale="RdBu",
        customdata=[tokens for _ in found["recovery"][0]],
        hovertemplate="layer %{y}, %{customdata}: %{z:.3f}<extra></extra>",
    )
    figure.update_xaxes(tickvals=list(range(len(tokens))), ticktext=tokens, tickangle=-60)
    figure.update_yaxes(title="layer")
    figure.update_layout(height=460, margin={"l": 56, "r": 8, "t": 8, "b": 110}, template="none")
    return figure


def _probes(probes: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    for family, found in probes.items():
        if not found["layers"]:
            continue
        selectivity = [layer["selectivity"] for layer in found["layers"]]
        add_line(figure, selectivity, f"{family}: selectivity", color=COLOURS[family])
        figure.add_scatter(
            y=[layer["control"] for layer in found["layers"]],
            name=f"{family}: control accuracy",
            line={"color": COLOURS[family], "dash": "dot", "width": 1},
        )
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title="accuracy")
    return figure


def _cka(found: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    for name, colour in CKA.items():
        add_line(figure, found[name], CKA_NAMES[name], color=colour)
    bands = found["mispaired"]
    figure.add_scatter(
        x=list(range(len(bands))),
        y=[band["median"] for band in bands],
        name="another question",
        line={"color": GREY, "dash": "dot"},
    )
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title="debiased CKA with fast")
    return figure


def _change(change: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    for part, colour in (("blocks", GREY), ("attention", "#2f7ed8"), ("mlp", "#d9822b")):
        figure.add_scatter(y=[100 * x for x in change[part]], name=part, line={"color": colour})
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title="change of the weights, % of their norm", rangemode="tozero")
    return figure


def _grafts(grafts: Sequence[Mapping[str, Any]]) -> go.Figure:
    figure = go.Figure()
    for found in grafts:
        if found["undefined"]:
            continue
        donor = "tuned into base" if found["into"] == "base" else "base into tuned"
        dash = "solid" if found["into"] == "base" else "dot"
        add_line(figure, found["carried_kl"], f"{donor}, {found['shape']}", dash=dash)
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title="share of the donor's behaviour carried")
    return figure
