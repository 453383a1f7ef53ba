"""A steering vector for any model and any concept, with the table that says whether to trust it.

unlatch vector --concept reasoning --out runs/reasoning
unlatch vector --pairs mine.jsonl --kinds resid_post mlp_out --estimators mean_difference lda --out runs/mine
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from analyses.configs import VectorConfig
from analyses.pairs import POLES, builtin_pairs, load_pairs
from analyses.progress import console, progress
from analyses.run_folder import RunFolder, environment
from analyses.tasks import split_of, word_problems
from hooks import load
from hooks.errors import InputError
from hooks.positions import parse_positions
from interp.contrast import Recipe, contrasts
from interp.pairs import Pair
from interp.steering_vector import SteeringVector


def run(config: VectorConfig, out: Path, *, device: str | None = None) -> Path:
    """Estimate, print the reliability table, and write ``vectors/`` and ``results.json``."""
    pairs, poles, name = _pairs(config)
    reads = [parse_positions(read) for read in config.reads]
    with RunFolder.open(out, "vector", config) as folder:
        if folder.status == "complete":
            return folder.path
        lm = load(config.model, device=device)
        with progress() as start:
            stage = start("contrast", 2 * len(pairs))
            made = contrasts(
                lm,
                pairs,
                kinds=config.kinds,
                layers=config.layers or None,
                estimators=config.estimators,
                reads=reads,
                poles=poles,
                n_null=config.n_null,
                seed=config.seed,
                on_tokens=stage.tokens,
            )
            stage.rows(2 * len(pairs))
        folder.write("environment.json", environment(lm))
        for number, (recipe, vector) in enumerate(made.items()):
            file = f"{name}.safetensors" if number == 0 else f"{name}.{_slug(recipe)}.safetensors"
            folder.save(file, vector)
        results = {str(recipe): _rows(vector) for recipe, vector in made.items()}
        console.print(table(results))
        folder.write(
            "results.json", {"model": lm.name, "poles": poles, "n_pairs": len(pairs), "vectors": results}
        )
    return folder.path


def _pairs(config: VectorConfig) -> tuple[list[Pair], tuple[str, str], str]:
    """The pairs, their poles, and what to call the vector."""
    if config.pairs is not None:
        return load_pairs(config.pairs), config.poles or ("positive", "negative"), Path(config.pairs).stem
    if config.poles is not None:
        raise InputError(
            f"--poles {' '.join(config.poles)} names the ends of --pairs, and none were given; the built-in "
            f"{config.concept} pairs have the poles {' and '.join(POLES[config.concept])}."
        )
    problems = [problem for problem in word_problems() if split_of(problem) == "fit"]
    pairs = builtin_pairs(config.concept, problems, config.n_pairs, config.seed)
    return pairs, POLES[config.concept], config.concept


def _slug(recipe: Recipe) -> str:
    """A file name's part: letters, digits, dots and dashes only."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in str(recipe)).strip("-")


def _rows(vector: SteeringVector) -> list[dict[str, Any]]:
    return [
        {
            "layer": layer,
            "norm": float(vector.vectors[layer].norm()),
            "resid_norm": vector.resid_norm[layer],
            **(vector.reliability[layer].as_dict() if layer in vector.reliability else {}),
            **vector.length_control[layer],
        }
        for layer in vector.layers
    ]


def table(results: Mapping[str, list[dict[str, Any]]]) -> Table:
    """The reliability table: each number beside its shuffled-label 95th percentile."""
    shown = Table(box=None, header_style="bold")
    for column in (
        "vector",
        "layer",
        "split-half (null)",
        "left-out (null)",
        "AUROC (null)",
        "length-matched",
    ):
        shown.add_column(column, justify="left" if column == "vector" else "right")
    for name, rows in results.items():
        for row in rows:
            cells = [
                f"{row[key]:.2f} ({row[f'{key}_null']:.2f})" if key in row else "–"
                for key in ("split_half", "left_out", "auroc")
            ]
            shown.add_row(name, str(row["layer"]), *cells, f"{row['cos_matched']:.2f}")
    return shown
