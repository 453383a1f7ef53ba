"""What does a latent of a dictionary stand for, and what does it do when it is set?

For each latent: how often and how strongly it fires, the texts in which it fires most, which next tokens
its direction favours, and what the model answers while it is held at its largest activation.

    unlatch sae-features --dictionary runs/sae/dictionaries/blocks.15.hook_resid_post --out runs/features

Logit effect: what the model's own final norm and unembedding make of the mean activation with the
latent's unit direction added, less what they make of the mean alone,

    unembed( m + s W_dec[j] / |W_dec[j]| ) - unembed( m ),    s = |m| / 10,

centred over the vocabulary. It is what the direction does if nothing after this layer reads it.

Sources: Bricken et al. 2023, "Towards Monosemanticity", for the texts; Bloom and Lin 2024, "Understanding
SAE features with the logit lens", for logit effects.
Differs from the sources: the norm is that at the mean activation, not left out; a random direction's
largest effect stands beside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.answers import Condition, Scores, answers
from analyses.configs import SaeFeaturesConfig
from analyses.dictionaries.chosen import chosen_dictionary
from analyses.dictionaries.corpus import TEXT, gather
from analyses.dictionaries.first_step import at_first_step
from analyses.progress import Stage, progress
from analyses.reports.features import write_report
from analyses.run_folder import RunFolder, described, environment
from analyses.tasks import Problem, load_problems
from analyses.workers import LocalWorker, RayWorkers, Workers
from hooks import LanguageModel, load
from hooks.errors import InputError
from hooks.positions import generated
from hooks.rows import Row
from hooks.sites import Site
from hooks.unembed import unembed
from interp.features import Ranking, differential
from interp.stats import mean_interval, paired_bootstrap
from saes import ClampLatents
from saes.activity import Activity, encoded, latent_activity
from saes.autoencoder import Autoencoder

TOKENS_SHOWN = 8
"""Next tokens shown at each end of the logit effect."""

AROUND = 24
"""Tokens shown before and after the one at which a latent fires most."""

N_DIRECTIONS = 20
"""Random directions whose largest logit effect is the yardstick."""


@dataclass(frozen=True)
class Study:
    """What every step needs."""

    config: SaeFeaturesConfig
    lm: LanguageModel
    dictionary: Autoencoder
    site: Site
    workers: Workers
    run: RunFolder
    problems: list[Problem]
    start: Callable[[str, int], Stage]


def run(config: SaeFeaturesConfig, out: Path, *, device: str | None = None, ray: str | None = None) -> Path:
    """Run the whole question, or what is left of it, and write one run folder; returns it."""
    problems = load_problems("word-problems", n=max(config.n_rank, config.n_steered), seed=config.seed)
    with RunFolder.open(out, "sae-features", config) as folder:
        if folder.status != "complete":
            lm = load(config.model, device=device)
            dictionary, site = chosen_dictionary(config.dictionary, lm, any_model=config.any_model)
            if unknown := [latent for latent in config.latents if not 0 <= latent < dictionary.d_sae]:
                raise InputError(
                    f"No latents {', '.join(map(str, unknown))}: {config.dictionary} has "
                    f"0..{dictionary.d_sae - 1}."
                )
            folder.write(
                "environment.json",
                environment(lm, dtype=str(lm.dtype)),
            )
            workers = LocalWorker(lm) if ray is None else RayWorkers(ray, lm)
            with progress() as start:
                study = Study(config, lm, dictionary, site, workers, folder, problems, start)
                folder.write("results.json", _results(study))
        write_report(folder.path)
    return folder.path


def _results(study: Study) -> dict[str, Any]:
    """Every step of the question, in turn."""
    config = study.config
    rows, _ = gather(
        config.text, study.lm, study.run, study.workers, study.start, context=config.context,
        max_new_tokens=config.max_new_tokens, chunk=config.chunk, seed=config.seed,
    )  # fmt: skip
    stage = study.start("activity", sum(len(row.tokens) for row in rows))
    activity = latent_activity(
        study.lm,
        rows,
        study.dictionary,
        positions=TEXT,
        top=config.n_texts,
        any_model=config.any_model,
        on_tokens=stage.token_rows,
    )
    latents, ranking = _latents(study, activity)
    effects, yardstick = _logit_effects(study, latents)
    steered = _steered(study, latents, activity)
    id_of = study.dictionary.origin.metadata.get("neuronpedia_id")
    features = [
        {
            "latent": latent,
            "density": float(activity.density[latent]),
            "max_activation": float(activity.max_activation[latent]),
            "differential": None if ranking is None else float(ranking.score[latent]),
            "texts": _texts(study, rows, activity, latent),
            "logits": effects[place],
            "steered": steered[place],
            "neuronpedia": f"https://www.neuronpedia.org/{id_of}/{latent}" if id_of else None,
        }
        for place, latent in enumerate(latents)
    ]
    return {
        "question": (__doc__ or "").splitlines()[0],
        "model": described(study.lm),
        "dictionary": {
            "name": config.dictionary,
            "site": str(study.site),
            "d_sae": study.dictionary.d_sae,
            "alive": int(activity.alive.sum()),
            "l0": activity.l0,
        },
        "text": list(config.text),
        "n": {"tokens": activity.n_tokens, "rows": len(rows), "steered": config.n_steered},
        "chosen_by": "you" if config.latents else "differential",
        "random_direction_logit": yardstick,
        "budget_tokens": config.max_new_tokens,
        "features": features,
        "headline": _headline(study, activity, features),
    }


def _latents(study: Study, activity: Activity) -> tuple[list[int], Ranking | None]:
    """Those that were asked for, or those that a prompt for steps raises most over one for the answer."""
    config = study.config
    if config.latents:
        return list(config.latents), None
    ranked = study.problems[: config.n_rank]
    cot, direct = (
        study.dictionary.encode(at_first_step(study.lm, study.site, ranked, suffix, think=config.think))
        for suffix in (config.cot_prompt, config.direct_prompt)
    )
    ranking = differential(cot, direct)
    return ranking.top(config.n_latents, activity.alive), ranking


def _texts(study: Study, rows: Sequence[Row], activity: Activity, latent: int) -> list[dict[str, Any]]:
    """The top activating texts, with the latent at every token around the largest."""
    found = []
    for place in range(len(activity.top_row)):
        number = int(activity.top_row[place, latent])
        if number < 0:
            break
        row, peak = rows[number], int(activity.top_position[place, latent])
        begin, end = max(0, peak - AROUND), min(len(row.tokens), peak + AROUND + 1)
        values = [0.0] * len(row.tokens)
        for part in encoded(
            study.lm, [row], study.dictionary, positions=TEXT, any_model=study.config.any_model
        ):
            for position, value in zip(part.position.tolist(), part.z[:, latent].tolist(), strict=True):
                values[position] = value
        pieces = [str(study.lm.tokenizer.decode([token])) for token in row.tokens[begin:end]]
        found.append(
            {"tokens": pieces, "values": [float(f"{v:.4g}") for v in values[begin:end]], "peak": peak - begin}
        )
    return found


@torch.no_grad()
def _logit_effects(study: Study, latents: Sequence[int]) -> tuple[list[dict[str, Any]], float]:
    """The next tokens that each direction favours and disfavours; and a random direction's largest effect."""
    lm = study.lm
    ranked = study.problems[: study.config.n_rank]
    mean = at_first_step(lm, study.site, ranked, think=study.config.think).mean(0).cpu()
    scale = float(mean.norm()) / 10
    directions = torch.stack([study.dictionary.direction(latent).cpu() for latent in latents])
    draws = torch.randn(N_DIRECTIONS, lm.d_model, generator=torch.Generator().manual_seed(study.config.seed))
    random = torch.nn.functional.normalize(draws, dim=-1)
    base = _logits(lm, mean[None])
    effect = _logits(lm, mean + scale * directions) - base
    yardstick = _logits(lm, mean + scale * random) - base
    effect = effect - effect.mean(-1, keepdim=True)
    yardstick = yardstick - yardstick.mean(-1, keepdim=True)
    told = []
    for row in effect:
        ends = {}
        for name, sign in (("up", 1), ("down", -1)):
            top = (sign * row).topk(TOKENS_SHOWN)
            ends[name] = [
                {"token": str(lm.tokenizer.decode([int(i)])), "logit": sign * float(v)}
                for v, i in zip(top.values, top.indices, strict=True)
            ]
        told.append(ends)
    return told, float(yardstick.amax(-1).mean())


def _logits(lm: LanguageModel, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    return unembed(lm, resid[None].to(lm.device, lm.dtype))[0].float().cpu()


def _steered(study: Study, latents: Sequence[int], activity: Activity) -> list[dict[str, Any]]:
    """What the model answers while the latent is held at its largest activation."""
    config = study.config
    problems = study.problems[: config.n_steered]
    conditions = [Condition("plain")] + [
        Condition(
            f"latent:{latent}",
            (
                ClampLatents(
                    study.site,
                    study.dictionary,
                    {latent: float(activity.max_activation[latent])},
                    generated,
                    any_model=config.any_model,
                ),
            ),
        )
        for latent in latents
    ]
    (scores,) = answers(
        study.run,
        study.workers,
        [(conditions, problems)],
        max_new_tokens=config.max_new_tokens,
        think=config.think,
        chunk=config.chunk,
        stage=study.start("steered", len(conditions) * len(problems)),
    )
    return [_effect(study, f"latent:{latent}", scores, problems) for latent in latents]


def _effect(
    study: Study, name: str, scores: dict[str, Scores], problems: Sequence[Problem]
) -> dict[str, Any]:
    mine, plain, seed = scores[name], scores["plain"], study.config.seed
    said = [str(study.run.get(name, p.id)["text"]) for p in problems]
    before = [str(study.run.get("plain", p.id)["text"]) for p in problems]
    return {
        "n": len(problems),
        "tokens": mean_interval(mine.tokens, seed=seed).as_dict(),
        "tokens_difference": paired_bootstrap(mine.tokens, plain.tokens, seed=seed).as_dict(),
        "accuracy_difference": paired_bootstrap(mine.correct, plain.correct, seed=seed).as_dict(),
        "repetition": float(mine.repetition.mean()),
        "changed": float(np.mean([a != b for a, b in zip(said, before, strict=True)])),
        "problem": problems[0].prompt,
        "plain": before[0],
        "text": said[0],
    }


def _headline(study: Study, activity: Activity, features: Sequence[dict[str, Any]]) -> str:
    alive = int(activity.alive.sum())
    changed = sum(feature["steered"]["tokens_difference"]["low"] > 0 for feature in features)
    shorter = sum(feature["steered"]["tokens_difference"]["high"] < 0 for feature in features)
    return (
        f"{alive:,} of {study.dictionary.d_sae:,} latents at {study.site} of {study.lm.name} fire on "
        f"{activity.n_tokens:,} tokens. Held at their largest activation, {changed} of these "
        f"{len(features)} make answers longer and {shorter} make them shorter "
        f"(n = {study.config.n_steered} problems each)."
    )
