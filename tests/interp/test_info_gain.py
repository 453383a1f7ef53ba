"""The gain is what slow loops and planted models say; nothing gains nothing; the controls are as long."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hooks import Add, adopt, inject
from hooks.chat import prompt_row, special_ids
from hooks.errors import InputError
from hooks.positions import everything, generated
from hooks.rows import Row
from hooks.sites import Site
from interp.continuations import continuation_logprobs
from interp.info_gain import KINDS, Question, equal_thoughts, info_gain, thought_gains, thought_ids

PROMPTS = ["What is 3 and 4?", "How many?", "And the last one of them, when all is said?"]
THOUGHTS = ["3 and 4 in a row", "the sum of the thing", "a"]
ANSWERS = [" 12", "7", " the inn"]


def ids(lm, text):
    return tuple(lm.tokenizer(text, add_special_tokens=False).input_ids)


@torch.no_grad()
def slowly(lm, before, answer):
    """log p of the answer, one full pass a token, unpadded and without a cache."""
    total, tokens = 0.0, list(before)
    for token in answer:
        logits = lm.model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
        total += float(logits.double().log_softmax(-1)[token])
        tokens.append(token)
    return total


def questions(n=6, *, words=("in", "an", "the", "a", "x", "y")):
    return [
        Question(
            f"Question {number}?",
            f" {number}",
            " ".join(words[(number + i) % len(words)] for i in range(5 + number)),
            " ".join([*words, f"so it is {number}"]),
        )
        for number in range(n)
    ]


# --- what is summed


def test_continuations_are_what_single_passes_give_in_every_family(lm, rows):
    some = [Row(row.tokens, start) for row, start in zip(rows, (4, 1, 12, 3), strict=True)]
    for row, nats in zip(some, continuation_logprobs(lm, some), strict=True):
        assert len(nats) == len(row.tokens) - row.prompt_length
        for place, found in enumerate(nats, row.prompt_length):
            alone = slowly(lm, row.tokens[:place], row.tokens[place : place + 1])
            assert found == pytest.approx(alone, abs=1e-4)


def test_continuations_do_not_depend_on_the_batch(llama, rows, monkeypatch):
    some = [Row(row.tokens, 2) for row in rows]
    together = continuation_logprobs(llama, some)
    monkeypatch.setattr("interp.continuations.MAX_LOGITS", 1)
    seen = []
    apart = continuation_logprobs(llama, some, on_tokens=seen.append)
    assert seen == [13, 9, 6, 4]
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_open_edits_know_where_the_prompt_of_each_row_ends(llama, rows, vector):
    """Rows of different lengths come out of order; edits of the answer leave what comes before as it is."""
    some = [Row(row.tokens, start) for row, start in zip(rows, (4, 2, 9, 3), strict=True)]
    with inject(llama, [Add(Site(1, "resid_post"), vector, positions=generated)]) as injection:
        edited = continuation_logprobs(llama, some)
    injection.receipt().check(generated)
    for row, nats in zip(some, edited, strict=True):
        alone = Row(row.tokens[: row.prompt_length + 1], row.prompt_length)
        with inject(llama, [Add(Site(1, "resid_post"), vector, positions=generated)]):
            assert nats[0] == pytest.approx(continuation_logprobs(llama, [alone])[0][0], abs=1e-4)
    assert not np.allclose(edited[0], continuation_logprobs(llama, some)[0])


def test_a_row_without_a_continuation_is_refused(llama, rows):
    with pytest.raises(InputError, match="Row 1 is all prompt: nothing follows it"):
        continuation_logprobs(llama, [Row(rows[0].tokens, 3), rows[1]])
    with pytest.raises(InputError, match="no rows to read"):
        continuation_logprobs(llama, [])


def test_the_gain_is_the_difference_of_two_slow_loops(llama):
    found = info_gain(llama, PROMPTS, THOUGHTS, ANSWERS, lead=" so")
    for place, (prompt, thought, answer) in enumerate(zip(PROMPTS, THOUGHTS, ANSWERS, strict=True)):
        before, lead = prompt_row(llama.tokenizer, prompt, think=False).tokens, ids(llama, " so")
        ending = ids(llama, answer)
        plain = slowly(llama, before + lead, ending)
        given = slowly(llama, before + ids(llama, thought) + lead, ending)
        assert found.without[place] == pytest.approx(plain, abs=1e-4)
        assert found.gain[place] == pytest.approx(given - plain, abs=2e-4)
        assert found.answer_tokens[place] == len(ending)
        assert found.per_token[place] == pytest.approx((given - plain) / len(ending), abs=2e-4)


def test_thought_and_answer_may_come_as_tokens_or_text_and_in_any_order(llama):
    one = info_gain(llama, PROMPTS, THOUGHTS, ANSWERS)
    other = info_gain(llama, PROMPTS[::-1], [ids(llama, t) for t in THOUGHTS[::-1]], ANSWERS[::-1])
    np.testing.assert_allclose(one.gain, other.gain[::-1], atol=1e-4)


# --- nothing gains nothing


@pytest.mark.parametrize("tags", [False, True])
def test_an_empty_thought_gains_exactly_nothing(lm, tags):
    found = info_gain(lm, PROMPTS, ["", THOUGHTS[1], ""], ANSWERS, tags=tags)
    assert found.gain[0] == found.gain[2] == 0
    assert found.gain[1] != 0


def test_a_teacher_is_whom_an_empty_thought_is_compared_with(llama, tiny):
    teacher = tiny("gpt2")
    mine = info_gain(llama, PROMPTS, THOUGHTS, ANSWERS)
    taught = info_gain(llama, PROMPTS, THOUGHTS, ANSWERS, teacher=teacher)
    theirs = info_gain(teacher, PROMPTS, [""] * 3, ANSWERS)
    np.testing.assert_allclose(taught.without, theirs.without, atol=1e-5)
    np.testing.assert_allclose(taught.gain + taught.without, mine.gain + mine.without, atol=1e-5)


def test_inside_open_edits_both_sides_are_the_edited_model(llama, vector):
    add = Add(Site(1, "resid_post"), vector, positions=everything)
    with inject(llama, [add]):
        edited = info_gain(llama, PROMPTS, ["", *THOUGHTS[1:]], ANSWERS)
    plain = info_gain(llama, PROMPTS, ["", *THOUGHTS[1:]], ANSWERS)
    assert edited.gain[0] == 0
    assert not np.allclose(edited.without, plain.without)


# --- where the thought stands


def read_as(monkeypatch, lm, **options):
    """The text that is read for one thought, up to the answer."""
    seen = []

    def spy(_lm, rows, **_):
        seen.extend(rows)
        return [np.zeros(len(row.tokens) - row.prompt_length) for row in rows]

    monkeypatch.setattr("interp.info_gain.continuation_logprobs", spy)
    info_gain(lm, ["Why?"], ["because"], ["it is"], lead="\nSo:", **options)
    return [lm.tokenizer.decode(row.tokens[: row.prompt_length]) for row in seen]


TURN = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
SWITCHLESS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)


def test_a_thought_stands_in_the_assistants_turn_before_the_lead(llama, monkeypatch, tokenizer_with):
    switchless = replace(llama, tokenizer=tokenizer_with(template=SWITCHLESS))
    given, plain = read_as(monkeypatch, switchless)
    assert given == f"{TURN}because\nSo:"
    assert plain == f"{TURN}\nSo:"
    given, plain = read_as(monkeypatch, switchless, tags=True)
    assert given == f"{TURN}<think>\nbecause\n</think>\n\nSo:"
    assert plain == f"{TURN}<think>\n\n</think>\n\nSo:"


def test_tags_that_the_template_writes_are_not_written_twice(llama, monkeypatch):
    given, plain = read_as(monkeypatch, llama, tags=True)
    assert given == f"{TURN}<think>\nbecause\n</think>\n\nSo:"
    assert plain == f"{TURN}<think>\n\n</think>\n\nSo:"
    given, _ = read_as(monkeypatch, llama)  # the template's own empty thought, and then one in the open
    assert given == f"{TURN}<think>\n\n</think>\nbecause\nSo:"


def test_a_model_without_a_template_reads_the_texts_as_they_stand(llama, monkeypatch, tokenizer_with):
    bare = replace(llama, tokenizer=tokenizer_with(template=None))
    given, plain = read_as(monkeypatch, bare)
    assert (given, plain) == ("Why?because\nSo:", "Why?\nSo:")


# --- planted models


@pytest.fixture(scope="module")
def bigram(model_of, tokenizer_with):
    """A GPT-2 whose blocks write nothing and which has no positions: the next token follows from the last."""
    model = model_of("gpt2", seed=3)
    lm = adopt(model, tokenizer_with(), name="bigram")
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
        for block in model.transformer.h:
            for part in (block.attn.c_proj, block.mlp.c_proj):
                part.weight.zero_()
                part.bias.zero_()
    return lm


@torch.no_grad()
def follows(lm, last, token):
    """log p(token | last) of a model of pairs, off its weights."""
    model = lm.model
    x = model.transformer.ln_f(model.transformer.wte.weight[last])
    return float((model.lm_head.weight @ x).double().log_softmax(-1)[token])


def test_a_model_of_pairs_gains_what_its_table_says(bigram):
    """Right before the answer, a thought counts by its last token, and for the answer's first alone."""
    prompts, thoughts, answers = ["Who?", "Why?"], ["xy", "the z"], ["qq", "an7"]
    found = info_gain(bigram, prompts, thoughts, answers, lead="", tags=False)
    for place, (prompt, thought, answer) in enumerate(zip(prompts, thoughts, answers, strict=True)):
        last = prompt_row(bigram.tokenizer, prompt, think=False).tokens[-1]
        token = ids(bigram, answer)[0]
        wanted = follows(bigram, ids(bigram, thought)[-1], token) - follows(bigram, last, token)
        assert found.gain[place] == pytest.approx(wanted, abs=1e-5)


def test_a_model_of_pairs_gains_nothing_from_what_stands_before_the_lead(bigram):
    np.testing.assert_allclose(info_gain(bigram, PROMPTS, THOUGHTS, ANSWERS).gain, 0, atol=1e-5)


def test_a_model_that_was_told_the_answer_gains_and_one_that_sees_no_order_gains_from_shuffled(bag):
    told = [Question(f"Question {n}?", f" {n}", f"it is {n}", f"so {n} and {n}") for n in range(1, 9)]
    found = thought_gains(bag, told, n_resamples=500)
    own, shuffled = found.gain[KINDS.index("own")], found.gain[KINDS.index("shuffled")]
    np.testing.assert_allclose(own, shuffled, atol=1e-4)
    assert found.total.own_beyond["shuffled"].estimate == pytest.approx(0, abs=1e-4)
    for control in ("other", "random"):
        assert found.total.own_beyond[control].low > 0
    assert found.total.gain["gold"].estimate > found.total.gain["own"].estimate


def test_thoughts_without_the_answer_are_not_beyond_the_controls(bag):
    """The other side: own thoughts that are random letters gain no more than others' random letters."""
    rng = np.random.default_rng(0)
    letters = list("bcdfghjklmnpqrstvwxz")
    blind = [
        replace(q, own="".join(rng.choice(letters, 8)), gold="".join(rng.choice(letters, 8)))
        for q in questions(9)
    ]
    found = thought_gains(bag, blind, n_resamples=500)
    assert not found.total.own_beyond["other"].excludes_zero
    assert not found.states_answer[:4].any()


# --- the five kinds


def test_all_thoughts_about_a_question_are_equally_long_and_made_of_what_they_should_be(llama):
    some = questions()
    made = equal_thoughts(llama, some)
    own, gold = ([ids(llama, t) for t in ts] for ts in ([q.own for q in some], [q.gold for q in some]))
    assert list(made) == list(KINDS)
    for number in range(len(some)):
        lengths = {len(made[kind][number]) for kind in KINDS}
        assert lengths <= {min(len(own[number]), len(gold[number])), max(map(len, own[:-1]))}
        (n,) = lengths
        assert made["own"][number] == own[number][-n:]
        assert made["gold"][number] == gold[number][-n:]
        assert sorted(made["shuffled"][number]) == sorted(made["own"][number])
        assert made["other"][number] in [t[-n:] for i, t in enumerate(own) if i != number]
        assert not set(made["random"][number]) & special_ids(llama.tokenizer)
    assert made["shuffled"] != made["own"]
    assert {len(t) for t in equal_thoughts(llama, some, max_tokens=3)["other"]} == {3}


def test_the_seed_decides_and_a_question_does_not_depend_on_those_behind_it(llama):
    some = questions()
    assert equal_thoughts(llama, some, seed=1) == equal_thoughts(llama, some, seed=1)
    assert equal_thoughts(llama, some, seed=1) != equal_thoughts(llama, some, seed=2)
    more = equal_thoughts(llama, [*some, replace(some[0], prompt="More?")], seed=1)
    assert more["random"][:6] == equal_thoughts(llama, some, seed=1)["random"]


def test_a_thought_about_a_question_with_the_same_answer_is_no_control(llama):
    twins = [replace(q, answer=" 1" if n < 5 else " 2") for n, q in enumerate(questions())]
    assert {t[-3:] for t in equal_thoughts(llama, twins)["other"][:5]} == {ids(llama, twins[5].own)[-3:]}


def test_intervals_are_of_the_gains_and_own_whole_is_not_cut(llama):
    some = questions()
    found = thought_gains(llama, some, max_tokens=4, n_resamples=200)
    of = dict(zip(KINDS, found.gain, strict=True))
    for kind in KINDS:
        alone = info_gain(llama, [q.prompt for q in some], found.thoughts[kind], [q.answer for q in some])
        np.testing.assert_allclose(of[kind], alone.gain, atol=1e-4)
        assert found.total.gain[kind].estimate == pytest.approx(of[kind].mean())
        assert found.per_token.gain[kind].estimate == pytest.approx((of[kind] / alone.answer_tokens).mean())
    for kind in KINDS[1:]:
        assert found.total.own_beyond[kind].estimate == pytest.approx((of["own"] - of[kind]).mean())
        assert found.total.own_beyond[kind].n == len(some)
    whole = info_gain(llama, [q.prompt for q in some], [q.own for q in some], [q.answer for q in some])
    np.testing.assert_allclose(found.own_whole.gain, whole.gain, atol=1e-4)
    assert found.total.own_whole.estimate == pytest.approx(whole.gain.mean(), abs=1e-4)
    assert found.thought_tokens.tolist() == [4] * 6


def test_which_thoughts_state_the_answer_word_for_word(llama):
    some = [replace(q, own=f"so it is {n}{n}" if n % 2 else f"it is {n}.") for n, q in enumerate(questions())]
    found = thought_gains(llama, some, n_resamples=100)
    stated = dict(zip(KINDS, found.states_answer.tolist(), strict=True))
    assert stated["own"] == [True, False] * 3
    assert stated["gold"] == [True] * 6
    assert not any(stated["other"])


# --- refusals


def test_columns_of_different_lengths_are_refused(llama):
    with pytest.raises(InputError, match="3 prompts, 2 thoughts and 3 answers; pass one of each"):
        info_gain(llama, PROMPTS, THOUGHTS[:2], ANSWERS)
    with pytest.raises(InputError, match="at least one question"):
        info_gain(llama, [], [], [])
    with pytest.raises(InputError, match="There are no questions; pass at least two"):
        thought_gains(llama, [])


def test_answers_and_thoughts_that_cannot_be_read_are_refused(llama):
    with pytest.raises(InputError, match="The answer of question 1 is blank"):
        info_gain(llama, PROMPTS, THOUGHTS, [" 1", " ", " 3"])
    with pytest.raises(InputError, match=r"about question 0 holds <\|im_end\|>, which is no part of a text"):
        info_gain(llama, PROMPTS, ["so<|im_end|>", *THOUGHTS[1:]], ANSWERS)
    with pytest.raises(InputError, match=r"has token 9999: tiny-llama has ids 0\.\."):
        thought_ids(llama, [9999], 0)


def test_a_teacher_with_another_tokenizer_is_refused(llama, reading):
    with pytest.raises(InputError, match="different tokenizers"):
        info_gain(llama, PROMPTS, THOUGHTS, ANSWERS, teacher=reading(llama, "x", 50))


def test_questions_that_make_no_controls_are_refused(llama):
    some = questions()
    with pytest.raises(InputError, match="The own thought of question 2 is empty"):
        thought_gains(llama, [*some[:2], replace(some[2], own="")])
    with pytest.raises(InputError, match="The gold thought of question 0 is empty"):
        thought_gains(llama, [replace(some[0], gold=()), some[1]])
    with pytest.raises(InputError, match="Every question has the answer '1'"):
        thought_gains(llama, [replace(q, answer=" 1") for q in some])
    with pytest.raises(InputError, match="max_tokens=0 leaves no thought"):
        thought_gains(llama, some, max_tokens=0)
