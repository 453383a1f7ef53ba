"""Items as tokens: prompt and answer together are the prompt's tokens and one more, on two tokenizers."""

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from analyses.items.facts import knowledge_items
from analyses.items.item import Item
from analyses.items.reasoning import reasoning_items
from analyses.items.tokenized import TokenizedItem, pairs_of, tokenize


@pytest.fixture(params=["tiny", "bundled"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    if request.param == "tiny":
        return request.getfixturevalue("tokenizer_with")()
    return request.getfixturevalue("smollm2").tokenizer


def item(before: str, subject: str, after: str, answer: str, *others: tuple[str, str]) -> Item:
    return Item("knowledge", "planted", before, subject, after, answer, others)


# The tiny tokenizer writes almost every letter as a token: only digits and single letters are answers.
ONE_CHARACTER = [
    *reasoning_items(60, kinds=["addition", "larger_number", "look_up"]),
    *(i for i in knowledge_items() if i.kind in ("next_letter", "element_number")),
]
ORDINARY = [*reasoning_items(136), *knowledge_items(per_kind=3)]


def test_prompt_and_answer_together_are_the_prompt_and_one_token(tokenizer: PreTrainedTokenizerBase):
    made = 0
    for it in ONE_CHARACTER + ORDINARY:
        found = pairs_of(tokenizer, it)
        if isinstance(found, str):
            continue
        made += 1
        for side, row, answer in (
            (found[0].item, found[0].pair.clean, found[0].pair.answer),
            (found[0].partner, found[0].pair.corrupted, found[0].pair.corrupted_answer),
        ):
            whole = tokenizer(f"{side.prompt} {side.answer}", add_special_tokens=False).input_ids
            assert [*row.tokens, answer] == whole
            assert tokenizer.decode(list(row.tokens)).rstrip(" ") == side.prompt
            assert tokenizer.decode([answer]).strip() == side.answer
            assert row.prompt_length == len(row.tokens)
    assert made > 40


def test_a_partners_prompt_is_as_long_and_differs_in_the_subject_alone(tokenizer: PreTrainedTokenizerBase):
    for it in ONE_CHARACTER + ORDINARY:
        found = pairs_of(tokenizer, it, most=3)
        if isinstance(found, str):
            continue
        for chosen in found:
            pair, (start, stop) = chosen.pair, chosen.pair.subject
            clean, corrupted = pair.clean.tokens, pair.corrupted.tokens
            assert len(clean) == len(corrupted)
            assert clean[:start] + clean[stop:] == corrupted[:start] + corrupted[stop:]
            assert tokenizer.decode(list(clean[start:stop])).strip() == it.subject
            assert tokenizer.decode(list(corrupted[start:stop])).strip() == chosen.partner.subject
            assert pair.answer != pair.corrupted_answer
        assert len({chosen.partner.subject for chosen in found}) == len(found)


def test_every_reasoning_item_makes_a_pair_on_the_bundled_tokenizer(smollm2):
    items = reasoning_items(340)
    lost = [it.prompt for it in items if isinstance(pairs_of(smollm2.tokenizer, it), str)]
    assert len(lost) < 0.02 * len(items), lost


def test_most_facts_make_a_pair_on_the_bundled_tokenizer(smollm2):
    items = knowledge_items(per_kind=5)
    lost = [it for it in items if isinstance(pairs_of(smollm2.tokenizer, it), str)]
    assert len(lost) < 0.3 * len(items)


def test_where_the_space_is_a_token_of_its_own_it_is_the_prompts(tokenizer: PreTrainedTokenizerBase):
    found = tokenize(tokenizer, item("", "3", " + 4 =", "7"))
    assert not isinstance(found, str)
    assert tokenizer.decode(list(found.prompt)) == "3 + 4 = "
    assert (found.subject, tokenizer.decode([found.answer])) == ((0, 1), "7")


def test_where_it_is_not_it_is_the_answers(smollm2):
    found = tokenize(smollm2.tokenizer, item("The capital of ", "France", " is", "Paris"))
    assert not isinstance(found, str)
    assert smollm2.tokenizer.decode(list(found.prompt)) == "The capital of France is"
    assert (found.subject, smollm2.tokenizer.decode([found.answer])) == ((3, 4), " Paris")


def test_a_space_before_the_subject_is_not_the_subjects(tokenizer: PreTrainedTokenizerBase):
    found = tokenize(tokenizer, item("4 + ", "3", " =", "7"))
    assert not isinstance(found, str)
    start, stop = found.subject
    assert tokenizer.decode(list(found.prompt[start:stop])) == "3"


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (TokenizedItem((1, 9, 3), 8, (1, 2)), True),
        (TokenizedItem((1, 9, 4), 8, (1, 2)), False),
        (TokenizedItem((0, 9, 3), 8, (1, 2)), False),
        (TokenizedItem((1, 9, 3), 7, (1, 2)), False),
        (TokenizedItem((1, 9, 3), 8, (0, 2)), False),
        (TokenizedItem((1, 9, 9, 3), 8, (1, 3)), False),
    ],
)
def test_a_partner_fits_if_all_but_subject_and_answer_is_the_same(other: TokenizedItem, fits: bool):
    assert TokenizedItem((1, 2, 3), 7, (1, 2)).fits(other) == fits


def test_an_answer_of_several_tokens_is_named(tokenizer: PreTrainedTokenizerBase):
    assert tokenize(tokenizer, item("The capital of ", "Mali", " is", "Bamako")) == "multi-token answer"
    assert pairs_of(tokenizer, item("", "8", " + 4 =", "12", ("1", "5"))) == "multi-token answer"


def test_an_item_without_a_partner_of_equal_length_is_named(tokenizer: PreTrainedTokenizerBase):
    lonely = item("", "3", " + 4 =", "7", ("12", "16"), ("30", "34"))
    assert pairs_of(tokenizer, lonely) == "no partner of equal length"
    assert pairs_of(tokenizer, item("", "3", " + 4 =", "7")) == "no partner of equal length"


def test_a_partner_whose_answer_is_of_several_tokens_is_passed_over(tokenizer: PreTrainedTokenizerBase):
    (found,) = pairs_of(tokenizer, item("", "3", " + 4 =", "7", ("9", "13"), ("2", "6")), most=3)
    assert found.partner.subject == "2"


def test_a_subject_that_is_part_of_a_token_is_named(smollm2):
    found = tokenize(smollm2.tokenizer, item("The capital of Fr", "ance", " is", "Paris"))
    assert found == "subject not found in the tokens"


def test_an_answer_that_changes_the_tokens_of_the_prompt_is_named():
    """Without words, a tokenizer may join the prompt's last letter, the space and the answer."""
    core = Tokenizer(
        models.BPE({c: i for i, c in enumerate(["x", "=", " ", "7", "= ", "= 7"])}, [("=", " "), ("= ", "7")])
    )
    joined = PreTrainedTokenizerFast(tokenizer_object=core)
    assert tokenize(joined, item("", "x", "=", "7")) == "answer does not continue the prompt"


def test_the_seed_chooses_the_partner(smollm2):
    it = next(i for i in knowledge_items() if i.kind == "next_letter")
    chosen = [pairs_of(smollm2.tokenizer, it, seed=seed)[0].partner.subject for seed in range(6)]
    again = [pairs_of(smollm2.tokenizer, it, seed=seed)[0].partner.subject for seed in range(6)]
    assert chosen == again
    assert len(set(chosen)) > 2
    assert pairs_of(smollm2.tokenizer, it, most=3)[0] == pairs_of(smollm2.tokenizer, it)[0]


def test_a_tokenizer_that_begins_with_a_token_of_its_own_keeps_it(tokenizer_with):
    tokenizer = tokenizer_with()
    plain = tokenize(tokenizer, item("", "3", " + 4 =", "7"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    begun = tokenize(tokenizer, item("", "3", " + 4 =", "7"))
    assert not isinstance(plain, str)
    assert begun == replace(plain, prompt=(tokenizer.bos_token_id, *plain.prompt), subject=(1, 2))
