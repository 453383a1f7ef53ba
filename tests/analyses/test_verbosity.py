"""The whole question on a tiny random model: what is written, that it resumes, what it says."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyses import answers, verbosity
from analyses.answers import Block, Scores, repetition
from analyses.configs import VerbosityConfig
from analyses.replay import read_config, replay
from analyses.tasks import Problem
from hooks import load
from hooks.errors import InputError, RunError, UnlatchError
from interp import SteeringVector
from interp.pairs import Pair


def test_a_run_leaves_every_file_that_the_design_promises(finished: Path):
    names = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    assert names >= {
        "config.json",
        "environment.json",
        "records.jsonl",
        "results.json",
        "report.html",
        "vectors/verbosity.safetensors",
    }
    assert not [name for name in names if name.endswith(".part")]


def test_every_number_of_a_condition_has_its_n_and_interval(finished: Path, config: VerbosityConfig):
    results = json.loads((finished / "results.json").read_text())
    assert set(results["conditions"]) == {"plain", "vector", "prompt", "shuffled", "minus"}
    for name, row in results["conditions"].items():
        n = config.n_control if name in ("shuffled", "minus") else config.n_confirm
        for key in ("accuracy", "accuracy_difference", "tokens", "tokens_change"):
            assert row[key]["n"] == n
            assert row[key]["low"] <= row[key]["estimate"] <= row[key]["high"]
    assert results["random"]["directions"] == config.n_random
    assert len(results["random"]["each"]) == config.n_random
    assert results["doses"]["cap"]["dose"] > 0


def test_what_chose_layer_and_dose_did_not_score_them(finished: Path):
    records = [json.loads(line) for line in (finished / "records.jsonl").read_text().splitlines()]
    chose = {r["item"] for r in records if r["condition"].startswith(("layer:", "dose:"))}
    scored = {r["item"] for r in records if r["condition"] in ("vector", "prompt", "minus")}
    assert chose
    assert scored
    assert not chose & scored


def test_the_vector_file_steers_as_recommended_or_says_why_not(finished: Path, config: VerbosityConfig):
    lm = load(config.model)
    vector = SteeringVector.load(finished / "vectors" / "verbosity.safetensors", lm)
    results = json.loads((finished / "results.json").read_text())
    assert vector.recommended is not None
    assert vector.recommended.layer == results["layers"]["chosen"]
    assert vector.sign_test is not None
    if vector.sign_test.passed:
        assert vector.at().scale == results["doses"]["chosen"]
    else:
        assert "refused" in results["headline"]
        with pytest.raises(UnlatchError, match="failed its sign test"):
            vector.at()


def test_a_run_killed_anywhere_ends_with_the_same_bytes(
    finished: Path, config: VerbosityConfig, tmp_path: Path, kills: Callable[..., int]
):
    """Interrupted at each chunk in turn, then let go on: the same results.json."""
    out = tmp_path / "cut"
    assert kills(lambda: verbosity.run(config, out), answers, "generate", at=2) > 3
    assert (out / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_a_complete_run_is_not_run_again(
    finished: Path, config: VerbosityConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(verbosity, "load", lambda *_a, **_k: pytest.fail("loaded the model"))
    assert verbosity.run(config, finished) == finished


def test_a_replay_gives_the_same_bytes(finished: Path, tmp_path: Path):
    again = replay(finished, tmp_path / "again")
    assert (again / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_other_settings_are_not_mixed_into_a_run(finished: Path, config: VerbosityConfig):
    with pytest.raises(RunError, match="other settings"):
        verbosity.run(replace(config, seed=1), finished)


def test_a_damaged_config_cannot_be_replayed(finished: Path, tmp_path: Path):
    shutil.copytree(finished, tmp_path / "r")
    (tmp_path / "r" / "config.json").write_text('{"command": "verbosity", "modle": 1}')
    with pytest.raises(InputError, match="differ in the settings"):
        read_config(tmp_path / "r")
    (tmp_path / "r" / "config.json").write_text('{"command": ')
    with pytest.raises(InputError, match="is not JSON"):
        read_config(tmp_path / "r")
    with pytest.raises(InputError, match="holds no run"):
        read_config(tmp_path)


def test_more_problems_than_there_are_is_said_before_anything_is_written(
    config: VerbosityConfig, tmp_path: Path
):
    with pytest.raises(InputError, match=r"4000 were asked for. Pass --n-confirm \d+ or fewer"):
        verbosity.run(replace(config, n_confirm=4000), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def row(tokens: float, accuracy: float) -> dict:
    interval = {"estimate": tokens / 100 - 1, "low": -0.5, "high": 0.1}
    change = {"estimate": accuracy - 0.5, "low": -0.1, "high": 0.1}
    return {
        "n": 9,
        "tokens": {"estimate": tokens},
        "accuracy": {"estimate": accuracy},
        "tokens_change": interval,
        "accuracy_difference": change,
    }


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [(row(30, 0.6), "The prompt wins"), (row(70, 0.6), "At layer 3"), (row(30, 0.2), "At layer 3")],
)
def test_the_headline_puts_the_prompt_first_where_it_wins(prompt: dict, opening: str):
    results = {
        "conditions": {"vector": row(50, 0.5), "prompt": prompt},
        "layers": {"chosen": 3},
        "doses": {"chosen": 0.3},
        "sign_test": {"passed": True},
        "brief_prompt": "Be concise.",
    }
    assert verbosity.headline(results).startswith(opening)


def test_repetition_is_the_share_of_repeated_four_grams():
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([7] * 8) == pytest.approx(4 / 5)
    assert repetition([1, 2]) == 0


class Asked(verbosity.Study):
    """A study whose model has answered already."""

    def __init__(self, config: VerbosityConfig, texts: dict[str, list[str]]):
        vars(self).update(config=config, texts=texts, suffixes={}, select=[])

    def answers(self, _what: str, *blocks: Block) -> list[dict[str, Scores]]:
        self.suffixes.update({c.name: c.suffix for conditions, _ in blocks for c in conditions})
        return [
            {c.name: self.scored(c.name, len(problems)) for c in conditions}
            for conditions, problems in blocks
        ]

    def scored(self, condition: str, n: int) -> Scores:
        tokens = np.array([float(len(text)) for text in self.texts[condition][:n]])
        return Scores(np.zeros(n, bool), tokens, np.zeros(n, bool), np.zeros(n, bool), np.zeros(n))

    def text(self, condition: str, problem: Problem) -> str:
        return self.texts[condition][int(problem.id)]


def test_own_pairs_are_the_models_answers_where_the_prompt_shortened_them(config: VerbosityConfig):
    problems = [Problem(str(i), f"How many are {i}?", "1", "test") for i in range(7)]
    plain = ["a long answer"] * 7
    pair = ["short", "tiny", "not any shorter", "brief", "a long answer", "", "one"]
    study = Asked(replace(config, pair_answers="own", pair_prompt="Fast."), {"plain": plain, "pair": pair})
    _, pairs = verbosity._plain(study, [], problems)
    assert pairs == [Pair(f"How many are {i}?", pair[i], "a long answer") for i in (0, 1, 3, 6)]
    assert study.suffixes == {"plain": "", "pair": "\n\nFast."}
    with pytest.raises(InputError, match=r"'Fast\.' shortened 3 of the model's 6 answers"):
        verbosity._plain(study, [], problems[:6])


def test_own_pairs_choose_and_score_nothing(config: VerbosityConfig):
    _, asked, select, confirm = verbosity._material(replace(config, pair_answers="own", n_pairs=40))
    assert len(asked) == 40
    prompts = [p.prompt for p in [*asked, *select, *confirm]]
    assert len(set(prompts)) == len(prompts)
    with pytest.raises(InputError, match=r"Pass --n-pairs \d+ or fewer"):
        verbosity._material(replace(config, pair_answers="own", n_pairs=4000))
