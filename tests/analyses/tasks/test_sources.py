"""Loading problems: known shapes without configuration, and refusals that say what would work."""

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from analyses.tasks.problem import Problem
from analyses.tasks.sources import json_lines, load_problems
from analyses.tasks.verify import verify
from analyses.tasks.word_problems import word_problems
from hooks.errors import InputError

GSM8K = [
    {
        "question": "Ada folds 3 rows of 4 boats, then 5 more. How many boats?",
        "answer": "The rows hold 3*4=<<3*4=12>>12 boats.\nWith 5 more there are 12+5=<<12+5=17>>17.\n#### 17",
    },
    {"question": "How far is it?", "answer": "It is far.\n#### 1,080"},
]
SVAMP = [
    {
        "ID": "x-1",
        "Body": "Ada had 9 boats. If she gave 4 boats away",
        "Question": "How many boats does she have now?",
        "Equation": "( 9.0 - 4.0 )",
        "Answer": 5.0,
    },
    {"Body": "A pond holds 6 ducks.", "Question": "How many ducks are there?", "Answer": "6.0"},
    {"Body": "There were 2 frogs as well", "Question": "How many frogs?", "Answer": 2.5},
]
ASDIV = """Question,Numbers,Equation,Answer,Body,Ques_Statement
"ada has number0 boats , and bo has number1 . how many ?",7 2,+ number0 number1,9.0,b,q
"{}",{},+,66.0,b,q
""".format(" ".join(f"number{i}" for i in range(11)) + " ?", " ".join(str(i * 11) for i in range(11)))


def lines(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def by_id(problems: list[Problem]) -> dict[str, Problem]:
    return {problem.id: problem for problem in problems}


# Shapes that are recognised.


def test_gsm8k_rows_give_the_answer_after_the_hashes_and_worked_solutions(tmp_path: Path):
    source = written(tmp_path, "train.jsonl", lines(*GSM8K))
    problems = by_id(load_problems(source))
    assert problems["train-1"] == Problem(
        id="train-1",
        prompt=GSM8K[0]["question"],
        answer="17",
        source=source,
        solutions={
            "long": "The rows hold 3*4=12 boats.\nWith 5 more there are 12+5=17.\nThe answer is 17.",
            "brief": "3*4 = 12. 12+5 = 17. Answer: 17",
            "direct": "The answer is 17.",
        },
    )
    assert problems["train-2"].answer == "1080"
    assert set(problems["train-2"].solutions) == {"long", "direct"}, "it has no notes to be brief"
    for problem in problems.values():
        assert all(verify(problem.answer, text).correct for text in problem.solutions.values())


def test_svamp_rows_join_their_halves_and_lose_the_point_zero(tmp_path: Path):
    source = written(tmp_path, "S.json", json.dumps(SVAMP))
    problems = by_id(load_problems(source))
    assert [(problems[f"S-{i}"].prompt, problems[f"S-{i}"].answer) for i in (1, 2, 3)] == [
        ("Ada had 9 boats. If she gave 4 boats away, how many boats does she have now?", "5"),
        ("A pond holds 6 ducks. How many ducks are there?", "6"),
        ("There were 2 frogs as well. How many frogs?", "2.5"),
    ]


def test_asdiv_rows_get_their_numbers_back_and_number10_is_not_number1(tmp_path: Path):
    problems = by_id(load_problems(written(tmp_path, "dev.csv", ASDIV)))
    assert problems["dev-1"].prompt == "ada has 7 boats, and bo has 2. how many?"
    assert problems["dev-1"].answer == "9"
    assert problems["dev-2"].prompt == "0 11 22 33 44 55 66 77 88 99 110?"


def test_a_worked_solution_with_a_box_gives_what_is_in_the_box(tmp_path: Path):
    worked = "Half of it is $\\boxed{\\frac{3}{4}}$."
    row = {"problem": "How much?", "level": "Level 2", "solution": worked}
    (problem,) = load_problems(written(tmp_path, "math.jsonl", lines(row)))
    assert (problem.answer, problem.level) == ("\\frac{3}{4}", "Level 2")
    assert problem.solutions["long"] == worked
    assert verify(problem.answer, worked).correct


@pytest.mark.parametrize("prompt", ["question", "prompt", "problem", "input", "Question", "INPUT"])
@pytest.mark.parametrize("answer", ["answer", "target", "solution", "Answer"])
def test_the_usual_field_names_are_guessed(tmp_path: Path, prompt: str, answer: str):
    row = {"id": 4, answer: 18, prompt: " How many? "}
    (problem,) = load_problems(written(tmp_path, "own.jsonl", lines(row)))
    assert (problem.prompt, problem.answer, problem.solutions) == ("How many?", "18", {})


def test_named_fields_win_over_guessed_ones(tmp_path: Path):
    row = {"question": "Q", "answer": "1", "text": "T", "label": "2", "Body": "B", "Question": "?"}
    source = written(tmp_path, "own.jsonl", lines(row))
    (problem,) = load_problems(source, prompt_field="text", answer_field="label")
    assert (problem.prompt, problem.answer) == ("T", "2")


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (2, "2"),
        (2.0, "2"),
        (2.5, "2.5"),
        (-3.0, "-3"),
        ("1,234.00", "1234"),
        ("007", "007"),
        ("2.50", "2.50"),
        ("3/4", "3/4"),
        (" Paris ", "Paris"),
        ("1,2", "1,2"),
    ],
)
def test_printed_numbers_are_tidied_and_all_else_is_kept(tmp_path: Path, value, answer: str):
    row = {"question": "Q", "answer": value}
    (problem,) = load_problems(written(tmp_path, "own.jsonl", lines(row)))
    assert problem.answer == answer


def test_the_same_rows_are_the_same_problems_in_jsonl_json_and_csv(tmp_path: Path):
    rows = [{"question": f'Say "{i}", and\nthen {i + 1}?', "answer": str(i)} for i in range(20)]
    cells = ['"{}","{}"'.format(r["question"].replace('"', '""'), r["answer"]) for r in rows]
    texts = {
        "own.jsonl": "\n\n".join(json.dumps(row) for row in rows),
        "own.json": json.dumps(rows, indent=2),
        "own.csv": "\ufeffquestion,answer\r\n" + "\r\n".join(cells),
    }
    loaded = [
        [(p.id, p.prompt, p.answer) for p in load_problems(written(tmp_path, name, text), seed=3)]
        for name, text in texts.items()
    ]
    assert loaded[0] == loaded[1] == loaded[2]
    assert {row["question"] for row in rows} == {prompt for _, prompt, _ in loaded[0]}


# The order, and how many.


def test_the_seed_decides_the_order_and_n_takes_the_first(tmp_path: Path):
    rows = [{"question": f"Q{i}", "answer": i} for i in range(50)]
    source = written(tmp_path, "own.jsonl", lines(*rows))
    everything = load_problems(source, seed=1)
    expected = list(range(50))
    random.Random(1).shuffle(expected)
    assert [int(problem.answer) for problem in everything] == expected
    assert load_problems(source, n=7, seed=1) == everything[:7]
    assert load_problems(source, n=50, seed=2) != everything
    assert sorted(p.id for p in everything) == sorted(f"own-{i}" for i in range(1, 51))


def test_the_built_in_source_is_the_generator():
    assert load_problems("word-problems", n=12, seed=5) == word_problems(12, 5)
    assert load_problems("word-problems") == word_problems()


def test_more_problems_than_the_file_has_is_refused(tmp_path: Path):
    source = written(tmp_path, "own.jsonl", lines({"question": "Q", "answer": 1}))
    with pytest.raises(InputError, match=r"n=2 .*own\.jsonl, which has 1\. n=1 or fewer would work"):
        load_problems(source, n=2)


@pytest.mark.parametrize("source", ["word-problems", "own.jsonl"])
def test_fewer_than_one_problem_is_refused(source: str):
    with pytest.raises(InputError, match="n=0 problems were asked for; any n from 1 would work"):
        load_problems(source, n=0)


# Refusals.


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", "", r"a\.jsonl holds no problems: it has no rows"),
        ("a.json", "[]", r"it has no rows"),
        ("a.csv", "question,answer\n", r"it has no rows"),
        ("a.csv", "", r"it has no rows"),
        ("a.jsonl", '{"question": "Q", "answer": 1}\n\n{oops}\n', r"a\.jsonl:3 is not JSON: Expecti"),
        ("a.jsonl", "question,answer\nQ,1\n", r"a\.jsonl:1 is not JSON"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1 is not JSON"),
        ("a.jsonl", '{"question": "Q", "answer": 1}\n[1]', r":2 holds a JSON list, not an object"),
        ("a.jsonl", "7", r":1 holds a JSON number"),
        ("a.jsonl", "null", r":1 holds a JSON null"),
        ("a.json", '[{"question": "Q",}]', r"a\.json is not JSON: .*line 1 column"),
        ("a.json", '{"data": []}', r"holds a JSON object, not a list"),
        ("a.json", '[{"question": "Q", "answer": 1}, "x"]', r"Item 2 of .* is a JSON string"),
        ("a.csv", "question,answer\nQ,1\nQ,2,3\n", r"a\.csv:3 has more or fewer cells than the 2"),
        ("a.csv", "question,answer\nQ\n", r"a\.csv:2 has more or fewer cells"),
        ("a.csv", 'question,answer\n"Q,1\n', r"a\.csv:\d is not CSV: unexpected end of data"),
        ("a.jsonl", '{"text": "Q", "answer": 1}', r":1 has none of the prompt fields question, prom"),
        ("a.jsonl", '{"text": "Q", "answer": 1}', r"Its fields are text, answer; prompt_field="),
        ("a.jsonl", '{"question": "Q", "gold": 1}', r"none of the answer fields answer, target, so"),
        ("a.jsonl", '{"question": "Q", "gold": 1}', r"fields are question, gold; answer_field="),
        ("a.jsonl", "{}", r"Its fields are none"),
        ("a.jsonl", '{"question": "  ", "answer": 1}', r":1 is blank in its field 'question'"),
        ("a.jsonl", '{"question": 5, "answer": 1}', r":1 has a number in its field 'question'"),
        ("a.jsonl", '{"question": "Q", "answer": " "}', r":1 has a blank answer in its field 'answer'"),
        ("a.jsonl", '{"question": "Q", "answer": "so\\n####"}', r":1 has a blank answer"),
        ("a.jsonl", '{"question": "Q", "answer": null}', r"a null in its field 'answer'"),
        ("a.jsonl", '{"question": "Q", "answer": true}', r"a boolean in its field 'answer'"),
        ("a.jsonl", '{"question": "Q", "answer": ["a"]}', r"a list in its field 'answer'"),
        ("a.jsonl", '{"question": "Q", "answer": NaN}', r"nan in its field 'answer'"),
        ("a.csv", "question,answer\nQ,1\nQ,\n", r"a\.csv:3 has a blank answer"),
        ("a.csv", "Question,Numbers,Answer\nnumber0 number2,7 2,1\n", r"number2, .* holds 2: 7 2"),
        (
            "a.jsonl",
            json.dumps({"question": "Q", "solution": "word " * 60}),
            r"60 words in its field 'solution', and neither #### nor a box .* answer_field=",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_place_and_a_way_out(
    tmp_path: Path, name: str, text: str, says: str
):
    with pytest.raises(InputError, match=says) as refusal:
        load_problems(written(tmp_path, name, text))
    assert "would work" in str(refusal.value)


def test_a_bad_row_is_found_even_if_n_would_not_reach_it(tmp_path: Path):
    rows = [{"question": f"Q{i}", "answer": i if i != 30 else ""} for i in range(40)]
    source = written(tmp_path, "own.jsonl", lines(*rows))
    for seed in range(3):
        with pytest.raises(InputError, match=r"own\.jsonl:31 has a blank answer"):
            load_problems(source, n=1, seed=seed)


@pytest.mark.parametrize("role", ["prompt", "answer"])
def test_a_named_field_that_is_missing_is_refused_with_those_found(tmp_path: Path, role: str):
    source = written(tmp_path, "own.jsonl", lines({"question": "Q", "answer": 1}))
    says = rf":1 has no field 'text'\. Its fields are question, answer; {role}_field="
    with pytest.raises(InputError, match=says):
        load_problems(source, **{f"{role}_field": "text"})


def test_a_missing_file_a_folder_and_another_format_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"no\.csv is not there\. .*would work"):
        load_problems(str(tmp_path / "no.csv"))
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match=r"folder\.json is a folder\. .*would work"):
        load_problems(str(tmp_path / "folder.json"))
    for other in (written(tmp_path, "own.txt", "Q"), str(tmp_path)):
        with pytest.raises(InputError, match=r"neither a \.jsonl, a \.json nor a \.csv"):
            load_problems(other)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path):
    path = tmp_path / "own.jsonl"
    path.write_bytes(b'{"question": "caf\xe9"}')
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte 17\)"):
        load_problems(str(path))


def test_an_unknown_source_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"called 'word_problem'\. Did you mean 'word-problems'\?"):
        load_problems("word_problem")
    with pytest.raises(InputError, match=r"called 'zzz'\. 'word-problems', .* a path .* would work"):
        load_problems("zzz")


def test_the_built_in_source_has_no_fields_to_name():
    with pytest.raises(InputError, match="no fields to choose from"):
        load_problems("word-problems", prompt_field="question")


def test_json_lines_counts_blank_lines_but_does_not_return_them(tmp_path: Path):
    path = Path(written(tmp_path, "own.jsonl", '\n{"a": "x\\u2028y"}\n  \n{"b": 2}'))
    assert json_lines(path) == [(2, {"a": "x\u2028y"}), (4, {"b": 2})]


# The hub, which is outside the process and therefore faked.


class FakeHub:
    """``datasets.load_dataset``, answering from a dict and remembering what it was asked."""

    def __init__(self, splits: dict[str, list[dict[str, object]]]) -> None:
        self.splits, self.asked = splits, None

    def load_dataset(self, name: str, config: str | None):
        self.asked = (name, config)
        if name == "no/such":
            raise FileNotFoundError("Dataset 'no/such' doesn't exist on the Hub")
        if config == "none":
            raise ValueError("BuilderConfig 'none' not found. Available: ['main']")
        return self.splits


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub({"train": GSM8K, "test": [{"question": "Q", "answer": "#### 3"}]})
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fake.load_dataset))
    return fake


@pytest.mark.parametrize(
    ("source", "asked"),
    [("open-a_i/gsm.8k:main/test", ("open-a_i/gsm.8k", "main")), ("a/b/test", ("a/b", None))],
)
def test_a_hub_source_names_a_data_set_a_config_and_a_split(hub: FakeHub, source: str, asked):
    (problem,) = load_problems(source)
    assert hub.asked == asked
    assert (problem.id, problem.answer, problem.source) == (f"{source}-1", "3", source)


def test_a_hub_set_with_one_split_needs_no_split_named(hub: FakeHub):
    del hub.splits["train"]
    assert len(load_problems("a/b")) == 1


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("a/b:main", r"'a/b:main' has several splits.* 'a/b:main/train' or 'a/b:main/test' would"),
        ("a/b/dev", r"has no split 'dev'\. 'a/b/train' or 'a/b/test' would work"),
        ("no/such", r"'no/such' did not load: Dataset .*\n.*owner/name\[:config\]\[/split\]"),
        ("a/b:none/test", r"did not load: BuilderConfig 'none' not found\. Available"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_a_hub_source_that_does_not_load_is_refused_with_what_would(source: str, says: str):
    with pytest.raises(InputError, match=says):
        load_problems(source)


def test_a_bad_row_of_a_hub_set_is_named_by_its_number(hub: FakeHub):
    hub.splits["test"].append({"question": "Q", "answer": ""})
    with pytest.raises(InputError, match="a/b/test, row 2 has a blank answer"):
        load_problems("a/b/test")


def test_without_the_package_datasets_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'unlatch\[hub\]'"):
        load_problems("openai/gsm8k:main/test")
