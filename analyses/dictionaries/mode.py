"""Is there a feature that switches reasoning on, when it is set for one step?

1. Rank latents on fit problems, at the token that produces the first word of the response: how much more
   active are they when the prompt asks for steps than when it asks for the answer alone?
2. Try the candidates on select problems: the direct prompt, with one latent raised at that one token.
3. Confirm the one that was chosen on problems that chose nothing: both prompts with and without the edit;
   the latent held at zero under the prompt for steps; random latents as frequent and as large; the dense
   contrast vector at the same layer, step and norm; and an instruction not to think.

    unlatch mode --model smollm2-135m-instruct --out runs/mode

A *mode feature* is claimed only if raising it makes responses show steps more often than raising random
latents does, and holding it at zero makes them rarer where the prompt asks for steps; both intervals
without zero, on the confirm problems.

Source: He et al. 2026, arXiv:2601.08058, "Reasoning Beyond Chain-of-Thought".
Differs from the source: the latent is chosen on other problems than those that score it; the strength is
a multiple of the latent's largest activation and the same for all prompts; random latents are matched,
and there is a dense control; the outcome is whether steps are shown, with accuracy at equal length beside
it, since a prompt that forbids steps can be undone without any gain in thought.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from analyses.answers import Block, Condition, Scores, answers
from analyses.configs import ModeConfig
from analyses.dictionaries.chosen import chosen_dictionary, folder_of
from analyses.dictionaries.corpus import TEXT, up_to
from analyses.dictionaries.first_step import at_first_step
from analyses.progress import Stage, progress
from analyses.reports.mode import write_report
from analyses.run_folder import RunFolder, described, environment
from analyses.steps import at_equal_length, shows_step
from analyses.tasks import Problem, load_problems
from analyses.tasks.problem import Split, by_split
from analyses.wording import points
from analyses.workers import LocalWorker, RayWorkers, Workers
from hooks import Add, LanguageModel, load
from hooks.chat import response_row
from hooks.edits import Edit
from hooks.errors import InputError
from hooks.positions import generated, response, step
from hooks.rows import Row
from hooks.sites import Site
from interp.features import (
    Ranking,
    ReasonScore,
    auroc,
    decoder_cosine,
    differential,
    matched_random,
    reason_score,
    stability,
)
from interp.stats import (
    mcnemar,
    mean_interval,
    minimum_detectable_difference,
    paired_bootstrap,
    permutation_p,
    wilson,
)
from saes import ScaleLatents, ShiftPreactivations
from saes.activity import LATENTS, Activity, latent_activity
from saes.autoencoder import Autoencoder

ONE_STEP = step(0)
SHOWN = 12
"""Latents in the table of ranks."""

N_SHUFFLED = 20
"""Runs of the selectors with the prompts of each problem in an order of chance."""

ALLOWED_REPETITION = 0.1
"""More repeated 4-grams than the prompts alone give, with which a candidate may still be chosen."""


@dataclass(frozen=True)
class Study:
    """What every step needs."""

    config: ModeConfig
    lm: LanguageModel
    dictionary: Autoencoder
    site: Site
    workers: Workers
    run: RunFolder
    fit: list[Problem]
    select: list[Problem]
    confirm: list[Problem]
    start: Callable[[str, int], Stage]

    def answers(self, what: str, *blocks: Block) -> list[dict[str, Scores]]:
        return answers(
            self.run,
            self.workers,
            blocks,
            max_new_tokens=self.config.max_new_tokens,
            think=self.config.think,
            chunk=self.config.chunk,
            stage=self.start(what, sum(len(conditions) * len(problems) for conditions, problems in blocks)),
        )

    def direct(self, name: str, *edits: Edit) -> Condition:
        return Condition(name, edits, f"\n\n{self.config.direct_prompt}")

    def cot(self, name: str, *edits: Edit) -> Condition:
        return Condition(name, edits, f"\n\n{self.config.cot_prompt}")

    def override(self, name: str, *edits: Edit) -> Condition:
        return Condition(name, edits, f"\n\n{self.config.override_prompt}")

    def texts(self, condition: str, problems: Sequence[Problem]) -> list[str]:
        return [str(self.run.get(condition, problem.id)["text"]) for problem in problems]

    def stepped(self, condition: str, problems: Sequence[Problem]) -> Bool[np.ndarray, " problem"]:
        """Which responses show an intermediate step."""
        return np.array([shows_step(text) for text in self.texts(condition, problems)], dtype=bool)

    def raised(self, latent: int, value: float) -> Edit:
        """The latent raised at the token that produces the first of the response."""
        return ShiftPreactivations(
            self.site, self.dictionary, {latent: value}, ONE_STEP, any_model=self.config.any_model
        )

    @cached_property
    def first_step(self) -> tuple[Tensor, Tensor]:
        """The activations of the fit problems where the response begins: asked for steps, and not."""
        cot, direct = (
            at_first_step(self.lm, self.site, self.fit, suffix, think=self.config.think)
            for suffix in (self.config.cot_prompt, self.config.direct_prompt)
        )
        return cot, direct


def run(config: ModeConfig, out: Path, *, device: str | None = None, ray: str | None = None) -> Path:
    """Run the whole question, or what is left of it, and write one run folder; returns it."""
    fit, select, confirm = _problems(config)
    with RunFolder.open(out, "mode", config) as folder:
        if folder.status != "complete":
            lm = load(config.model, device=device)
            dictionary, site = chosen_dictionary(config.dictionary, lm, any_model=config.any_model)
            folder.write(
                "environment.json",
                environment(lm, dtype=str(lm.dtype)),
            )
            workers = LocalWorker(lm) if ray is None else RayWorkers(ray, lm)
            with progress() as start:
                study = Study(config, lm, dictionary, site, workers, folder, fit, select, confirm, start)
                folder.write("results.json", _results(study))
        write_report(folder.path)
    return folder.path


def _problems(config: ModeConfig) -> tuple[list[Problem], list[Problem], list[Problem]]:
    problems = load_problems(
        config.tasks,
        n=None,
        seed=config.seed,
        prompt_field=config.prompt_field,
        answer_field=config.answer_field,
    )
    split = by_split(problems)
    chosen = []
    names: tuple[tuple[Split, int], ...] = (
        ("fit", config.n_fit), ("select", config.n_select), ("confirm", config.n_confirm),
    )  # fmt: skip
    for name, n in names:
        of_split = split[name]
        if not 2 <= n <= len(of_split):
            raise InputError(
                f"{config.tasks} has {len(problems)} problems, {len(of_split)} of them in the {name} split; "
                f"{n} were asked for. Pass --n-{name} of 2 to {len(of_split)}, or more problems."
            )
        chosen.append(of_split[:n])
    if config.n_random_problems > config.n_confirm:
        raise InputError(
            f"n_random_problems={config.n_random_problems} are the first of n_confirm={config.n_confirm}; "
            "pass as many at most."
        )
    return chosen[0], chosen[1], chosen[2]


def _results(study: Study) -> dict[str, Any]:
    """Every step of the question, in turn."""
    config = study.config
    activity, fit_scores = _fitted(study)
    rankings, ranks, reason = _ranked(study, activity)
    chosen = _chosen(study, rankings, activity)
    latent, value = int(chosen["latent"]), float(chosen["value"])
    tried = sorted({int(row["latent"]) for row in chosen["table"]})
    confirmed = _confirmed(study, latent, value, activity, tried)
    results = {
        "question": (__doc__ or "").splitlines()[0],
        "model": described(study.lm),
        "dictionary": {
            "name": config.dictionary,
            "site": str(study.site),
            "d_sae": study.dictionary.d_sae,
            "architecture": type(study.dictionary).__name__,
            "alive": int((activity.density > config.min_density).sum()),
            "activity_tokens": activity.n_tokens,
        },
        "n": {"fit": len(study.fit), "select": len(study.select), "confirm": len(study.confirm)},
        "tasks": config.tasks,
        "prompts": {
            "direct": config.direct_prompt,
            "cot": config.cot_prompt,
            "override": config.override_prompt,
        },
        "budget_tokens": config.max_new_tokens,
        "fit": fit_scores,
        "ranks": ranks,
        "reason_score": reason,
        "select": chosen,
        **confirmed,
    }
    return {**results, "headline": headline(results)}


def _fitted(study: Study) -> tuple[Activity, dict[str, Any]]:
    """How active latents are, and the model's own answers to the fit problems under both prompts."""
    both = [study.direct("direct"), study.cot("cot")]
    (scores,) = study.answers("fit", (both, study.fit))
    told = {
        name: _outcome(mine, study.stepped(name, study.fit), study.config.seed)
        for name, mine in scores.items()
    }
    folder = folder_of(study.config.dictionary)
    if (folder / LATENTS).exists():
        return Activity.load(folder, study.dictionary.d_sae), told
    rows = up_to(_responses(study), study.config.activity_tokens)
    stage = study.start("activity", len(rows))
    activity = latent_activity(
        study.lm,
        rows,
        study.dictionary,
        positions=TEXT,
        any_model=study.config.any_model,
        on_tokens=stage.tokens,
    )
    stage.rows(len(rows))
    return activity, told


def _responses(study: Study) -> list[Row]:
    """The model's own answers to the fit problems, those that ask for steps and those that do not in turn."""
    rows = []
    for problem in study.fit:
        for condition in (study.cot("cot"), study.direct("direct")):
            text = str(study.run.get(condition.name, problem.id)["text"])
            if text.strip():
                prompt = problem.prompt + condition.suffix
                rows.append(response_row(study.lm.tokenizer, prompt, text, think=study.config.think))
    return rows


# Ranking


def _ranked(study: Study, activity: Activity) -> tuple[dict[str, Ranking], dict[str, Any], dict[str, Any]]:
    """Every latent by every selector, on the fit problems."""
    config = study.config
    alive = activity.density > config.min_density
    cot, direct = study.first_step
    with torch.no_grad():
        z_cot, z_direct = study.dictionary.encode(cot), study.dictionary.encode(direct)
    rankings = {
        "differential": differential(z_cot, z_direct),
        "auroc": auroc(z_cot, z_direct),
        "decoder_cosine": decoder_cosine(study.dictionary, cot, direct),
    }
    reason, told = _reason(study)
    if reason is not None:
        rankings["reason_score"] = reason.ranking
    main = rankings["differential"]
    stable = stability(
        differential, z_cot, z_direct, config.n_candidates, alive=alive,
        n_resamples=config.n_resamples, seed=config.seed,
    )  # fmt: skip
    q = {name: ranking.q_value(alive) for name, ranking in rankings.items()}
    shuffled = _shuffled(study, z_cot, z_direct, alive)
    table = [
        {
            "latent": latent,
            "activation": {
                "cot": float(z_cot[:, latent].mean()),
                "direct": float(z_direct[:, latent].mean()),
            },
            "density": float(activity.density[latent]),
            "max_activation": float(activity.max_activation[latent]),
            "stability": float(stable[latent]),
            "scores": {name: float(r.score[latent]) for name, r in rankings.items()},
            "ranks": {name: r.rank_of(latent) for name, r in rankings.items()},
            "q": {name: float(values[latent]) for name, values in q.items()},
        }
        for latent in main.top(SHOWN, alive)
    ]
    ranks = {
        "n": main.n,
        "table": table,
        "reported": {name: int((values < config.fdr).sum()) for name, values in q.items()},
        "shuffled": shuffled,
        "fdr": config.fdr,
    }
    return rankings, ranks, told


def _shuffled(study: Study, a: Tensor, b: Tensor, alive: Bool[Tensor, " d_sae"]) -> dict[str, dict[str, Any]]:
    """How many latents each selector reports where a coin has swapped the two prompts of every problem."""
    coin = torch.Generator().manual_seed(study.config.seed)
    x, y = study.first_step
    found: dict[str, list[int]] = {"differential": [], "auroc": [], "decoder_cosine": []}
    for _ in range(N_SHUFFLED):
        swap = (torch.rand(len(a), 1, generator=coin) < 0.5).to(a.device)
        one, two = torch.where(swap, b, a), torch.where(swap, a, b)
        rankings = (
            differential(one, two),
            auroc(one, two),
            decoder_cosine(study.dictionary, torch.where(swap, y, x), torch.where(swap, x, y)),
        )
        for ranking in rankings:
            found[ranking.selector].append(int((ranking.q_value(alive) < study.config.fdr).sum()))
    return {
        name: {"n": N_SHUFFLED, "share_with_any": float(np.mean(np.array(counts) > 0)), "most": max(counts)}
        for name, counts in found.items()
    }


def _reason(study: Study) -> tuple[ReasonScore | None, dict[str, Any]]:
    """ReasonScore over the model's own answers; or why there is none."""
    rows = _responses(study)
    stage = study.start("reason score", len(rows))
    try:
        found = reason_score(
            study.lm,
            rows,
            study.dictionary,
            positions=response,
            any_model=study.config.any_model,
            seed=study.config.seed,
            on_tokens=stage.tokens,
        )
    except InputError as error:  # these words are not every model's
        return None, {"why": str(error)}
    stage.rows(len(rows))
    best = found.ranking.top(1)[0]
    return found, {
        "vocabulary": found.vocabulary,
        "occurrences": found.occurrences,
        "texts": found.ranking.n,
        "best": best,
        "score": float(found.ranking.score[best]),
        "control": [float(score.max()) for score in found.control],
    }


# Choosing


def _candidates(study: Study, rankings: Mapping[str, Ranking], activity: Activity) -> dict[int, list[str]]:
    """The latents that are tried, and which selectors propose each."""
    alive = activity.density > study.config.min_density
    proposed: dict[int, list[str]] = {}
    for name, ranking in rankings.items():
        n = study.config.n_candidates
        for latent in ranking.top(n if name == "differential" else max(1, n // 3), alive):
            if ranking.score[latent] > 0:  # of a score that no latent has, the first is no candidate
                proposed.setdefault(latent, []).append(name)
    return proposed


def _chosen(study: Study, rankings: Mapping[str, Ranking], activity: Activity) -> dict[str, Any]:
    """Every candidate at every strength on the select problems, and the one that shows most steps."""
    proposed = _candidates(study, rankings, activity)
    tried = {
        f"latent:{latent}:{strength:g}": (latent, strength)
        for latent in proposed
        for strength in study.config.strengths
    }
    values = {name: s * float(activity.max_activation[latent]) for name, (latent, s) in tried.items()}
    conditions = [
        study.direct("direct"),
        study.cot("cot"),
        *(study.direct(name, study.raised(latent, values[name])) for name, (latent, _) in tried.items()),
    ]
    (scores,) = study.answers("select", (conditions, study.select))
    base, seed = scores["direct"], study.config.seed
    stepped = {name: study.stepped(name, study.select) for name in scores}
    limit = max(base.repetition.mean(), scores["cot"].repetition.mean()) + ALLOWED_REPETITION
    rows = []
    for name, (latent, strength) in tried.items():
        mine = scores[name]
        rows.append(
            {
                "latent": latent,
                "strength": strength,
                "value": values[name],
                "selectors": proposed[latent],
                **_outcome(mine, stepped[name], seed),
                "difference": paired_bootstrap(stepped[name], stepped["direct"], seed=seed).as_dict(),
                "usable": bool(mine.repetition.mean() <= limit and not mine.failed.any()),
            }
        )
    usable = [row for row in rows if row["usable"]] or rows
    best = max(usable, key=lambda row: (row["steps"]["estimate"], row["accuracy"]["estimate"]))
    return {
        "table": rows,
        "direct": _outcome(base, stepped["direct"], seed),
        "cot": _outcome(scores["cot"], stepped["cot"], seed),
        "latent": best["latent"],
        "strength": best["strength"],
        "value": best["value"],
        "rule": "the candidate with the largest share of responses that show a step, among those that repeat "
        f"themselves at most {ALLOWED_REPETITION:.0%} more than the prompts do",
    }


# Confirming


def _confirmed(
    study: Study, latent: int, value: float, activity: Activity, tried: Sequence[int]
) -> dict[str, Any]:
    """All conditions on problems that chose nothing; none of the latents that were tried is a random one."""
    config, problems = study.config, study.confirm
    edit = study.raised(latent, value)
    dense, size = _dense(study, edit)
    zero = ScaleLatents(study.site, study.dictionary, {latent: 0.0}, generated, any_model=config.any_model)
    main = [
        study.direct("direct"),
        study.direct("direct+feature", edit),
        study.direct("direct+dense", dense),
        study.cot("cot"),
        study.cot("cot+feature", edit),
        study.cot("cot+suppressed", zero),
        study.override("override"),
        study.override("override+feature", edit),
    ]
    others = matched_random(
        study.dictionary, activity, latent, config.n_random, exclude=tried, seed=config.seed
    )
    norm = study.dictionary.W_dec.norm(dim=-1)
    randoms = [
        study.direct(f"random:{other}", study.raised(other, value * float(norm[latent] / norm[other])))
        for other in others
    ]
    some = problems[: config.n_random_problems]
    scores, drawn = study.answers("confirm", (main, problems), (randoms, some))
    stepped = {name: study.stepped(name, problems) for name in scores}
    random = np.stack([study.stepped(name, some) for name in drawn]).astype(float)
    seed, n = config.seed, len(some)
    mine = stepped["direct+feature"][:n].astype(float)
    contrasts = {
        "raised": paired_bootstrap(stepped["direct+feature"], stepped["direct"], seed=seed),
        "raised_over_random": paired_bootstrap(mine, random.mean(0), seed=seed),
        "suppressed": paired_bootstrap(stepped["cot+suppressed"], stepped["cot"], seed=seed),
        "dense": paired_bootstrap(stepped["direct+dense"], stepped["direct"], seed=seed),
        "raised_over_dense": paired_bootstrap(stepped["direct+feature"], stepped["direct+dense"], seed=seed),
        "overridden": paired_bootstrap(stepped["override+feature"], stepped["override"], seed=seed),
    }
    shares = random.mean(1)
    return {
        "edit": {"latent": latent, "value": value, "norm": size},
        "conditions": {
            name: _condition(study, name, of, stepped[name], scores) for name, of in scores.items()
        },
        "random": {
            "latents": others,
            "n": n,
            "steps": [float(share) for share in shares],
            "accuracy": [float(of.correct.mean()) for of in drawn.values()],
            "mean": mean_interval(shares, seed=seed).as_dict(),
            "feature": float(mine.mean()),
            "p": permutation_p(float(mine.mean()), shares),
        },
        "contrasts": {name: interval.as_dict() for name, interval in contrasts.items()},
        "is_mode_feature": contrasts["raised_over_random"].low > 0 and contrasts["suppressed"].high < 0,
        "power": {
            "steps_points": minimum_detectable_difference(
                len(problems), p=float(np.clip(stepped["direct"].mean(), 0.02, 0.98))
            ),
            "power": 0.8,
            "n": len(problems),
        },
        "examples": _examples(study, [c.name for c in main]),
    }


def _dense(study: Study, edit: Edit) -> tuple[Add, float]:
    """The contrast vector of the two prompts, as long as what the edit writes on the direct ones."""
    cot, direct = study.first_step
    position = torch.zeros(len(direct), 1, dtype=torch.long, device=direct.device)
    parameters = [p[None].to(direct.device) for p in edit.parameters()]
    with torch.no_grad():
        written = edit.apply(direct[:, None], position, *parameters) - direct[:, None]
    size = float(written.norm(dim=-1).mean())
    vector = (cot - direct).mean(0)
    return Add(study.site, vector / vector.norm(), size, ONE_STEP), size


def _condition(
    study: Study,
    name: str,
    mine: Scores,
    stepped: Bool[np.ndarray, " problem"],
    scores: Mapping[str, Scores],
) -> dict[str, Any]:
    """One row of the table: rates with their intervals, and what changed against the same prompt alone."""
    base_name = name.split("+")[0]
    base = scores[base_name]
    told = _outcome(mine, stepped, study.config.seed)
    if name == base_name:
        return told
    alike, share = at_equal_length(
        mine.correct, mine.tokens, base.correct, base.tokens, seed=study.config.seed
    )
    changed = [
        study.run.get(name, p.id)["first_token"] != study.run.get(base_name, p.id)["first_token"]
        for p in study.confirm
    ]
    return {
        **told,
        "accuracy_difference": paired_bootstrap(mine.correct, base.correct, seed=study.config.seed).as_dict(),
        "mcnemar_p": mcnemar(mine.correct, base.correct).p_value,
        "equal_length": None if alike is None else alike.as_dict(),
        "equal_length_share": share,
        "first_token_changed": wilson(sum(changed), len(changed)).as_dict(),
    }


def _outcome(mine: Scores, stepped: Bool[np.ndarray, " problem"], seed: int) -> dict[str, Any]:
    n = len(mine.tokens)
    return {
        "n": n,
        "steps": wilson(int(stepped.sum()), n).as_dict(),
        "accuracy": wilson(int(mine.correct.sum()), n).as_dict(),
        "tokens": mean_interval(mine.tokens, seed=seed).as_dict(),
        "truncated": float(mine.truncated.mean()),
        "repetition": float(mine.repetition.mean()),
        "failed": int(mine.failed.sum()),
    }


def _examples(study: Study, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "problem": problem.prompt,
            "answer": problem.answer,
            "said": {
                name: {key: study.run.get(name, problem.id)[key] for key in ("text", "tokens", "correct")}
                for name in names
            },
        }
        for problem in study.confirm[:4]
    ]


def headline(results: Mapping[str, Any]) -> str:
    """What was found, in two or three sentences; a mode feature only where both tests allow it."""
    contrasts, found = results["contrasts"], results["conditions"]
    latent, site = results["edit"]["latent"], results["dictionary"]["site"]
    n, random = results["n"]["confirm"], results["random"]
    raised = (
        f"Raised for one step under the direct prompt, latent {latent} of {site} takes the share of "
        f"responses that show a step from {found['direct']['steps']['estimate']:.0%} to "
        f"{found['direct+feature']['steps']['estimate']:.0%} ({points(contrasts['raised'])}, n = {n}); over "
        f"{len(random['latents'])} matched random latents "
        f"{points(contrasts['raised_over_random'])} (n = {random['n']})."
    )
    zero = (
        f"Held at zero under the prompt for steps it changes the share by {points(contrasts['suppressed'])}."
    )
    dense = f"The dense vector of the same norm: {points(contrasts['dense'])}."
    if results["is_mode_feature"]:
        return f"A mode feature: {raised} {zero} {dense}"
    power = results["power"]["steps_points"]
    return (
        f"No mode feature was found in {results['model']['name']} by this dictionary. {raised} {zero} "
        f"{dense} A change of {100 * power:.0f} points would have been seen with power "
        f"{results['power']['power']}."
    )
