"""An item is its prompt and answer; what cannot be one is refused."""

from dataclasses import replace

import pytest

from analyses.items.item import Item
from hooks.errors import InputError

ITEM = Item(
    family="knowledge",
    kind="capital",
    before="The capital of ",
    subject="France",
    after=" is",
    answer="Paris",
    others=(("Spain", "Madrid"), ("Italy", "Rome")),
    choices=("Paris", "Madrid", "Rome", "Oslo"),
)


def test_a_partner_differs_in_subject_and_answer_alone():
    spain, italy = ITEM.partners()
    assert (spain.prompt, spain.answer) == ("The capital of Spain is", "Madrid")
    assert (italy.prompt, italy.answer) == ("The capital of Italy is", "Rome")
    for partner in (spain, italy):
        same = replace(partner, subject=ITEM.subject, answer=ITEM.answer, others=ITEM.others)
        assert same == ITEM
        assert next(partner.partners()).prompt == ITEM.prompt


@pytest.mark.parametrize("field", ["kind", "before", "subject", "after", "answer"])
def test_the_id_changes_with_what_the_model_reads_and_must_say(field: str):
    assert replace(ITEM, **{field: getattr(ITEM, field) + "x"}).id != ITEM.id


def test_the_id_does_not_change_between_machines_and_releases():
    # Runs resume by it.
    assert ITEM.id == "capital-bae766cb4d10"
    assert replace(ITEM, others=(), choices=()).id == ITEM.id, "what partners there are is no part of it"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("7", "number"),
        ("Na", "symbol"),
        ("K", "symbol"),
        ("Lyon", "name"),
        ("Éire", "name"),
        ("on", "word"),
        ("yen", "word"),
    ],
)
def test_an_answer_is_a_number_a_symbol_a_name_or_a_word(answer: str, kind: str):
    assert replace(ITEM, answer=answer).answer_type == kind


def test_a_guesser_is_right_once_in_as_many_times_as_there_are_choices():
    assert ITEM.guess_rate == 1 / 4
    assert replace(ITEM, choices=()).guess_rate == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"subject": ""}, "has '' as its subject"),
        ({"answer": " Paris"}, "has ' Paris' as its answer"),
        ({"after": " is "}, "ends in a space, which belongs to the answer"),
        ({"others": (("France", "Lyon"),)}, "shares with the item"),
        ({"others": (("Gaul", "Paris"),)}, "shares with the item"),
        ({"others": (("Spain", ""),)}, "has '' as its answer of other 0"),
    ],
)
def test_what_cannot_be_an_item_is_refused(change: dict[str, object], said: str):
    with pytest.raises(InputError, match=said):
        replace(ITEM, **change)
