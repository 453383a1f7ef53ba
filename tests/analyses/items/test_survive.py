"""The filter on a model whose every next token is planted: what is right stays, the rest is named."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from analyses.items.item import Item
from analyses.items.reasoning import reasoning_items
from analyses.items.survive import answers, guessed_kinds, survive, table
from hooks.language_model import LanguageModel
from hooks.load import adopt
from hooks.rows import Row

WORDS = ("E", *"abcdefghij", *"ABCDFGHIJ", "ask", "<pad>")
SCALE = 3.0


def model_that_says(next_word: Mapping[str, str]) -> LanguageModel:
    """A model with words for tokens, whose blocks write nothing: the last word alone says the next."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>")),
        pad_token="<pad>",
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
        pad_token_id=WORDS.index("<pad>"),
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight[:] = torch.eye(len(WORDS), 32)
        for word, following in next_word.items():
            if following == "NaN":
                model.model.embed_tokens.weight[WORDS.index(word)] = float("nan")
            else:
                model.lm_head.weight[WORDS.index(following), WORDS.index(word)] = SCALE
    return adopt(model, tokenizer, name="planted", check=False)


def asks(subject: str, answer: str, *others: str, kind: str = "capital", choices: str = "") -> Item:
    """ask <subject>: the subject is the last token, so the planted model answers it."""
    pairs = tuple((other, other.upper()) for other in others)
    return Item("knowledge", kind, "ask ", subject, "", answer, pairs, tuple(choices))


RIGHT = {word: word.upper() for word in "abcde"}


def test_exactly_what_is_answered_right_survives():
    lm = model_that_says(RIGHT | {"f": "A"})
    items = [
        asks("a", "A", "b"),
        asks("f", "F", "b"),  # the model says A
        asks("c", "C", "f"),  # and of the partner too
        asks("d", "D", "e"),
    ]
    found = survive(lm, items)
    assert [s.item for s in found.survivors] == [items[0], items[3]]
    assert [s.partner.subject for s in found.survivors] == ["b", "e"]
    reasons = [(e.item, e.reason, e.said) for e in found.exclusions]
    assert reasons == [
        (items[1], "answered wrong", "A"),
        (items[2], "partner answered wrong", "C"),
    ]


def test_the_pairs_hold_the_tokens_of_item_and_partner():
    found = survive(model_that_says(RIGHT), [asks("a", "A", "b")])
    pair = found.survivors[0].pair
    ask, a, b, big_a, big_b = (WORDS.index(word) for word in ("ask", "a", "b", "A", "B"))
    assert (pair.clean, pair.corrupted) == (Row((ask, a), 2), Row((ask, b), 2))
    assert (pair.answer, pair.corrupted_answer, pair.subject) == (big_a, big_b, (1, 2))


def test_the_log_probabilities_are_the_models():
    """Identity: one logit of SCALE·√32 (the norm of a unit vector), all the others 0."""
    found = survive(model_that_says(RIGHT), [asks("a", "A", "b")])
    height = SCALE * math.sqrt(32)
    expected = height - math.log(math.exp(height) + len(WORDS) - 1)
    assert found.survivors[0].logp == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert found.survivors[0].corrupted_logp == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("partners", [1, 2, 3])
def test_partners_are_tried_until_one_is_answered_right(partners: int):
    lm = model_that_says({"a": "A", "b": "B"})
    items = [asks("a", "A", "b", "f", "g", "h")]
    partner_of = {}
    for seed in range(12):
        found = survive(lm, items, seed=seed, partners=partners)
        partner_of[seed] = [s.partner.subject for s in found.survivors]
    survived = sum(names == ["b"] for names in partner_of.values())
    assert set(map(tuple, partner_of.values())) <= {("b",), ()}
    assert 0 < survived < 12, "the seed says which come first"
    more = [survive(lm, items, seed=seed, partners=4).survivors for seed in range(12)]
    assert all(more), "with all four tried, the one that is answered right is found"


def test_the_partners_answer_need_not_be_right_where_that_is_not_asked():
    lm = model_that_says({"a": "A"})
    (survivor,) = survive(lm, [asks("a", "A", "f")], both=False).survivors
    assert survivor.partner.subject == "f"
    assert survivor.corrupted_logp == pytest.approx(-math.log(len(WORDS))), "every word is as likely"


def test_a_model_that_says_nothing_finite_answers_nothing_right():
    """E is token 0, which is the largest of logits that are all NaN."""
    lm = model_that_says({"a": "A", "b": "NaN"})
    found = survive(lm, [asks("b", "E", "a"), asks("a", "A", "b")])
    assert WORDS.index("E") == 0
    assert not found.survivors
    assert [e.reason for e in found.exclusions] == ["answered wrong", "partner answered wrong"]


def test_what_the_tokenizer_cannot_pair_is_named():
    lm = model_that_says(RIGHT)
    found = survive(lm, [asks("a", "A B", "b"), asks("a", "A"), asks("a", "A", "b")])
    assert [e.reason for e in found.exclusions] == ["multi-token answer", "no partner of equal length"]
    assert len(found.survivors) == 1


def test_a_kind_that_is_guessed_has_no_survivors():
    """The model says A to all but one: of nine items of two choices one is right with its partner."""
    lm = model_that_says({"a": "A", "b": "B", **{word: "A" for word in "cdefghij"}})
    guessed = [asks(w, w.upper(), "b", kind="two", choices="AB") for w in "acdefghij"]
    found = survive(lm, [*guessed, asks("a", "A", "b"), asks("b", "B", "a")])
    assert [s.item.kind for s in found.survivors] == ["capital", "capital"]
    assert found.exclusions[0].reason == "kind no better than guessing"
    assert found.counts()["knowledge"]["two"] == {
        "items": 9,
        "survived": 0,
        "answered wrong": 8,
        "kind no better than guessing": 1,
    }


def outcomes(n: int, right: int, choices: str) -> list[tuple[Item, bool]]:
    return [(asks("a", "A", choices=choices), place < right) for place in range(n)]


@pytest.mark.parametrize(
    ("n", "right", "choices", "both", "guessed"),
    [
        (100, 25, "AB", True, True),  # 1/4 is what a guesser gets
        (100, 32, "AB", True, True),  # P(X >= 32) = 0.07
        (100, 34, "AB", True, False),  # P(X >= 34) = 0.03
        (100, 50, "AB", False, True),
        (100, 60, "AB", False, False),
        (6, 2, "ABCDEFGHI", True, False),
        (6, 0, "ABCDEFGHI", True, True),
        (6, 0, "", True, False),  # of whose guesser nothing is known
    ],
)
def test_a_kind_must_beat_the_guesser(n: int, right: int, choices: str, both: bool, guessed: bool):
    assert bool(guessed_kinds(outcomes(n, right, choices), both=both)) == guessed


def test_counts_add_up_and_make_a_table():
    lm = model_that_says(RIGHT | {"f": "A"})
    items = [asks("a", "A", "b"), asks("f", "F", "b"), asks("c", "C"), asks("d", "D", "e", kind="other")]
    counts = survive(lm, items).counts()
    assert counts["knowledge"]["capital"] == {
        "items": 3,
        "survived": 1,
        "no partner of equal length": 1,
        "answered wrong": 1,
    }
    for count in counts["knowledge"].values():
        assert count["items"] == sum(n for outcome, n in count.items() if outcome != "items")
    rows = table(counts)
    assert [(row["kind"], row["items"], row["survived"]) for row in rows] == [
        ("capital", 3, 1),
        ("other", 1, 1),
    ]
    assert rows[1]["answered wrong"] == 0
    assert len({tuple(row) for row in rows}) == 1, "every row has every column"


def test_the_batches_do_not_matter(smollm2: LanguageModel):
    items = reasoning_items(5, kinds=["elimination", "addition"])
    alone, together = (
        survive(smollm2, items, ask=lambda _, asked, rows=rows: answers(smollm2, asked, max_rows=rows))
        for rows in (1, 64)
    )
    assert [e.item for e in alone.exclusions] == [e.item for e in together.exclusions]
    assert len(alone.survivors) == len(together.survivors) > 0
    for one, other in zip(alone.survivors, together.survivors, strict=True):
        assert (one.item, one.partner, one.pair) == (other.item, other.partner, other.pair)
        assert one.logp == pytest.approx(other.logp, abs=1e-3)


@torch.no_grad()
def test_the_bundled_models_answers_are_those_of_an_unpadded_pass(smollm2: LanguageModel):
    """Independent code: text in, the whole logits of one prompt, the decoded first choice."""
    items = reasoning_items(10, kinds=["elimination"])[4:]
    found = survive(smollm2, items)
    survived = {s.item.id: s for s in found.survivors}
    assert survived
    for item in items:
        ids = smollm2.tokenizer(item.prompt, return_tensors="pt").input_ids
        if item.answer_type == "number":
            ids = smollm2.tokenizer(item.prompt + " ", return_tensors="pt").input_ids
        logits = smollm2.model(ids).logits[0, -1]
        right = smollm2.tokenizer.decode([int(logits.argmax())]).strip() == item.answer
        assert right or item.id not in survived
        if item.id in survived:
            assert float(logits.log_softmax(-1).max()) == pytest.approx(survived[item.id].logp, abs=1e-3)


def test_the_filter_leaves_no_hook(hook_count: Callable[[torch.nn.Module], int]):
    lm = model_that_says(RIGHT)
    before = hook_count(lm.model)
    survive(lm, [asks("a", "A", "b")])
    assert hook_count(lm.model) == before
