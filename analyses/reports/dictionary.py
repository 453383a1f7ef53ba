"""The report page of a sae-train run, and the card that is kept with each dictionary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from analyses.configs import SaeTrainConfig
from analyses.reports.page import fill, finished, number, percent
from hooks import LanguageModel
from hooks.files import write_text
from hooks.sites import Site
from saes.training import Recipe

NAMES = {
    "dictionary": "dictionary",
    "pca": "PCA of as many directions",
    "random": "the same, never trained",
    "mean": "the mean alone",
}


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a finished run folder; returns its path."""
    results, environment = finished(run)
    return write_text(run / "report.html", render(results, environment, run))


def render(results: Mapping[str, Any], environment: Mapping[str, Any], run: Path) -> str:
    """The page as text."""
    figures: dict[str, go.Figure] = {}
    for place, found in enumerate(results["dictionaries"]):
        figures[f"curve_{place}"] = _curve(found["curve"])
        figures[f"density_{place}"] = _density(found["density"])
    return fill(
        "dictionary.html.jinja",
        figures,
        r=results,
        environment=environment,
        names=NAMES,
        folder=run / "dictionaries",
    )


def _curve(curve: Sequence[Mapping[str, Any]]) -> go.Figure:
    """What is left unexplained as training goes on."""
    figure = go.Figure()
    x = [point["vectors"] for point in curve]
    for key, name in (("fvu", "batch"), ("held_out_fvu", "held out"), ("dead_fraction", "dead latents")):
        figure.add_scatter(x=x, y=[point[key] for point in curve], name=name, mode="lines+markers")
    figure.update_xaxes(title="activations trained on")
    figure.update_yaxes(title="share", rangemode="tozero")
    return figure


def _density(density: Sequence[float]) -> go.Figure:
    """How often latents fire."""
    alive = np.array([d for d in density if d > 0])
    figure = go.Figure()
    if len(alive):
        figure.add_histogram(x=np.log10(alive), nbinsx=40, name="latents")
    figure.update_xaxes(title="log10 of the share of tokens on which a latent fires")
    figure.update_yaxes(title="latents")
    return figure


def card(
    lm: LanguageModel,
    site: Site,
    recipe: Recipe,
    config: SaeTrainConfig,
    told: Mapping[str, Any],
    distinct: int,
) -> str:
    """What a dictionary was made from, how good it is, and what it is not for; in Markdown."""
    quality = told["quality"]
    lines = [
        f"# A sparse dictionary of {lm.name} at {site}",
        "",
        f"{recipe.d_sae:,} latents, {recipe.architecture}"
        + (f", k = {recipe.k}" if recipe.architecture != "standard" else f", l1 = {recipe.l1:g}")
        + f"; read it with `saes.load_dictionary` or SAELens 6. Model weights {lm.fingerprint}.",
        "",
        "| | |",
        "|---|---|",
        f"| text | {', '.join(config.text)}; rows of {config.context} tokens at most |",
        f"| trained on | {recipe.steps * recipe.batch:,} activations, {distinct:,} distinct ones |",
        "| left out | tokens that stand for no text, and the first token of each row |",
        f"| learning rate, batch, seed | {recipe.learning_rate:.2g}, {recipe.batch}, {recipe.seed} |",
        "",
        f"On {quality['n_tokens']:,} held-out tokens ({quality['n_next_tokens']:,} next tokens):",
        "",
        "| | FVU | loss added, nats | share recovered |",
        "|---|---|---|---|",
        *(
            f"| {NAMES[name]} | {r['fvu']:.3f} | {number(r['increase_nats'])} | {percent(r['recovered'])} |"
            for name, r in quality["reconstructions"].items()
        ),
        "",
        f"L0 {quality['l0']:.1f}; {quality['dead_fraction']:.1%} of the latents fire on none of these "
        f"tokens, {told['never_active']:.1%} on none of {told['activity_tokens']:,} tokens of training text. "
        "Density and largest activation of each latent over the latter are in `latents.safetensors`.",
        "",
        "Limits: it knows the kind of text above and little else; latents that fire on fewer than one token "
        "in 10,000 have been seen too rarely to be trusted; a latent is a direction that helps to rebuild "
        "activations, and not by that a feature of the model.",
        "",
    ]
    return "\n".join(lines)
