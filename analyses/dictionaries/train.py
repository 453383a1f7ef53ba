"""How much of a model's activations can a sparse dictionary keep?

1. Gather text, and hold one row of twenty out.
2. Capture its activations, at all layers in one pass, into shards.
3. Train a dictionary of each layer on them, with SAELens's trainer.
4. Judge it on the rows held out: what it leaves unexplained, how many latents it takes and never uses,
   and what the model loses when it runs on the reconstruction, beside a PCA of the same rank, a
   dictionary that was never trained, and the mean.

    unlatch sae-train --model smollm2-135m-instruct --text own --out runs/sae

Sources: each method's own module: saes.training, saes.quality, saes.activity.
Differs from the sources: nothing.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from analyses.configs import SaeTrainConfig
from analyses.dictionaries.corpus import TEXT, gather, held_out, up_to
from analyses.progress import Stage, progress
from analyses.reports.dictionary import card, write_report
from analyses.run_folder import RunFolder, described, environment
from analyses.workers import LocalWorker, RayWorkers, Workers
from hooks import LanguageModel, load
from hooks.files import write_text
from hooks.rows import Row
from hooks.sites import Site
from interp.stats import mean_interval
from saes import ActivationShards, load_dictionary, save_dictionary, write_shards
from saes.activity import latent_activity
from saes.quality import Quality, quality
from saes.training import Point, Recipe, train_dictionary


@dataclass(frozen=True)
class Study:
    """What every step needs."""

    config: SaeTrainConfig
    lm: LanguageModel
    workers: Workers
    run: RunFolder
    start: Callable[[str, int], Stage]

    @property
    def sites(self) -> list[Site]:
        layers = self.config.layers or (self.lm.n_layers // 2,)
        return [self.lm.anatomy.resolve(Site(layer, self.config.kind)) for layer in layers]

    @property
    def recipe(self) -> Recipe:
        c = self.config
        return Recipe(
            d_sae=c.expansion * self.lm.d_model,
            architecture=c.architecture,
            k=c.k,
            l1=c.l1,
            vectors=c.vectors,
            batch=c.batch,
            lr=c.lr,
            dead_after=c.dead_after,
            seed=c.seed,
        )


def run(config: SaeTrainConfig, out: Path, *, device: str | None = None, ray: str | None = None) -> Path:
    """Run the whole question, or what is left of it, and write one run folder; returns it."""
    with RunFolder.open(out, "sae-train", config) as folder:
        if folder.status != "complete":
            lm = load(config.model, device=device)
            folder.write(
                "environment.json",
                environment(lm, dtype=str(lm.dtype)),
            )
            with progress() as start:
                workers = LocalWorker(lm) if ray is None else RayWorkers(ray, lm)
                study = Study(config, lm, workers, folder, start)
                study.recipe.check()
                folder.write("results.json", _results(study))
        write_report(folder.path)
    return folder.path


def _results(study: Study) -> dict[str, Any]:
    """Every step of the question, in turn; writes the dictionaries."""
    config = study.config
    rows, told = gather(
        config.text, study.lm, study.run, study.workers, study.start, context=config.context,
        max_new_tokens=config.max_new_tokens, chunk=config.chunk, seed=config.seed,
    )  # fmt: skip
    trained, held = held_out(rows)
    shards = _captured(study, trained, "activations")
    rest = _captured(study, held, "held_out")
    judged = up_to(held, config.judged_tokens)
    by_site = [_dictionary(study, site, shards, rest, trained, judged) for site in study.sites]
    return {
        "question": (__doc__ or "").splitlines()[0],
        "model": described(study.lm),
        "text": told,
        "rows": {"trained": len(trained), "held_out": len(held), "judged": len(judged)},
        "distinct_vectors": len(shards),
        "recipe": {**vars(study.recipe), "lr": study.recipe.learning_rate},
        "dictionaries": by_site,
        "headline": headline(study.lm.name, by_site),
    }


def _captured(study: Study, rows: Sequence[Row], name: str) -> ActivationShards:
    stage = study.start(f"capture: {name.replace('_', ' ')}", sum(len(row.tokens) for row in rows))
    return write_shards(
        study.lm,
        rows,
        study.sites,
        study.run.path / name,
        positions=TEXT,
        on_tokens=stage.token_rows,
    )


def _dictionary(
    study: Study,
    site: Site,
    shards: ActivationShards,
    rest: ActivationShards,
    trained: Sequence[Row],
    judged: Sequence[Row],
) -> dict[str, Any]:
    """Train one dictionary, judge it, and write what is kept with it."""
    folder = study.run.path / "dictionaries" / str(site)
    stage = study.start(f"train: {site}", study.recipe.steps * study.recipe.batch)

    def point(p: Point) -> None:
        unexplained = p.fvu if p.held_out_fvu is None else p.held_out_fvu
        told = f"loss {p.loss:.1f}, FVU {unexplained:.3f}, L0 {p.l0:.0f}, dead {p.dead_fraction:.0%}"
        stage.say(f"train: {site}, {told}")

    train_dictionary(
        shards,
        study.recipe,
        study.run.path / "training" / str(site),
        site=site,
        held_out=rest,
        device=study.lm.device,
        on_point=point,
        on_vectors=stage.token_rows,
    )
    dictionary = load_dictionary(study.run.path / "training" / str(site), study.lm, site=site)
    curve = json.loads((study.run.path / "training" / str(site) / "training.json").read_text())["curve"]
    dictionary = dictionary.to(study.lm.device).requires_grad_(False)
    stage = study.start(f"judge: {site}", 7)
    found = quality(study.lm, judged, dictionary, site=site, positions=TEXT, on_tokens=stage.tokens)
    stage.rows(6)
    activity = latent_activity(
        study.lm,
        up_to(trained, study.config.activity_tokens),
        dictionary,
        site=site,
        positions=TEXT,
        on_tokens=stage.tokens,
    )
    stage.rows()
    told = {
        "site": str(site),
        "curve": curve,
        "quality": _quality(found, study.config.seed),
        "density": [float(f"{d:.4g}") for d in activity.density.tolist()],
        "activity_tokens": activity.n_tokens,
        "never_active": float((activity.density == 0).float().mean()),
    }
    if not (folder / "cfg.json").exists():
        dictionary.origin = replace(
            dictionary.origin, metadata={**dictionary.origin.metadata, "quality": found.as_dict()}
        )
        folder.mkdir(parents=True, exist_ok=True)
        activity.save(folder)
        write_text(folder / "README.md", card(study.lm, site, study.recipe, study.config, told, len(shards)))
        save_dictionary(dictionary.cpu(), folder, dtype=getattr(torch, study.config.weights))
    return told


def _quality(found: Quality, seed: int) -> dict[str, Any]:
    """The numbers with their intervals over rows."""
    clean = found.clean_row_ce_nats
    kept = ~torch.isnan(clean)
    costs = {}
    for name in ("dictionary", "pca", "random", "mean"):
        of = getattr(found, name)
        increase = (of.row_ce_nats - clean)[kept].double().numpy()
        costs[name] = {
            "fvu": of.fvu,
            "recovered": of.recovered,
            "increase_nats": mean_interval(increase, seed=seed).as_dict(),
        }
    return {**found.as_dict(), "reconstructions": costs}


def headline(model: str, dictionaries: Sequence[dict[str, Any]]) -> str:
    """What the dictionaries keep, in one sentence each."""
    said = []
    for d in dictionaries:
        q = d["quality"]
        cost, pca = q["reconstructions"]["dictionary"], q["reconstructions"]["pca"]
        increase = cost["increase_nats"]
        said.append(
            f"At {d['site']} of {model} the dictionary leaves {cost['fvu']:.2f} of the variance unexplained "
            f"with {q['l0']:.0f} latents a token (PCA of as many directions {pca['fvu']:.2f}), and the model "
            f"loses {increase['estimate']:.2f} nats [{increase['low']:.2f}, {increase['high']:.2f}] on it "
            f"(n = {q['n_tokens']:,} held-out tokens); {d['never_active']:.0%} of its latents fire on none "
            f"of {d['activity_tokens']:,} tokens."
        )
    return " ".join(said)
