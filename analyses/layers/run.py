"""Where does knowledge sit in a model, and where does reasoning over the prompt?

1. Ask items of two families, stored facts and questions whose answer follows from the prompt; keep
   those that the model answers right, with a partner whose subject alone differs, and match them.
2. Measure every block on every pair, by several methods, beside random directions.
3. Take the centre of mass of every curve, and its difference between the families.
4. Probe the layers; patch some items token by token; answer the same items at once and after thinking.
5. Where a second model is given, graft its blocks into the first, and the reverse.

    unlatch layers --model smollm2-135m-instruct --out runs/layers

Sources: Yang et al. 2025, arXiv:2507.18178, whose claim this puts to the test; each method's own module.
Differs from the source: causal curves, items matched in length and confidence, one statistic that is
named before the data are seen, and a report that says when it is not settled.
"""

import csv
import io
import json
import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analyses.configs import LayersConfig
from analyses.items import NotEnoughItemsError, all_items, read_relation
from analyses.items.survive import Survivor, table
from analyses.layers.asked import survivors
from analyses.layers.attribution_check import attribution_check
from analyses.layers.plan import methods
from analyses.layers.probed import probes
from analyses.layers.study import FAMILIES, Study
from analyses.layers.thoughts import fast_and_slow
from analyses.layers.token_maps import token_maps
from analyses.layers.two_models import two_models
from analyses.layers.verdict import PRIMARY, agreement, headline
from analyses.progress import progress
from analyses.reports.layers import write_report
from analyses.run_folder import RunFolder, described, environment
from analyses.work import compute
from analyses.workers import LocalWorker, RayWorkers
from hooks import LanguageModel, load
from hooks.errors import InputError
from hooks.files import write_text
from interp.grafting import require_alike
from interp.stats import mean_interval


def run(config: LayersConfig, out: Path, *, device: str | None = None, ray: str | None = None) -> Path:
    """Run the whole question, or what is left of it, and write one run folder; returns it.

    Raises:
        InputError: if too few items survive for a verdict; the report then says so.
    """
    relations = [read_relation(path, seed=config.seed) for path in config.relations]
    items = all_items(
        seed=config.seed, relations=relations, per_kind=config.per_kind, reasoning=config.n_reasoning
    )
    with RunFolder.open(out, "layers", config) as folder:
        if folder.status != "complete":
            lm = load(config.model, device=device)
            tuned = None if config.tuned is None else load(config.tuned, device=device)
            if tuned is not None:
                require_alike(lm, tuned)
            folder.write(
                "environment.json",
                environment(lm, dtype=str(lm.dtype)),
            )
            with progress() as start:
                workers = LocalWorker(lm) if ray is None else RayWorkers(ray, lm)
                work = partial(compute, workers=workers, run=folder, start=start)
                try:
                    found = survivors(config, lm, items, folder, work)
                except NotEnoughItemsError as error:
                    folder.write("results.json", _nothing(lm, error))
                else:
                    study = Study(config, lm, workers, folder, items, found, start)
                    folder.write("results.json", _undefined_as_none(_results(study, tuned)))
        results = json.loads((folder.path / "results.json").read_text(encoding="utf-8"))
        write_text(folder.path / "layers.csv", tidy(results))
        write_report(folder.path)
    if "not_enough" in results:
        raise InputError(f"{results['not_enough']} See {folder.path / 'report.html'}.")
    return folder.path


def _nothing(lm: LanguageModel, error: NotEnoughItemsError) -> dict[str, Any]:
    """What can be said where too few items survived."""
    return {
        "question": _question(),
        "headline": f"Not enough items for a verdict on {lm.name}.",
        "not_enough": str(error),
        "model": described(lm),
        "items": {"asked": table(error.filtered.counts())},
        "methods": [],
    }


def _results(study: Study, tuned: LanguageModel | None) -> dict[str, Any]:
    """Every step of the question, in turn."""
    config = study.config
    judged = methods(study)
    return {
        "question": _question(),
        "headline": headline(study.lm.name, judged),
        "primary": PRIMARY,
        "model": described(study.lm),
        "n": {
            "items": len(study.survivors.knowledge),
            "floor": min(config.n_floor, len(study.survivors.knowledge)),
            "resamples": config.n_resamples,
        },
        "items": _items(study),
        "methods": judged,
        "agreement": {
            "names": [s["label"] for s in judged],
            **{family: agreement(judged, family) for family in FAMILIES},
        },
        "attribution": attribution_check(study),
        "lens": _lens(study),
        "probes": probes(study),
        "maps": token_maps(study),
        "fast_slow": fast_and_slow(study),
        "two_models": None if tuned is None else two_models(study, tuned),
    }


def _undefined_as_none(value: Any) -> Any:
    """The same with None for NaN, which is no JSON: what is undefined stands in the results as such."""
    if isinstance(value, dict):
        return {key: _undefined_as_none(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_undefined_as_none(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _question() -> str:
    return (__doc__ or "").splitlines()[0]


# What stands beside the curves


def _items(study: Study) -> dict[str, Any]:
    survivors = study.survivors

    def shown(s: Survivor) -> dict[str, Any]:
        return {
            "kind": s.item.kind,
            "prompt": s.item.prompt,
            "answer": s.item.answer,
            "corrupted_subject": s.partner.subject,
            "corrupted_answer": s.partner.answer,
            "logp": s.logp,
        }

    return {
        "asked": table(survivors.filtered.counts()),
        "reasons": {family: survivors.filtered.reasons(family) for family in FAMILIES},
        "survived": {family: len(survivors.filtered.of(family)) for family in FAMILIES},
        "kinds": {family: survivors.kinds(family) for family in FAMILIES},
        "strata": survivors.strata,
        "balance": [asdict(balance) for balance in survivors.balance],
        "examples": [
            {family: shown(survivors.of(family)[i]) for family in FAMILIES}
            for i in range(min(6, len(survivors.knowledge)))
        ],
    }


def _lens(study: Study) -> dict[str, Any]:
    """The median rank of the answer at each layer, and the layer from which it stays on top."""
    told: dict[str, Any] = {}
    for family in FAMILIES:
        rank = study.curves(family, ("lens", "rank"))
        stays = np.logical_and.accumulate((rank == 0)[:, ::-1], axis=1).sum(1)
        told[family] = {
            "rank": np.median(rank, axis=0).tolist(),
            "settled": mean_interval(rank.shape[1] - stays, seed=study.config.seed).as_dict(),
        }
    return told


# The tidy table


COLUMNS = (
    *("method", "family", "layer", "estimate", "low", "high", "n"),
    *("floor", "floor_low", "floor_high", "floor_n", "unit"),
)


def tidy(results: dict[str, Any]) -> str:
    """Every curve as CSV: one line a method, family and layer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    bounds = ("estimate", "low", "high")
    for method in results["methods"]:
        for family, found in method["families"].items():
            for layer, (value, floor) in enumerate(zip(found["curve"], found["floor"], strict=True)):
                numbers = [*(value[k] for k in (*bounds, "n")), *(floor[k] for k in (*bounds, "n"))]
                writer.writerow([method["name"], family, layer, *numbers, method["unit"]])
    return text.getvalue()
