"""Is verbosity one direction, and what does it cost to turn it down?

1. Estimate the vector, brief minus long, at every layer from contrast pairs that score nothing:
   worked solutions, the model's own answers with and without a prompt to be brief, or a file.
2. Find at each layer the dose with the same measured KL, answer select problems there, and choose
   the layer that cuts the most tokens without losing problems.
3. Bound the KL of a dose at that layer, measure it at held-out states, and walk a frontier of doses
   on the select problems; recommend the one that cuts most within the accuracy tolerance.
4. Test the sign: dose up and dose down must move length in opposite ways.
5. On confirm problems, which chose nothing: the unedited model, the vector, the vector of shuffled
   labels, minus the vector, the prompt that asks for the same, and random directions of equal norm.

    unlatch verbosity --model smollm2-135m-instruct --out runs/brief

Sources: Azizi et al. 2025 (ASC), arXiv:2507.04742, for the question and the KL cap; Rimsky et al.
2024 (CAA), arXiv:2312.06681, for the vector.
Differs from the sources: layer and dose are chosen on problems that do not score them; every effect
stands beside random, shuffled and prompt controls at the same budget.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analyses.answers import Block, Condition, Scores, answers
from analyses.configs import VerbosityConfig
from analyses.pairs import POLES, builtin_pairs, load_pairs
from analyses.progress import Stage, progress
from analyses.reports.verbosity import write_report
from analyses.run_folder import RunFolder, described, environment
from analyses.tasks import Problem, load_problems, split_of
from analyses.wording import points
from analyses.workers import LocalWorker, RayWorkers, Workers
from hooks import LanguageModel, load
from hooks.chat import prompt_row, response_row
from hooks.errors import InputError
from hooks.positions import parse_positions
from hooks.rows import Row
from interp.contrast import contrasts
from interp.controls import random_directions
from interp.dose import LastTokens, doses_for_kl, kl_cap, kl_throughout, measure_kl
from interp.pairs import Pair
from interp.stats import (
    band,
    benjamini_hochberg,
    mcnemar,
    mean_interval,
    minimum_detectable_difference,
    minimum_detectable_effect,
    paired_bootstrap,
    permutation_p,
    permutation_test,
    ratio_bootstrap,
    wilson,
)
from interp.steering_vector import Recommendation, SignTest, SteeringVector

PAIRS_OF = {"worked": "worked solutions of", "own": "the model's own answers to"}
KL_RESPONSES = 4
"""Confirm responses along which the KL of a whole steered response is measured."""


@dataclass(frozen=True)
class Study:
    """What every step needs."""

    config: VerbosityConfig
    lm: LanguageModel
    workers: Workers
    run: RunFolder
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

    def scores(self, condition: str, problems: Sequence[Problem]) -> Scores:
        """Of problems that have been answered under a condition."""
        return Scores.of([self.run.get(condition, problem.id) for problem in problems])

    def text(self, condition: str, problem: Problem) -> str:
        return str(self.run.get(condition, problem.id)["text"])


def run(
    config: VerbosityConfig,
    out: Path,
    *,
    device: str | None = None,
    ray: str | None = None,
) -> Path:
    """Run the whole question, or what is left of it, and write one run folder; returns it."""
    pairs, asked, select, confirm = _material(config)
    with RunFolder.open(out, "verbosity", config) as folder:
        if folder.status != "complete":
            lm = load(config.model, device=device)
            folder.write(
                "environment.json",
                environment(lm, dtype=str(lm.dtype)),
            )
            workers = LocalWorker(lm) if ray is None else RayWorkers(ray, lm)
            with progress() as start:
                study = Study(config, lm, workers, folder, select, confirm, start)
                folder.write("results.json", _results(study, pairs, asked))
        write_report(folder.path)
    return folder.path


def _results(study: Study, pairs: list[Pair], asked: Sequence[Problem]) -> dict[str, Any]:
    """Every step of the question, in turn; writes the vectors."""
    config, lm = study.config, study.lm
    layers = _layers(config, lm)
    plain, pairs = _plain(study, pairs, asked)
    vector, nothing = _vectors(study, pairs)
    seen, held = _states(study)
    by_layer = _compare_layers(study, vector, layers, seen, plain)
    layer = int(by_layer["chosen"])
    doses = _frontier(study, vector, layer, seen, held, plain)
    dose = float(doses["chosen"])
    sign, conditions = _confirm(study, vector, nothing, layer, dose, plain)
    vector = replace(
        vector,
        recommended=Recommendation(layer, dose, f"{by_layer['rule']}; {doses['rule']}"),
        sign_test=sign,
    )
    study.run.save("verbosity.safetensors", vector)
    results = {
        "question": (__doc__ or "").splitlines()[0],
        "model": described(lm),
        "n": {"pairs": len(pairs), "select": len(study.select), "confirm": len(study.confirm)},
        "pairs_of": config.pairs or f"{PAIRS_OF[config.pair_answers]} {config.pair_tasks}",
        "tasks": config.tasks,
        "budget_tokens": config.max_new_tokens,
        "brief_prompt": config.brief_prompt,
        "reliability": [
            {"layer": i, **vector.reliability[i].as_dict(), **vector.length_control[i]} for i in vector.layers
        ],
        "layers": by_layer,
        "doses": doses,
        "sign_test": {**asdict(sign), "passed": sign.passed},
        **conditions,
    }
    return {**results, "headline": headline(results)}


def _material(
    config: VerbosityConfig,
) -> tuple[list[Pair], list[Problem], list[Problem], list[Problem]]:
    """Pairs, or problems whose answers will make them; select and confirm problems; none in two of them."""
    problems = load_problems(
        config.tasks,
        n=None,
        seed=config.seed,
        prompt_field=config.prompt_field,
        answer_field=config.answer_field,
    )
    split: dict[str, list[Problem]] = {"fit": [], "select": [], "confirm": []}
    for problem in problems:
        split[split_of(problem)].append(problem)
    for name, n in (("select", config.n_select), ("confirm", config.n_confirm)):
        if len(split[name]) < n:
            raise InputError(
                f"{config.tasks} has {len(problems)} problems, {len(split[name])} of them in the {name} "
                f"split; {n} were asked for. Pass --n-{name} {len(split[name])} or fewer, or more problems."
            )
    pairs: list[Pair] = []
    asked: list[Problem] = []
    if config.pairs is not None:
        pairs = load_pairs(config.pairs)[: config.n_pairs]
    else:
        used = {problem.prompt for problem in [*split["select"], *split["confirm"]]}
        free = [p for p in load_problems(config.pair_tasks, seed=config.seed) if p.prompt not in used]
        if config.pair_answers == "worked":
            pairs = builtin_pairs("verbosity", free, config.n_pairs, config.seed)
        elif len(free) < config.n_pairs:
            raise InputError(
                f"{config.pair_tasks} has {len(free)} problems that choose and score nothing, and "
                f"{config.n_pairs} pairs were asked for. Pass --n-pairs {len(free)} or fewer."
            )
        asked = free[: config.n_pairs]
    return pairs, asked, split["select"][: config.n_select], split["confirm"][: config.n_confirm]


def _plain(study: Study, pairs: list[Pair], asked: Sequence[Problem]) -> tuple[Scores, list[Pair]]:
    """The unedited model on the select problems; and the pairs, where its own answers make them."""
    select: Block = [Condition("plain")], study.select
    if pairs:
        return study.answers("plain", select)[0]["plain"], pairs
    brief = Condition("pair", suffix=f"\n\n{study.config.pair_prompt}")
    made, plain = study.answers("pairs", ([Condition("plain"), brief], asked), select)
    return plain["plain"], _own_pairs(study, asked, made)


def _own_pairs(study: Study, problems: Sequence[Problem], made: Mapping[str, Scores]) -> list[Pair]:
    """The model's answers to the same problems, with the prompt to be brief and without.

    Both are read after the bare problem, so that the two responses differ and the prompts do not.
    A problem whose answer the added prompt did not shorten shows no contrast and is left out.
    """
    shorter = (made["pair"].tokens < made["plain"].tokens).tolist()
    texts = [(p.prompt, study.text("pair", p), study.text("plain", p)) for p in problems]
    pairs = [Pair(*t) for t, kept in zip(texts, shorter, strict=True) if kept and t[1].strip()]
    if len(pairs) < 4:
        raise InputError(
            f"The prompt {study.config.pair_prompt!r} shortened {len(pairs)} of the model's {len(problems)} "
            "answers, which is too few for a vector. Another --pair-prompt, more --n-pairs, or "
            "--pair-answers worked would work."
        )
    return pairs


def _layers(config: VerbosityConfig, lm: LanguageModel) -> list[int]:
    n = lm.n_layers
    return sorted({i % n for i in config.layers}) or list(range(n // 5, max(n // 5 + 1, n * 9 // 10)))


def _vectors(study: Study, pairs: list[Pair]) -> tuple[SteeringVector, SteeringVector]:
    """The vector, and that of the same pairs with the poles of half of them swapped."""
    config, folder = study.config, study.run.path / "vectors"
    files = folder / "estimate.safetensors", folder / "shuffled.safetensors"
    if not all(file.exists() for file in files):
        stage = study.start("contrast", 2 * len(pairs))
        made = contrasts(
            study.lm,
            pairs,
            estimators=(config.estimator,),
            reads=(parse_positions(config.read),),
            poles=POLES["verbosity"],
            with_shuffled=True,
            seed=config.seed,
            on_tokens=stage.tokens,
        )
        stage.rows(2 * len(pairs))
        for vector, file in zip(made.values(), files, strict=True):
            study.run.save(file.name, vector)
    vector, nothing = (SteeringVector.load(file, study.lm) for file in files)
    return vector, nothing


def _states(study: Study) -> tuple[LastTokens, LastTokens]:
    """States to measure KL at: the last prompt token, and one place in the unedited response.

    Those of every other select problem are held out of whatever is fitted.
    """
    rows: list[list[Row]] = [[], []]
    tokenizer = study.lm.tokenizer
    for number, problem in enumerate(study.select):
        start = prompt_row(tokenizer, problem.prompt, think=study.config.think)
        rows[number % 2].append(start)
        if text := study.text("plain", problem):
            whole = response_row(tokenizer, problem.prompt, text, think=study.config.think)
            length = len(whole.tokens) - whole.prompt_length
            cut = whole.prompt_length + 1 + number * 7919 % length
            rows[number % 2].append(Row(whole.tokens[:cut], whole.prompt_length))
    return LastTokens(study.lm, rows[0]), LastTokens(study.lm, rows[1])


def _compare_layers(
    study: Study, vector: SteeringVector, layers: Sequence[int], states: LastTokens, plain: Scores
) -> dict[str, Any]:
    """The effect of every layer at equal measured KL."""
    config = study.config
    found = doses_for_kl(states, vector, layers, config.kl_target)
    doses = {layer: round(dose, 4) for layer, dose in zip(layers, found, strict=True)}
    n = min(config.n_layer_problems, len(study.select))
    conditions = [Condition(f"layer:{i}", (vector.at(i, dose=doses[i]),)) for i in layers]
    (scores,) = study.answers("layers", (conditions, study.select[:n]))
    base = plain.first(n)
    p_values = [permutation_test(scores[f"layer:{i}"].tokens, base.tokens, paired=True) for i in layers]
    rows = []
    for layer, adjusted in zip(layers, benjamini_hochberg(np.array(p_values)).tolist(), strict=True):
        mine = scores[f"layer:{layer}"]
        rows.append(
            {
                "layer": layer,
                "dose": doses[layer],
                "tokens": float(mine.tokens.mean()),
                "tokens_change": ratio_bootstrap(mine.tokens, base.tokens, seed=config.seed).as_dict(),
                "p_adjusted": adjusted,
                "lost": int(base.correct.sum() - mine.correct.sum()),
                "n": n,
            }
        )
    allowed = max(1, int(config.accuracy_tolerance * n))
    kept = [row for row in rows if row["lost"] <= allowed]
    chosen = min(kept or rows, key=lambda row: row["tokens"])
    limit = f"at most {allowed} of {n} select problems lost"
    return {
        "kl_target": config.kl_target,
        "plain_tokens": float(base.tokens.mean()),
        "chosen": chosen["layer"],
        "rule": f"the layer with the fewest tokens at a KL of {config.kl_target} nats, "
        + (limit if kept else f"though no layer kept to {limit}"),
        "table": rows,
    }


def _frontier(
    study: Study,
    vector: SteeringVector,
    layer: int,
    seen: LastTokens,
    held: LastTokens,
    plain: Scores,
) -> dict[str, Any]:
    """Doses at one layer: the bound, the measured KL, tokens and accuracy."""
    config = study.config
    stage = study.start("dose", 1 + len(config.doses))
    cap = kl_cap(seen, vector, layer, eps=config.eps)
    at_cap = measure_kl(held, vector, layer, cap.dose, eps=config.eps)
    stage.rows()
    conditions = [Condition(f"dose:{x:g}", (vector.at(layer, dose=x),)) for x in config.doses]
    (scores,) = study.answers("frontier", (conditions, study.select))
    rows = []
    for dose in config.doses:
        mine = scores[f"dose:{dose:g}"]
        bounds = [
            (dose * a + dose**2 * L / 2) ** 2 / 4 for a, L in zip(cap.slope, cap.curvature, strict=True)
        ]
        rows.append(
            {
                "dose": dose,
                "kl": asdict(measure_kl(held, vector, layer, dose, eps=config.eps)),
                "kl_bound_median": float(np.median(bounds)),
                **_outcome(mine, plain, config.seed),
            }
        )
        stage.rows()
    n = len(study.select)
    allowed = max(1, int(config.accuracy_tolerance * n))
    kept = [
        row
        for row in rows
        if plain.correct.sum() - row["accuracy"]["estimate"] * n <= allowed + 1e-9
        and row["truncated"] <= plain.truncated.mean() + config.accuracy_tolerance
    ]
    limit = f"lose at most {allowed} of {n} select problems and truncate no more"
    chosen = (
        min(kept, key=lambda row: row["tokens"]["estimate"])
        if kept
        else min(rows, key=lambda row: row["dose"])
    )
    return {
        "layer": layer,
        "cap": {
            "dose": cap.dose,
            "eps": cap.eps,
            "quantile": cap.quantile,
            "median": float(np.median(cap.per_state)),
            "local": cap.local,
            "slope_median": float(np.median(cap.slope)),
            "curvature_median": float(np.median(cap.curvature)),
            "n": len(cap.per_state),
            "measured": asdict(at_cap),
        },
        "plain": _outcome(plain, plain, config.seed),
        "chosen": chosen["dose"],
        "rule": f"the dose with the fewest tokens among those that {limit}"
        if kept
        else f"the smallest dose, since none would {limit}",
        "table": rows,
    }


def _sign(study: Study, dose: float, plain: Scores, minus: Scores) -> SignTest:
    """Whether dose up and dose down move the length in opposite ways."""
    plus = study.scores(f"dose:{dose:g}", study.select)
    interval = paired_bootstrap(minus.tokens, plus.tokens, seed=study.config.seed)
    return SignTest(
        outcome="response tokens",
        dose=dose,
        plus=float(plus.tokens.mean()),
        plain=float(plain.tokens.mean()),
        minus=float(minus.tokens.mean()),
        low=interval.low,
        high=interval.high,
        n=interval.n,
        first_pole="lowers",
    )


def _confirm(
    study: Study,
    vector: SteeringVector,
    nothing: SteeringVector,
    layer: int,
    dose: float,
    plain_select: Scores,
) -> tuple[SignTest, dict[str, Any]]:
    """The sign test on the select problems, and all conditions on problems that chose nothing."""
    config, problems = study.config, study.confirm
    steer = replace(vector, sign_test=None)  # a vector that failed its sign test is still reported
    randoms = random_directions(steer, config.n_random, seed=config.seed)
    main = [
        Condition("plain"),
        Condition("vector", (steer.at(layer, dose=dose),)),
        Condition("prompt", suffix=f"\n\n{config.brief_prompt}"),
    ]
    controls = [
        Condition("shuffled", (nothing.at(layer, dose=dose),)),
        Condition("minus", (steer.at(layer, dose=-dose),)),
    ]
    n = min(config.n_random_problems, len(problems))
    some = [Condition(f"random:{i}", (r.at(layer, dose=dose),)) for i, r in enumerate(randoms)]
    down = Condition(f"dose:{-dose:g}", (steer.at(layer, dose=-dose),))
    scores, checks, drawn, sign = study.answers(
        "confirm",
        (main, problems),
        (controls, problems[: config.n_control]),
        (some, problems[:n]),
        ([down], study.select),
    )
    scores = scores | checks
    kls = _throughout(study, {c.name: c for c in [*main, *controls, *some[:3]]})
    plain = scores["plain"]
    return _sign(study, dose, plain_select, sign[down.name]), {
        "conditions": {
            name: {**_outcome(mine, plain.first(len(mine.tokens)), config.seed), "kl": kls.get(name)}
            for name, mine in scores.items()
        },
        "random": _random(drawn, scores, n, config.seed, kls),
        "power": {
            "accuracy_points": minimum_detectable_difference(
                len(problems), p=float(np.clip(plain.correct.mean(), 0.02, 0.98))
            ),
            "tokens": minimum_detectable_effect(
                float(np.std(plain.tokens - scores["vector"].tokens)), len(problems)
            ),
            "power": 0.8,
            "n": len(problems),
        },
        "examples": [
            {
                "item": p.id,
                "problem": p.prompt,
                "answer": p.answer,
                **{name: _said(study.run.get(name, p.id)) for name in ("plain", "vector", "prompt")},
            }
            for p in problems[:6]
        ],
    }


def _said(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer was, without how long it took, which differs from run to run."""
    return {name: record[name] for name in ("text", "tokens", "finish", "stated", "correct")}


def _throughout(study: Study, conditions: Mapping[str, Condition]) -> dict[str, dict[str, Any]]:
    """The KL along whole unedited responses, with each condition's edits at work in them."""
    problems = [p for p in study.confirm if study.text("plain", p)][:KL_RESPONSES]
    rows = [
        response_row(study.lm.tokenizer, p.prompt, study.text("plain", p), think=study.config.think)
        for p in problems
    ]
    edited = {name: c.edits for name, c in conditions.items() if c.edits}
    stage = study.start("KL", len(edited))
    found = {}
    for name, edits in edited.items():
        found[name] = asdict(
            kl_throughout(study.lm, rows, edits, eps=study.config.eps, on_tokens=stage.tokens)
        )
        stage.rows()
    return found


def _outcome(mine: Scores, plain: Scores, seed: int) -> dict[str, Any]:
    """One row of a table: rates and means with their intervals, and paired differences from plain."""
    n = len(mine.tokens)
    return {
        "n": n,
        "accuracy": wilson(int(mine.correct.sum()), n).as_dict(),
        "accuracy_difference": paired_bootstrap(mine.correct, plain.correct, seed=seed).as_dict(),
        "mcnemar_p": mcnemar(mine.correct, plain.correct).p_value,
        "tokens": mean_interval(mine.tokens, seed=seed).as_dict(),
        "tokens_median": float(np.median(mine.tokens)),
        "tokens_change": ratio_bootstrap(mine.tokens, plain.tokens, seed=seed).as_dict(),
        "truncated": float(mine.truncated.mean()),
        "failed": int(mine.failed.sum()),
        "repetition": float(mine.repetition.mean()),
    }


def _random(
    drawn: Mapping[str, Scores],
    scores: Mapping[str, Scores],
    n: int,
    seed: int,
    kls: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """Random directions as a band, and where the vector stands in it, on the same problems."""
    plain, mine = scores["plain"].first(n), scores["vector"].first(n)
    changes = np.array([s.tokens.mean() / plain.tokens.mean() - 1 for s in drawn.values()])
    gains = np.array([s.correct.mean() - plain.correct.mean() for s in drawn.values()])
    change = float(mine.tokens.mean() / plain.tokens.mean() - 1)
    return {
        "directions": len(drawn),
        "problems": n,
        "tokens_change": asdict(band(changes)),
        "accuracy_difference": asdict(band(gains)),
        "truncated": float(np.mean([s.truncated.mean() for s in drawn.values()])),
        "repetition": float(np.mean([s.repetition.mean() for s in drawn.values()])),
        "vector_tokens_change": ratio_bootstrap(mine.tokens, plain.tokens, seed=seed).as_dict(),
        "p_vector_shortens_more": permutation_p(-change, -changes),
        "kl": [kls[name] for name in drawn if name in kls],
        "each": [
            {"tokens_change": float(c), "accuracy_difference": float(g)}
            for c, g in zip(changes, gains, strict=True)
        ],
    }


def headline(results: Mapping[str, Any]) -> str:
    """What was found, in one or two sentences, the prompt first where it wins."""
    found = results["conditions"]
    vector, prompt = found["vector"], found["prompt"]
    n, where = vector["n"], f"layer {results['layers']['chosen']}, dose {results['doses']['chosen']:g}"
    asked = (
        f"the prompt “{results['brief_prompt']}” changes tokens by {_percent(prompt['tokens_change'])} and "
        f"accuracy by {points(prompt['accuracy_difference'], digits=1)}"
    )
    if not results["sign_test"]["passed"]:
        test = results["sign_test"]
        return (
            f"The vector is refused: at {where} dose up and dose down do not move length in opposite "
            f"ways ({test['plus']:.0f} tokens up, {test['plain']:.0f} plain, {test['minus']:.0f} down, "
            f"n = {test['n']}). On the confirm problems {asked} (n = {n})."
        )
    steered = (
        f"At {where} the vector changes response tokens by {_percent(vector['tokens_change'])} and "
        f"accuracy by {points(vector['accuracy_difference'], digits=1)} (n = {n})"
    )
    wins = (
        prompt["tokens"]["estimate"] <= vector["tokens"]["estimate"]
        and prompt["accuracy"]["estimate"] >= vector["accuracy"]["estimate"]
    )
    if wins:
        return f"The prompt wins: {asked} (n = {n}). {steered}."
    return f"{steered}; {asked}."


def _percent(interval: Mapping[str, Any]) -> str:
    return f"{interval['estimate']:+.0%} [{interval['low']:+.0%}, {interval['high']:+.0%}]"
