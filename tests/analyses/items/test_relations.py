"""Relations files: read as tables, or refused with what would work."""

import json
from pathlib import Path

import pytest

from analyses.items.facts import knowledge_items
from analyses.items.relations import read_relation
from hooks.errors import InputError

HUES = {"grass": "green", "snow": "white", "coal": "black", "blood": "red", "milk": "white", "sky": "blue"}
RELATION = {
    "name": "hue of a thing",
    "prompt_templates": ["The hue of {} is ", "{} is colored"],
    "prompt_templates_zs": ["ignored {}"],
    "properties": {"symmetric": False},
    "samples": [{"subject": s, "object": o} for s, o in HUES.items()],
}


def written(folder: Path, relation: object) -> Path:
    path = folder / "relation.json"
    path.write_text(json.dumps(relation), encoding="utf-8")
    return path


def test_a_relation_is_read_as_a_table(tmp_path: Path):
    table = read_relation(written(tmp_path, RELATION))
    assert table.kind == "hue_of_a_thing"
    assert table.templates == ("The hue of {} is", "{} is colored"), "the space belongs to the answer"
    assert dict(table.facts + table.demonstrations) == HUES
    assert len(table.demonstrations) == 4
    assert len({answer for _, answer in table.demonstrations}) == 4, "different objects are shown first"


def test_a_relation_makes_items(tmp_path: Path):
    items = knowledge_items([read_relation(written(tmp_path, RELATION))])
    assert len(items) == 2
    assert all(HUES[item.subject] == item.answer for item in items)


def test_the_seed_chooses_the_demonstrations(tmp_path: Path):
    path = written(tmp_path, RELATION)
    assert read_relation(path, seed=1) == read_relation(str(path), seed=1)
    assert len({read_relation(path, seed=seed).demonstrations for seed in range(5)}) > 1


def test_a_subject_with_two_objects_is_left_out(tmp_path: Path):
    samples = [
        *RELATION["samples"],
        {"subject": "sky", "object": "gray"},
        {"subject": "ice", "object": "blue"},
    ]
    table = read_relation(written(tmp_path, RELATION | {"samples": samples}))
    subjects = {subject for subject, _ in table.facts + table.demonstrations}
    assert subjects == set(HUES) - {"sky"} | {"ice"}


def test_the_same_fact_twice_counts_once(tmp_path: Path):
    samples = [*RELATION["samples"], {"subject": " sky", "object": "blue "}]
    table = read_relation(written(tmp_path, RELATION | {"samples": samples}))
    assert dict(table.facts + table.demonstrations) == HUES


@pytest.mark.parametrize(
    ("relation", "said"),
    [
        ([1], "holds a JSON list"),
        ({k: v for k, v in RELATION.items() if k != "samples"}, "has no 'samples' that is a list"),
        (RELATION | {"prompt_templates": ["none"]}, r"A text with one \{\}"),
        (RELATION | {"samples": [{"subject": "sky"}]}, 'Sample 1 of .* is .*"object": "Paris"'),
        (RELATION | {"samples": [{"subject": "sky", "object": ""}]}, "Sample 1 of"),
        (RELATION | {"samples": ["sky"]}, "Sample 1 of"),
        (RELATION | {"samples": RELATION["samples"][:5]}, "holds 5 subjects .* 6 would work"),
    ],
)
def test_what_is_no_relation_is_refused(tmp_path: Path, relation: object, said: str):
    with pytest.raises(InputError, match=said):
        read_relation(written(tmp_path, relation))


def test_a_relation_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="There is no file"):
        read_relation(tmp_path / "relation.json")
