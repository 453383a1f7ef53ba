"""Tables of facts: no contradiction within or between them, and prompts from which nothing can be copied."""

import json
import re
from calendar import month_name
from collections import Counter
from pathlib import Path

import pytest

from analyses.items.facts import Table, knowledge_items, read_table, tables
from hooks.errors import InputError

TABLES = {table.kind: table for table in tables()}
ITEMS = knowledge_items()
FACTS = {kind: dict(t.facts + t.demonstrations) for kind, t in TABLES.items()}


def test_there_are_more_than_400_items_of_many_kinds():
    assert len(ITEMS) > 1000
    assert len(TABLES) > 30
    assert max(Counter(item.kind for item in ITEMS).values()) < 0.1 * len(ITEMS)


def test_no_subject_comes_twice_and_demonstrations_are_not_asked():
    for table in TABLES.values():
        subjects = [subject for subject, _ in table.facts + table.demonstrations]
        assert len(set(subjects)) == len(subjects), table.kind
        assert len(table.demonstrations) >= 1, table.kind
        assert len({answer for _, answer in table.facts}) >= 2, table.kind


def test_a_table_is_called_as_its_file():
    folder = Path(__file__).parents[3] / "analyses" / "items" / "tables"
    assert sorted(TABLES) == sorted(path.stem for path in folder.glob("*.json"))


@pytest.mark.parametrize(
    "kind",
    [
        "capital",
        "element_symbol",
        "element_number",
        "planet_number",
        "month_number",
        "roman_numeral",
        "next_month",
        "next_letter",
        "plural",
        "past_tense",
    ],
)
def test_of_what_each_has_its_own_no_answer_comes_twice(kind: str):
    answers = list(FACTS[kind].values())
    assert len(set(answers)) == len(answers)


def test_the_tables_do_not_contradict_each_other():
    country_of = FACTS["city"]
    for country, capital in FACTS["capital"].items():
        assert country_of.get(capital, country) == country
    european = {country for country, where in FACTS["continent"].items() if where == "Europe"}
    for country, currency in FACTS["currency"].items():
        if currency == "euro":
            assert country in european
    for lang in ("Spanish", "French", "German", "Italian", "Portuguese", "Dutch"):
        assert sorted(FACTS[f"{lang.lower()}_numeral"].values()) == list("123456789")


def test_numbers_agree_with_an_independent_count():
    for month, number in FACTS["month_number"].items():
        assert month_name[int(number)] == month
    for month, following in FACTS["next_month"].items():
        assert month_name[list(month_name).index(month) % 12 + 1] == following
    for letter, number in FACTS["letter_number"].items():
        assert ord(letter) - ord("A") + 1 == int(number)
    for letter, following in FACTS["next_letter"].items():
        assert ord(following) == ord(letter) + 1
    for symbols, number in FACTS["roman_numeral"].items():
        values = [{"I": 1, "V": 5, "X": 10}[symbol] for symbol in symbols]
        later = [*values[1:], 0]
        assert sum(-v if v < w else v for v, w in zip(values, later, strict=True)) == int(number)


def test_the_opposite_of_an_opposite_of_an_opposite_is_an_opposite():
    opposite = FACTS["opposite"]
    for word, contrary in opposite.items():
        back = opposite.get(contrary)
        if back is not None:
            assert opposite[back] == contrary, (word, contrary, back)


def test_an_element_symbol_begins_like_an_element_or_its_latin_name():
    latin = dict(sodium="Na", potassium="K", iron="Fe", copper="Cu", silver="Ag", tin="Sn", antimony="Sb")
    latin |= dict(tungsten="W", gold="Au", mercury="Hg", lead="Pb")
    for element, symbol in FACTS["element_symbol"].items():
        assert symbol == latin.get(element, symbol)
        assert element in latin or element[0].upper() == symbol[0]


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w'-]+", text))


@pytest.mark.parametrize("seed", [0, 1])
def test_no_prompt_names_its_answer_nor_a_partners(seed: int):
    for item in knowledge_items(seed=seed):
        assert item.answer not in words(item.before + item.after), item.prompt
        for _, answer in item.others:
            assert answer not in words(item.before), item.prompt


def test_a_prompt_ends_in_the_template_filled_with_the_subject():
    for item in ITEMS:
        last = item.prompt.rpartition("\n")[2]
        asked = {template.replace("{}", item.subject) for template in TABLES[item.kind].templates}
        assert last in asked
        assert FACTS[item.kind][item.subject] == item.answer


def test_demonstrations_are_true_sentences_of_the_same_template():
    for item in ITEMS:
        *shown, last = item.prompt.split("\n")
        head, tail = last.removesuffix(item.subject + item.after), item.after
        for line in shown:
            match = re.fullmatch(re.escape(head) + "(.*)" + re.escape(tail) + r" (.*)\.", line)
            assert match, (line, item.prompt)
            assert (match[1], match[2]) in TABLES[item.kind].demonstrations
        assert len(shown) <= 3


def test_every_item_has_a_partner_and_every_partner_is_a_fact():
    for item in ITEMS:
        assert item.others, item.prompt
        for subject, answer in item.others:
            assert FACTS[item.kind][subject] == answer


def test_the_seed_determines_the_items():
    assert knowledge_items(seed=3) == knowledge_items(seed=3)
    assert {i.id for i in knowledge_items(seed=3)} != {i.id for i in knowledge_items(seed=4)}
    assert len({item.id for item in ITEMS}) == len(ITEMS)


def test_demonstrations_can_be_left_out_and_kinds_cut_short():
    bare = knowledge_items(shots=(0, 0), per_kind=5)
    assert max(Counter(item.kind for item in bare).values()) == 5
    assert not any("\n" in item.prompt for item in bare)


@pytest.mark.parametrize(
    ("arguments", "said"), [({"shots": (3, 1)}, "a range such as"), ({"per_kind": 0}, "from 1")]
)
def test_numbers_that_make_no_items_are_refused(arguments: dict[str, object], said: str):
    with pytest.raises(InputError, match=said):
        knowledge_items(**arguments)


TABLE = {
    "kind": "sound",
    "templates": ["A {} says"],
    "demonstrations": ["cow"],
    "facts": {"cow": "moo", "cat": "meow", "dog": "woof"},
}


def written(folder: Path, text: str) -> Path:
    path = folder / "table.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_is_read_as_it_is_written(tmp_path: Path):
    table = read_table(written(tmp_path, json.dumps(TABLE)))
    assert table == Table("sound", ("A {} says",), (("cat", "meow"), ("dog", "woof")), (("cow", "moo"),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "holds a JSON list, not an object"),
        (json.dumps(TABLE).replace("dog", "cat"), "has 'cat' twice"),
        (json.dumps(TABLE | {"facts": 1}), "has no 'facts' that is a dict"),
        (json.dumps(TABLE | {"facts": {"cow": 1}}), "an answer that is no text"),
        (json.dumps(TABLE | {"demonstrations": ["pig"]}), "demonstrates 'pig', which is not among its facts"),
        (json.dumps(TABLE | {"templates": []}), "has no templates"),
        (json.dumps(TABLE | {"templates": ["A {} and a {}"]}), r"A text with one \{\}"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, said: str):
    with pytest.raises(InputError, match=said):
        read_table(written(tmp_path, text))


def test_a_table_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"There is no file .*none\.json"):
        read_table(tmp_path / "none.json")
