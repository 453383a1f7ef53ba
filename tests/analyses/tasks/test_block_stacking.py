"""Block stacking: plans are played on a simulator of its own, and hand-made plans are judged by hand."""

import pickle
from itertools import product

import pytest

from analyses.tasks import judge, load_problems
from analyses.tasks.block_stacking import RUNGS, shortest_plans
from analyses.tasks.problem import Problem
from hooks.errors import InputError

SWAP = Problem(
    id="swap",
    prompt="A stands on B; B shall stand on A, and C on the table.",
    answer="move A to the table\nmove B onto A",
    source="by hand",
    verifier="block-stacking",
    facts={"start": [["B", "A"], ["C"]], "goal": [["A", "B"], ["C"]]},
)


def supports(stacks: list[list[str]]) -> dict[str, str]:
    """What each block stands on."""
    return {block: below for stack in stacks for below, block in zip(["table", *stack], stack, strict=False)}


def played(start: dict[str, str], moves: list[tuple[str, str]]) -> dict[str, str] | None:
    """What each block stands on after the moves; None if one is not legal."""
    on = dict(start)
    for block, under in moves:
        covered = set(on.values())
        if block in covered or (under != "table" and (under in covered or under == block)):
            return None
        on[block] = under
    return on


def words(answer: str) -> list[tuple[str, str]]:
    lines = [line.split() for line in answer.split("\n")]
    return [(line[1], line[-1]) for line in lines]


def test_a_gold_plan_is_legal_as_long_as_its_rung_and_no_plan_is_shorter():
    for problem in load_problems("block-stacking", n=24):
        start, goal = (supports(problem.facts[side]) for side in ("start", "goal"))
        plan = words(problem.answer)
        assert played(start, plan) == goal
        assert len(plan) == int(problem.level)
        steps = [(block, under) for block in start for under in [*start, "table"] if block != under]
        for length in range(min(len(plan), 4)):
            assert all(played(start, list(moves)) != goal for moves in product(steps, repeat=length))


def test_four_blocks_have_73_states_and_a_tower_is_turned_over_in_four_moves():
    tower = ("A", "B", "C", "D")
    plans = shortest_plans(frozenset({tower}))
    assert len(plans) == 73  # sets of lists: 1, 3, 13, 73, 501, ...
    assert len(plans[frozenset({tower[::-1]})]) == 4
    assert plans[frozenset({tower})] == ()


@pytest.mark.parametrize(
    ("response", "stated"),
    [
        ("move A to the table\nmove B onto A", "move A to the table; move B onto A"),
        ("1. **Move A to table.**\n2. Move block B on top of block A.", "move A to the table; move B onto A"),
        (
            "Move A from B to the table, then move B from the table onto A.",
            "move A to the table; move B onto A",
        ),
        (
            "move A onto C\nmove A to the table\nmove B on A",
            "move A onto C; move A to the table; move B onto A",
        ),
    ],
)
def test_any_plan_that_reaches_the_goal_is_right_a_longer_one_too(response: str, stated: str):
    verdict = judge(SWAP, response)
    assert (verdict.correct, verdict.stated, verdict.rule) == (True, stated, "plan")


@pytest.mark.parametrize(
    "response",
    [
        "move B onto A",  # A stands on it
        "move A to the table\nmove B onto C",
        "move A to the table",
        "move A to the table\nmove B onto A\nmove B onto B",
        "move A to the table\nmove B onto A\nmove Z to the table",
        "move A to the table\nmove B onto A\nmove B to the table",
    ],
)
def test_a_plan_that_breaks_a_rule_or_ends_elsewhere_is_wrong(response: str):
    verdict = judge(SWAP, response)
    assert not verdict.correct
    assert verdict.stated is not None


def test_a_response_without_moves_states_nothing():
    for response in ("", "I would put A on the table.", "move a block onto the table"):
        assert judge(SWAP, response).stated is None


def test_rungs_take_turns_and_fewer_problems_are_the_first_of_more():
    problems = load_problems("block-stacking", n=30, seed=3)
    assert [problem.level for problem in problems[:7]] == [*RUNGS, "1"]
    assert load_problems("block-stacking", n=7, seed=3) == problems[:7]
    assert len({problem.prompt for problem in problems}) == len({problem.id for problem in problems}) == 30
    assert {problem.id for problem in load_problems("block-stacking", n=30, seed=4)}.isdisjoint(
        {problem.id for problem in problems if problem.level != "1"}
    )


def test_one_rung_is_the_ladder_s_problems_of_that_rung():
    second = [problem.id for problem in load_problems("block-stacking", n=24) if problem.level == "2"]
    alone = load_problems("block-stacking@2", n=4)
    assert [problem.id for problem in alone] == second
    assert {problem.source for problem in alone} == {"block-stacking@2"}
    assert pickle.loads(pickle.dumps(alone)) == alone


def test_a_rung_that_is_not_there_is_refused():
    with pytest.raises(
        InputError, match=r"block-stacking has no rung '7'\. block-stacking@1 or .* would work"
    ):
        load_problems("block-stacking@7", n=1)
