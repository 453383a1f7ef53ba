"""Each part against what was planted, or against a slow loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analyses.configs import ThinkingConfig
from analyses.progress import progress
from analyses.run_folder import RunFolder
from analyses.tasks import Problem, word_problems
from analyses.thinking import budgets, gains, on_off, short_thoughts
from analyses.thinking.missing import triples_of
from analyses.thinking.short_thoughts import DOUBTS, SURE, Thought
from analyses.thinking.study import Study, difference, mean
from analyses.thinking.switch import Switch, parts, parts_of
from hooks.chat import prompt_row
from hooks.generate import generate_rows
from hooks.rows import Row
from hooks.sites import Site
from interp.continuations import continuation_logprobs
from interp.info_gain import KINDS, thought_gains
from interp.token_activations import token_activations

PROMPT = Switch("prompt", "Only the number.", "Step by step.")


class Scripted:
    """A worker that knows what every problem is answered with."""

    def __init__(self, script):
        self.script = script

    def map(self, tasks, on_tokens) -> Iterator:
        for place, task in enumerate(tasks):
            on_tokens(0)
            yield place, [self.script(task, problem) for problem in task.problems]


@contextmanager
def studied(lm, tmp_path, problems, script, **settings):
    config = ThinkingConfig(n_problems=len(problems), n_budget=len(problems), switch="prompt", **settings)
    with RunFolder.open(tmp_path / "r", "thinking", config) as run, progress() as start:
        yield Study(config, lm, Scripted(script), run, problems, start)


def problems(n: int) -> list[Problem]:
    return [Problem(f"p{i}", f"Question {i}?", str(100 + i), "test") for i in range(n)]


# The switch


def test_the_template_turns_thinking_on_and_off(llama):
    switch = replace(PROMPT, way="template")
    for mode, think in (("on", True), ("off", False)):
        assert switch.row(llama.tokenizer, "the inn", mode) == prompt_row(
            llama.tokenizer, "the inn", think=think
        )


def test_the_prompt_asks_and_the_tags_open_a_thought(llama):
    tokenizer = llama.tokenizer
    asked = prompt_row(tokenizer, "the inn\n\nStep by step.")
    assert PROMPT.row(tokenizer, "the inn", "on") == asked
    assert PROMPT.row(tokenizer, "the inn", "off") == prompt_row(tokenizer, "the inn\n\nOnly the number.")
    tags = replace(PROMPT, way="tags")
    plain, begun = (tags.row(tokenizer, "the inn", mode) for mode in ("off", "on"))
    assert plain == prompt_row(tokenizer, "the inn")
    assert tokenizer.decode(begun.tokens[len(plain.tokens) :]) == "<think>\n"
    assert begun.prompt_length == len(begun.tokens)


@pytest.mark.parametrize(
    ("text", "thought", "reply"),
    [
        ("<think>\nthe inn</think>\n12", "the inn", "12"),
        ("the inn", "the inn", None),
        ("a</think>b</think>c", "ab", "c"),
        ("the inn</think>", "the inn", ""),
    ],
)
def test_a_reply_is_what_stands_after_the_thought(llama, text, thought, reply):
    ids = llama.tokenizer(text, add_special_tokens=False).input_ids
    assert parts(llama.tokenizer, ids) == (thought, reply)
    assert parts_of(text) == (thought, reply)


# On and off


SCRIPT = {
    # thought, reply, tokens: announced answers go wrong, right, wrong, right
    ("on", 0): ("The answer is 7. Wait, the answer is 100. Hmm. The answer is 8.", "The answer is 100.", 50),
    # right on the way, and lost
    ("on", 1): ("The answer is 101. Maybe not. The answer is 9.", "The answer is 9.", 20),
    # any number: 5, then 102; announced: only 102
    ("on", 2): ("We have 5 here. Let me check.", "The answer is 102.", 25),
    ("on", 3): ("Nothing comes.", None, 10),
    ("off", 0): ("The answer is 7.", None, 10),
    ("off", 1): ("The answer is 101.", None, 10),
    ("off", 2): ("The answer is 3.", None, 10),
    ("off", 3): ("", None, 1),
}


def scripted(task, problem):
    thought, reply, tokens = SCRIPT[task.mode, int(problem.id[1:])]
    finish = "length" if thought == "Nothing comes." else "stop"
    return on_off.told(problem, thought, reply, tokens=tokens, finish=finish, repeated=0.0)


def test_planted_flips_and_markers_are_counted(llama, tmp_path):
    with studied(llama, tmp_path, problems(4), scripted, chunk=3) as study:
        on_off.answer(study)
        found = on_off.on_off(study)
    on, off = found["modes"]["on"], found["modes"]["off"]
    assert (on["accuracy"]["estimate"], off["accuracy"]["estimate"]) == (0.5, 0.25)
    assert found["differences"]["accuracy"]["estimate"] == 0.25
    assert found["differences"]["mcnemar"] == {"only_on": 2, "only_off": 1, "p": 1.0}
    assert on["tokens"]["estimate"] == 105 / 4
    assert (on["truncated"]["estimate"], on["closed"]["estimate"]) == (0.25, 0.75)
    announced, numbers = (on["flips"][reading] for reading in ("announced", "any number"))
    assert (announced["wrong_to_right"]["total"], announced["right_to_wrong"]["total"]) == (2, 2)
    assert numbers["wrong_to_right"]["total"] == 3  # 5, an intermediate result, is taken for an answer
    assert announced["ever_right"]["estimate"] == 0.75
    assert announced["lost"]["estimate"] == 0.25
    assert announced["lost_of_ever_right"]["n"] == 3
    assert off["flips"]["announced"]["blank"] == 1
    assert off["flips"]["announced"]["lost_of_ever_right"]["n"] == 1
    backtracking = np.mean([100 * 2 / 50, 0, 0, 0])  # "wait" and "hmm" of the first
    assert on["markers"]["backtracking"]["estimate"] == pytest.approx(backtracking)
    assert on["markers"]["hedge"]["estimate"] == pytest.approx(np.mean([0, 100 / 20, 0, 0]))
    assert off["markers"]["hedge"]["low"] is None  # all zero: no bounds, not bounds of zero
    flips = found["differences"]["flips"]["announced"]
    assert flips["lost"]["n"] == 3  # without the blank one
    assert flips["right_to_wrong"]["estimate"] == pytest.approx(2 / 3)


def test_the_reply_is_judged_and_not_the_thought():
    (problem,) = problems(1)
    said = dict(tokens=3, finish="stop", repeated=0.0)
    assert not on_off.told(problem, "The answer is 100.", "It is 3.", **said)["correct"]
    assert on_off.told(problem, "It is 3.", "100", **said)["correct"]
    assert on_off.told(problem, "The answer is 100.", None, **said)["correct"]
    assert not on_off.told(problem, "100", None, **{**said, "finish": "nan"})["correct"]


def test_values_that_are_all_one_have_no_bounds():
    assert mean(np.zeros(4), 0)["low"] is None
    assert difference(np.array([True, False]), np.array([False, False]), 0)["high"] is not None


# Budgets


def test_extensions_are_held_against_none_at_the_same_budget(llama, tmp_path):
    """Thinking on after an end turns problem 0 right and problem 1 wrong; a larger budget turns 2 right."""

    def script(task, problem):
        number = int(problem.id[1:])
        right = {0: task.extensions == 1, 1: task.extensions == 0, 2: task.budget == 20, 3: True}[number]
        text = f"{number} {task.extensions if number < 2 else ''}"
        return {"correct": right, "stated": "1", "tokens": task.budget, "text": text}

    with studied(llama, tmp_path, problems(4), script, budgets=(10.0, 20.0), extensions=1) as study:
        found = budgets.budgets(study)["table"]
    rows = {(row["budget"], row["extensions"]): row for row in found}
    assert {key: row["accuracy"]["estimate"] for key, row in rows.items()} == {
        (10, 0): 0.5, (10, 1): 0.5, (20, 0): 0.75, (20, 1): 0.75,
    }  # fmt: skip
    row = rows[10, 1]
    assert (row["wrong_to_right"], row["right_to_wrong"], row["changed"], row["p_holm"]) == (1, 1, 2, 1.0)
    assert rows[20, 0]["beyond_smallest"]["estimate"] == 0.25
    assert "changed" not in rows[20, 0]


def test_budgets_are_shares_or_tokens():
    config = ThinkingConfig(budgets=(0.25, 1.0, 40.0), max_new_tokens=80)
    assert budgets.budgets_of(config) == [20, 40, 80]


def test_a_thought_of_a_template_is_closed_at_its_budget(llama):
    switch = replace(PROMPT, way="template")
    task = budgets.Forced((problems(1)[0],), 5, 0, switch, "\nWait")
    (record,) = task.compute(llama, lambda _n: None)
    assert "The answer is" in record["text"]


# Gains


def test_gains_are_those_of_the_method_and_who_is_left_out_is_counted(llama, tmp_path):
    known = word_problems(5)
    some = [*known[:4], replace(known[4], solutions={})]

    def script(task, problem):
        if isinstance(task, gains.Gained):
            raise AssertionError
        thought = "" if problem.id == some[0].id else f"the inn is {problem.id}"
        return on_off.told(problem, thought, None, tokens=3, finish="stop", repeated=0.0)

    with studied(llama, tmp_path, some, script) as study:
        on_off.answer(study)
        asked, without = gains.questions(study)
        assert len(asked) == 3
        assert without == {"no worked solution": 1, "blank thought": 1}
        local = SimpleNamespace(
            map=lambda tasks, on_tokens: ((i, t.compute(llama, on_tokens)) for i, t in enumerate(tasks))
        )
        found = gains.gains(replace(study, workers=local))
    wanted = thought_gains(llama, asked, seed=0)
    for kind in KINDS:
        assert found["total"]["gain"][kind] == wanted.total.gain[kind].as_dict()
        assert found["per_token"]["gain"][kind] == wanted.per_token.gain[kind].as_dict()
    assert found["total"]["own_whole"] == wanted.total.own_whole.as_dict()
    assert found["total"]["own_beyond"]["gold"] == wanted.total.own_beyond["gold"].as_dict()
    silent = ~wanted.states_answer[0]
    assert found["silent"]["n"] == silent.sum()
    assert found["silent"]["total"]["gain"]["own"]["estimate"] == pytest.approx(wanted.gain[0, silent].mean())


# Short thoughts


def test_a_short_thought_does_what_a_slow_loop_says(llama):
    triples = tuple(triples_of(ThinkingConfig(n_fit_triples=16, n_confirm_triples=16, n_asked=2)).confirm[:2])
    task = Thought(triples, PROMPT, torch.eye(llama.d_model), 1, 2.0, 3, seed=0)
    records = task.compute(llama, lambda _n: None)
    tokenizer, end = llama.tokenizer, llama.tokenizer("\n", add_special_tokens=False).input_ids
    for triple, record in zip(triples, records, strict=True):
        start = prompt_row(tokenizer, f"{triple.missing}\n\nStep by step.").tokens
        frame = (*start, *end)

        def logp(reply, frame=frame):
            ids = tokenizer(reply, add_special_tokens=False).input_ids
            return continuation_logprobs(llama, [Row((*frame, *ids), len(frame))])[0].sum()

        assert record["asking"]["missing"]["nothing"] == pytest.approx(
            logp(triple.asks) - logp(triple.states), abs=1e-3
        )
        held = first_tokens(llama, start, 3)
        assert record["thoughts"]["missing"] == tokenizer.decode(held, skip_special_tokens=True)
        with_thought = (*start, *held, *end)
        after, before = (
            token_activations(llama, [Row(f, len(f))], [Site(1, "resid_post")])[0, 0]
            for f in (with_thought, frame)
        )
        np.testing.assert_allclose(record["moved"]["missing"], (after - before) / 2, atol=1e-4)


def test_a_thought_that_ends_at_once_changes_nothing(llama, monkeypatch):
    """The first token that the model says is planted as the end of a thought."""
    triples = tuple(triples_of(ThinkingConfig(n_fit_triples=16, n_confirm_triples=16, n_asked=2)).confirm[:1])
    start = prompt_row(llama.tokenizer, f"{triples[0].missing}\n\nStep by step.").tokens
    (first,) = first_tokens(llama, start, 1)
    monkeypatch.setattr(short_thoughts, "end_token", lambda _tokenizer: first)
    task = Thought(triples, PROMPT, torch.eye(llama.d_model), 1, 2.0, 3, seed=0)
    (record,) = task.compute(llama, lambda _n: None)
    assert record["thoughts"]["missing"] == ""
    assert len(set(record["asking"]["missing"].values())) == 1
    np.testing.assert_allclose(record["moved"]["missing"], 0, atol=1e-4)


def first_tokens(lm, start, n):
    """Those before the end of the turn."""
    (made,) = generate_rows(lm, [Row(tuple(start), len(start))], max_new_tokens=n)
    return [token for token in made.tokens if token not in lm.stop_ids]


def test_doubts_and_their_like_are_about_as_long_and_say_the_same_number():
    for doubt, sure in zip(DOUBTS, SURE, strict=True):
        assert abs(len(doubt.split()) - len(sure.split())) <= 1
        assert doubt.count("{}") == sure.count("{}") == 1
