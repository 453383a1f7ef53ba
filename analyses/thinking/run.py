"""What does thinking before an answer change: right, wrong, and a number that is missing?

1. Answer the same problems without thinking and with it: accuracy, tokens, the words of hedging, restarting,
   checking and turning back, and answers that change along the way.
2. Cut thoughts at budgets and answer; make those that end early go on.
3. Measure how much likelier the model's own thoughts make the right answer, beside four other kinds.
4. Take a needed number out of problems: do probes see it, does their direction make the model ask, and does
   a short thought?

    unlatch thinking --model Qwen/Qwen3-0.6B --out runs/thinking
    unlatch thinking --switch prompt --out runs/thinking

Sources: Wang et al. 2025, arXiv:2507.23407, on numbers that are missing; Muennighoff et al. 2025 (s1),
arXiv:2501.19393, on budgets; Hatamizadeh et al. 2025, arXiv:2510.01265, on the gain of a thought.
Differs from the sources: nothing is trained; every difference is paired and stands beside its control, and
every choice is made on other problems than those that score it.
"""

from pathlib import Path
from typing import Any

from analyses.configs import ThinkingConfig
from analyses.progress import progress
from analyses.reports.thinking import write_report
from analyses.run_folder import RunFolder, described, environment
from analyses.tasks import Problem, checked, load_problems
from analyses.thinking.budgets import budgets, budgets_of
from analyses.thinking.gains import gains
from analyses.thinking.headline import headline
from analyses.thinking.missing import Triples, missing, triples_of
from analyses.thinking.on_off import answer, on_off
from analyses.thinking.study import Study
from analyses.thinking.switch import Switch
from analyses.workers import LocalWorker, RayWorkers
from hooks import LanguageModel, load
from hooks.errors import InputError


def run(config: ThinkingConfig, out: Path, *, device: str | None = None, ray: str | None = None) -> Path:
    """Run the whole question, or what is left of it, and write one run folder; returns it.

    Raises:
        InputError: if the chat template is to turn thinking on and cannot, before a folder is made; or
            there are too few problems.
    """
    problems, triples = _problems(config), triples_of(config)
    budgets_of(config)
    lm = None if (out / "results.json").exists() else _model(config, device)
    with RunFolder.open(out, "thinking", config) as folder:
        if lm is not None:
            folder.write("environment.json", environment(lm, dtype=str(lm.dtype)))
            workers = LocalWorker(lm) if ray is None else RayWorkers(ray, lm)
            with progress() as start:
                study = Study(config, lm, workers, folder, problems, start)
                folder.write("results.json", _results(study, triples))
        write_report(folder.path)
    return folder.path


def _model(config: ThinkingConfig, device: str | None) -> LanguageModel:
    lm = load(config.model, device=device)
    Switch.of(config).require(lm.tokenizer, lm.name)
    return lm


def _problems(config: ThinkingConfig) -> list[Problem]:
    if config.n_problems < 2 or not 1 <= config.n_budget <= config.n_problems:
        raise InputError(
            f"n_problems={config.n_problems} and n_budget={config.n_budget}: answer 2 problems or more, and "
            "1 or more of them at every budget."
        )
    problems = load_problems(
        config.tasks,
        n=config.n_problems,
        seed=config.seed,
        prompt_field=config.prompt_field,
        answer_field=config.answer_field,
    )
    return list(checked(problems))


def _results(study: Study, triples: Triples | None) -> dict[str, Any]:
    """Every step of the question, in turn."""
    config = study.config
    answer(study)
    results = {
        "question": (__doc__ or "").splitlines()[0],
        "model": described(study.lm),
        "tasks": config.tasks,
        "n": {"problems": len(study.problems), "budget": config.n_budget},
        "switch": config.switch,
        "prompts": {"direct": config.direct_prompt, "cot": config.cot_prompt},
        "budget_tokens": config.max_new_tokens,
        "on_off": on_off(study),
        "budgets": budgets(study),
        "gains": gains(study),
        "missing": missing(study, triples),
    }
    return {**results, "headline": headline(results)}
