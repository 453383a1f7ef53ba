"""reasoning-gym behind our problem type: its verifiers against ours, and against a simulator of the tower."""

import inspect
import json
import pickle
import re
import sys
from collections import deque
from typing import Any

import pytest

from analyses.tasks import checked, judge, load_problems, verify
from analyses.tasks.gym import LADDERS, REFUSED
from analyses.tasks.problem import Problem
from hooks.errors import InputError

gym = pytest.importorskip("reasoning_gym")

NUMBERS = ("chain_sum", "basic_arithmetic", "products", "leg_counting", "gsm_symbolic")


def one(name: str, metadata: dict[str, Any], answer: str, reads: str) -> Problem:
    facts = {"name": name, "reads": reads, "metadata": metadata}
    return Problem(id="p", prompt="?", answer=answer, source="by hand", verifier="gym", facts=facts)


def theirs(problem: Problem, text: str) -> float:
    entry = {"question": problem.prompt, "answer": problem.answer, "metadata": problem.facts["metadata"]}
    return float(gym.factory.get_score_answer_fn(problem.facts["name"])(text, entry))


# Loading.


@pytest.mark.parametrize("name", LADDERS)
def test_the_rungs_of_a_ladder_take_turns_and_every_problem_passes_the_check(name: str):
    problems = load_problems(f"gym:{name}", n=21)
    checked(problems)
    rungs = list(LADDERS[name])
    assert [problem.level for problem in problems] == [rungs[place % len(rungs)] for place in range(21)]
    assert len({problem.prompt for problem in problems}) == 21
    assert load_problems(f"gym:{name}", n=8) == problems[:8]
    assert pickle.loads(pickle.dumps(problems)) == problems
    assert all(json.loads(json.dumps(dict(p.facts))) == p.facts for p in problems)


@pytest.mark.parametrize(
    "name", ["gcd", "family_relationships", "caesar_cipher", "mini_sudoku", "maze", "ab"]
)
def test_a_data_set_without_a_ladder_is_a_single_rung(name: str):
    problems = checked(load_problems(f"gym:{name}", n=6, seed=1))
    assert {problem.level for problem in problems} == {""}
    assert all(
        judge(problem, f"Let me see.\n<answer>{problem.answer}</answer>").correct for problem in problems
    )


def test_a_rung_holds_what_its_name_says_and_is_the_ladder_s():
    for problem in load_problems("gym:chain_sum", n=14):
        assert problem.facts["metadata"]["num_terms"] == int(problem.level)
    for problem in load_problems("gym:shortest_path@3", n=6):
        assert len(problem.answer.split()) == 3
        assert problem.source == "gym:shortest_path@3"
    third = [p.id for p in load_problems("gym:chain_sum", n=21) if p.level == "3"]
    assert [p.id for p in load_problems("gym:chain_sum@3", n=3)] == third


def test_seeds_that_follow_each_other_share_no_items():
    first, second = (load_problems("gym:chain_sum@6", n=40, seed=seed) for seed in (0, 1))
    assert {p.id for p in first}.isdisjoint(p.id for p in second)


def test_more_than_there_are_is_refused_with_how_many_there_are():
    assert len(load_problems("gym:tower_of_hanoi@2")) == 38  # 3·2 + 4·3 + 5·4 pairs of pegs
    with pytest.raises(
        InputError, match=r"of gym:tower_of_hanoi@2, which runs out .* after 38\. n=38 or fewer"
    ):
        load_problems("gym:tower_of_hanoi@2", n=39)
    with pytest.raises(
        InputError, match=r"of gym:tower_of_hanoi, whose rung 1 runs out .* after 228\. n=228"
    ):
        load_problems("gym:tower_of_hanoi", n=300)


# Theirs against ours, where the answer is a single number.


def spelled(value: int) -> list[str]:
    """One value in the forms that models write."""
    return [
        f"{value}",
        f"The answer is {value}.",
        f"**{value}**",
        f"{value}.0",
        f"{value:,}",
        f"So we get \\boxed{{{value}}}",
        f"First 1 + 1 = 2.\n#### {value}",
        f"<answer> {value} </answer>",
        f"{value} or {value + 1}",
        f"The answer is {value} or {value + 1}.",
        f"The answer is -{value}." if value > 0 else f"The answer is {-value}.",
        f"The answer is {value}/7.",
        "",
        "I do not know.",
    ]


@pytest.mark.parametrize("name", NUMBERS)
def test_judged_by_their_verifier_every_form_gets_what_ours_gives(name: str):
    for problem in load_problems(f"gym:{name}", n=6):
        gold = int(problem.answer)
        for value in (gold, gold + 1, gold * 10 + 7):
            for text in spelled(value):
                ours, got = verify(problem.answer, text), judge(problem, text)
                assert got == ours, text
            assert judge(problem, str(value)).correct is (value == gold)


DIFFERENT = {
    # Decimal("...") reads a bare number in any form, and nothing beside it.
    "chain_sum": {"The answer is 12.", "**12**", r"So \boxed{12}"},
    # Their default: the same characters, nothing else.
    "leg_counting": {"The answer is 12.", "**12**", r"So \boxed{12}", "12.0"},
    # The first number is taken, ours takes the result; so the working is right and its answer not.
    "gsm_symbolic": {"3 + 9 = 12", "12 boys and 3 girls, so 15", "12 or 13"},
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_on_the_raw_response_theirs_differs_from_ours_where_it_is_known_to(name: str):
    problem = one(name, {}, "12", "number")
    texts = {"12", "13", "", "no", "The answer is 12.", "**12**", r"So \boxed{12}", "12.0", "3 + 9 = 12"}
    texts |= {"12 boys and 3 girls, so 15", "12 or 13"}
    if name != "gsm_symbolic":
        texts -= {"3 + 9 = 12"}
    differ = {text for text in texts if (theirs(problem, text) == 1) != verify("12", text).correct}
    assert differ == DIFFERENT[name]


def test_their_gold_sums_and_legs_are_right():
    for problem in load_problems("gym:chain_sum", n=21):
        signed = re.findall(r"[-+]?\d+", problem.facts["metadata"]["expression"].replace(" ", ""))
        assert sum(map(int, signed)) == int(problem.answer)
    for problem in load_problems("gym:basic_arithmetic", n=24):
        assert eval(problem.facts["metadata"]["expression"]) == int(problem.answer)
    for problem in load_problems("gym:products", n=10):
        assert eval(problem.facts["metadata"]["expression"]) == int(problem.answer) != 0


def test_without_parentheses_their_basic_arithmetic_ignores_precedence_so_our_ladder_keeps_them():
    items = gym.create_dataset(
        "basic_arithmetic", seed=0, size=50, allow_parentheses=False, operators=["+", "*"]
    )
    wrong = [item for item in items if eval(item["metadata"]["expression"]) != int(item["answer"])]
    assert wrong
    assert all("allow_parentheses" not in rung.config for rung in LADDERS["basic_arithmetic"].values())


# The tower of Hanoi, on a simulator of our own.


def tower(disks: int, pegs: int, start: int, end: int, answer: str, length: int) -> Problem:
    metadata = dict(num_disks=disks, num_pegs=pegs, start_peg=start, target_peg=end, solution_length=length)
    return one("tower_of_hanoi", metadata, answer, "moves")


def solves(problem: Problem, plan: str) -> bool:
    facts = problem.facts["metadata"]
    pegs: dict[int, list[int]] = {peg: [] for peg in range(1, facts["num_pegs"] + 1)}
    pegs[facts["start_peg"]] = list(range(facts["num_disks"], 0, -1))
    for line in plan.split("\n"):
        disk, start, end = map(int, re.findall(r"\d+", line))
        if pegs[start][-1:] != [disk] or (pegs[end] and pegs[end][-1] < disk):
            return False
        pegs[end].append(pegs[start].pop())
    return len(pegs[facts["target_peg"]]) == facts["num_disks"]


def fewest_moves(disks: int, pegs: int) -> int:
    """From the first peg to the last, by breadth-first search over where each disk is."""
    start, end = (0,) * disks, (pegs - 1,) * disks
    queue, distance = deque([start]), {start: 0}
    while end not in distance:
        state = queue.popleft()
        tops = {peg: disk for disk, peg in reversed(list(enumerate(state)))}
        for peg, disk in tops.items():
            for to in range(pegs):
                after = (*state[:disk], to, *state[disk + 1 :])
                if to != peg and tops.get(to, disks) > disk and after not in distance:
                    distance[after] = distance[state] + 1
                    queue.append(after)
    return distance[end]


def test_a_gold_plan_solves_the_tower_and_no_plan_is_shorter():
    for problem in load_problems("gym:tower_of_hanoi", n=60):
        facts = problem.facts["metadata"]
        assert solves(problem, problem.answer)
        assert len(problem.answer.split("\n")) == facts["solution_length"]
        if facts["num_disks"] <= 4:
            assert facts["solution_length"] == fewest_moves(facts["num_disks"], facts["num_pegs"])


SHORT = "Move disk 1 from Peg 1 to Peg 2\nMove disk 2 from Peg 1 to Peg 3\nMove disk 1 from Peg 2 to Peg 3"
LONG = "Move disk 1 from Peg 1 to Peg 3\nMove disk 1 from Peg 3 to Peg 2\n" + SHORT.split("\n", 1)[1]
TOWER = tower(2, 3, 1, 3, SHORT, 3)


def test_a_plan_that_solves_the_tower_in_more_moves_than_needed_is_not_right_for_them_nor_here():
    assert solves(TOWER, LONG)
    assert theirs(TOWER, LONG) == 3 / 4
    assert not judge(TOWER, LONG).correct


@pytest.mark.parametrize(
    "response",
    [
        SHORT,
        "Sure! Here are the moves:\n\n1. **Move disk 1 from Peg 1 to Peg 2**\n2. move Disk 2 from peg 1 to "
        "peg 3.\n3. Move disk 1 from Peg 2 to Peg 3\n\nNow all disks are on Peg 3.",
        f"I could move disk 1 from peg 1 to peg 3, but no.\nFinal answer: {SHORT}",
        f"<answer>{SHORT}</answer>",
    ],
)
def test_moves_are_read_out_of_what_surrounds_them(response: str):
    verdict = judge(TOWER, response)
    assert (verdict.correct, verdict.stated, verdict.rule) == (True, SHORT.replace("\n", "; "), "plan")


@pytest.mark.parametrize(
    "response",
    [
        SHORT.replace("Peg 3", "Peg 9"),
        SHORT.replace("disk 2", "disk 1"),
        SHORT.rpartition("\n")[0],
        f"{SHORT}\nMove disk 1 from Peg 3 to Peg 2",
        f"{SHORT}\n{SHORT}",
    ],
)
def test_moves_that_cannot_be_or_end_elsewhere_are_wrong_and_nothing_is_printed(
    response: str, capsys: pytest.CaptureFixture[str]
):
    verdict = judge(TOWER, response)
    assert not verdict.correct
    assert verdict.stated is not None
    assert capsys.readouterr().out == ""


def test_a_response_without_moves_states_nothing():
    assert judge(TOWER, "Each line is 'Move disk X from Peg Y to Peg Z'.").stated is None
    assert judge(TOWER, "").stated is None


# Paths through a grid.

GRID = one(
    "shortest_path",
    {"matrix": [["*", "O", "X"], ["O", "O", "#"]]},
    "right down right",
    "directions",
)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("right down right", True),
        ("down right right", True),  # as short as the gold path
        ("**Right, then down, then right.**", True),
        ("1. Right\n2. Down\n3. Right", True),
        ("The path is right -> down -> right. This is right.", True),
        ("I first thought of up up up up.\nAnswer: down, right, right", True),
        ("right left right down right", False),  # gets there, in more steps
        ("right right down", False),  # through the blocked cell
        ("down down", False),
        ("infeasible", False),
    ],
)
def test_directions_are_read_out_of_what_surrounds_them(response: str, right: bool):
    assert judge(GRID, response).correct is right


def test_infeasible_is_an_answer_and_prose_is_none():
    blocked = one("shortest_path", {"matrix": [["*", "X", "#"]]}, "infeasible", "directions")
    assert judge(blocked, "It is infeasible.").correct
    assert judge(blocked, "It is infeasible.").stated == "infeasible"
    assert judge(blocked, "There is none.").stated is None
    assert not judge(blocked, "right right").correct


# Answers that are texts, and what a verifier cannot read.


def test_a_text_is_found_in_a_tag_a_box_a_sentence_or_as_the_whole():
    father = one("family_relationships", {}, "father", "text")
    for text in (
        "father",
        "The answer is **father**.",
        "Answer: father",
        r"\boxed{father}",
        "```\nfather\n```",
    ):
        assert judge(father, text).correct, text
        assert judge(father, text).stated == "father"
    assert not judge(father, "The answer is mother, not father.").correct
    assert judge(father, " ").stated is None
    rows = one("rotate_matrix", {}, "1 2\n3 4", "text")
    assert judge(rows, "The answer is:\n1 2\n3 4").correct


def test_what_a_verifier_fails_on_or_takes_for_anything_is_not_handed_to_it():
    factors = one("prime_factorization", {}, "2 × 3", "text")
    with pytest.raises(ValueError, match="invalid literal for int"):
        theirs(factors, "two and three")
    assert not judge(factors, "two and three").correct
    assert judge(factors, "The answer is 3 × 2.").correct

    grid = one("game_of_life", {}, "[[1, 0], [0, 1]]", "text")
    with pytest.raises(KeyError):
        theirs(grid, '{"a": 1}')
    assert not judge(grid, '{"a": 1}').correct
    assert judge(grid, "[[1,0],[0,1]]").correct

    number = one("complex_arithmetic", {"result": [1.0, 2.0]}, "1.0 + 2.0i", "text")
    assert theirs(number, "NaN") == 1
    assert not judge(number, "NaN").correct
    assert judge(number, "1.0 + 2.0i").correct


# Names.

EVALUATES_ITS_OWN = {
    "basic_arithmetic": "the expression it made",
    "bitwise_arithmetic": "the expression it made",
    "number_sorting": "its gold answer, where that is not JSON",
}


def test_no_data_set_that_is_offered_evaluates_what_a_model_wrote():
    evaluates = re.compile(r"(?<![\w.])(?:eval|exec)\(|\.?\b(?:parse_expr|sympify|literal_eval)\(")
    modules = {name: inspect.getmodule(made_by) for name, (made_by, _) in gym.factory.DATASETS.items()}
    found = {
        name for name, module in modules.items() if module and evaluates.search(inspect.getsource(module))
    }
    assert found - set(REFUSED) == set(EVALUATES_ITS_OWN)
    assert {name for name, reason in REFUSED.items() if "evaluates" in reason} <= found


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("countdown", "its verifier evaluates what the model wrote as code"),
        ("codeio", "it runs programs that come as data"),
        ("rush_hour", "it gives no answer to hold its verifier against"),
        ("word_ladder", "its items change with Python's hash seed or the date"),
    ],
)
def test_a_data_set_that_is_not_safe_or_not_sound_is_refused_by_name(name: str, reason: str):
    with pytest.raises(InputError, match=rf"gym:{name} is not offered: {reason}.*gym:chain_sum, would work"):
        load_problems(f"gym:{name}", n=1)


def test_an_unknown_name_or_rung_is_refused_with_what_is_near():
    with pytest.raises(InputError, match=r"no data set called 'chain_sums'\. gym:chain_sum or .* would work"):
        load_problems("gym:chain_sums", n=1)
    with pytest.raises(InputError, match=r"called 'zzzzz'\. gym:chain_sum or gym:leg_counting would work"):
        load_problems("gym:zzzzz", n=1)
    with pytest.raises(
        InputError, match=r"gym:chain_sum has no rung '7'\. gym:chain_sum@2 or .*@12 would work"
    ):
        load_problems("gym:chain_sum@7", n=1)
    with pytest.raises(InputError, match=r"gym:gcd has no rung '2'\. gym:gcd would work"):
        load_problems("gym:gcd@2", n=1)
    with pytest.raises(InputError, match=r"'gym:gcd' has no fields to choose from"):
        load_problems("gym:gcd", n=1, prompt_field="question")


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(
        InputError, match=r"need the package reasoning-gym, .* pip install 'unlatch\[gym\]' would"
    ):
        load_problems("gym:chain_sum", n=1)
