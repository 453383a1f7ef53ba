"""CoT-decoding is its definition, path by path; votes, forced beginnings and budgets are what they say."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from hooks import Add, Site, generate
from hooks.chat import prompt_row
from hooks.decode import Decoder
from hooks.errors import InputError
from hooks.generate import Completion
from hooks.rows import Row, pad_left
from interp.decoding import (
    CotDecoded,
    Path,
    Voted,
    budget_force,
    cot_decode,
    forced,
    last_number,
    self_consistency,
    token_span,
)

PROMPTS = ["the inn is 3", "an ant and a thing", "that in 12"]


def first_digit(text):
    """Any character stands for an answer, since a random model says few numbers."""
    return (text[-2:].strip() or "x", len(text) - 2, len(text)) if len(text) > 2 else None


@torch.no_grad()
def alone(lm, ids, n):
    """Greedy tokens, log-probabilities and margins, a whole pass a token."""
    tokens, nats, margins = [], [], []
    for _ in range(n):
        batch = pad_left([Row((*ids, *tokens), len(ids) + len(tokens))], [0], pad_id=0, device=lm.device)
        logp = lm.model(**batch.inputs).logits[0, -1].log_softmax(-1)
        top = logp.exp().topk(2).values
        tokens.append(int(logp.argmax()))
        nats.append(float(logp.max()))
        margins.append(float(top[0] - top[1]))
        if tokens[-1] in lm.stop_ids:
            break
    return tokens, nats, margins


@torch.no_grad()
def top_first(lm, ids, k):
    batch = pad_left([Row(ids, len(ids))], [0], pad_id=0, device=lm.device)
    logp = lm.model(**batch.inputs).logits[0, -1].log_softmax(-1)
    top = logp.exp().topk(2).values
    return logp.topk(k), float(top[0] - top[1])


def test_paths_branch_at_the_first_token_alone_and_delta_is_over_the_answer(llama):
    found = cot_decode(llama, PROMPTS, k=4, max_new_tokens=6, find_answer=first_digit)
    for prompt, decoded in zip(PROMPTS, found, strict=True):
        ids = prompt_row(llama.tokenizer, prompt).tokens
        top, margin = top_first(llama, ids, 4)
        assert [path.tokens[0] for path in decoded.paths] == top.indices.tolist()
        for path, first, nats in zip(decoded.paths, top.indices.tolist(), top.values.tolist(), strict=True):
            if first in llama.stop_ids:
                assert path.tokens == (first,)
                continue
            tokens, logprobs, margins = alone(llama, (*ids, first), 5)
            assert path.tokens == (first, *tokens)
            assert path.mean_logprob == pytest.approx(sum([nats, *logprobs]) / (1 + len(tokens)), abs=1e-3)
            every = [margin, *margins]
            assert path.mean_margin == pytest.approx(sum(every) / len(every), abs=1e-3)
            if path.span is not None:
                of = every[slice(*path.span)]
                assert path.delta == pytest.approx(sum(of) / len(of), abs=1e-3)
                assert path.answer == path.text[-2:].strip() or path.answer == "x"
            else:
                assert path.delta == 0


def test_the_first_path_is_the_greedy_response(llama):
    found = cot_decode(llama, PROMPTS, k=2, max_new_tokens=7)
    plain = generate(llama, PROMPTS, max_new_tokens=7)
    assert [decoded.greedy.tokens for decoded in found] == [made.tokens for made in plain]


def test_edits_are_at_work_on_the_first_token_too(llama):
    vector = 8 * torch.randn(llama.d_model, generator=torch.Generator().manual_seed(1))
    edits = [Add(Site(1, "resid_post"), vector)]
    found = cot_decode(llama, PROMPTS, k=1, max_new_tokens=6, edits=edits)
    steered = generate(llama, PROMPTS, max_new_tokens=6, edits=edits)
    plain = generate(llama, PROMPTS, max_new_tokens=6)
    assert [decoded.greedy.tokens for decoded in found] == [made.tokens for made in steered]
    assert steered.texts != plain.texts


def test_a_branch_that_ends_at_once_is_a_path_of_one_token(llama):
    found = cot_decode(llama, PROMPTS[:1], k=llama.d_vocab, max_new_tokens=2)
    short = [path for path in found[0].paths if path.tokens[0] in llama.stop_ids]
    assert short
    assert all((len(path.tokens), path.finish, path.delta) == (1, "stop", 0.0) for path in short)
    assert len(found[0].paths) == llama.d_vocab


def path(answer, delta):
    return Path(str(answer), (1,), "stop", answer, None if answer is None else (0, 1), delta, 0.0, 0.0)


def test_the_best_path_and_the_aggregated_answer_may_differ():
    decoded = CotDecoded((path("1", 0.3), path("2", 0.6), path("1", 0.4), path(None, 0.0)))
    assert decoded.best.answer == "2"
    assert decoded.aggregated == "1"
    assert decoded.greedy.answer == "1"
    nothing = CotDecoded((path(None, 0.0), path(None, 0.0)))
    assert nothing.aggregated is None
    assert nothing.best is nothing.greedy


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7", "7"),
        ("It is 1,080.0 in all.", "1080"),
        ("-2.50 degrees", "-2.5"),
        ("20 of 100", "100"),
        ("none", None),
    ],
)
def test_the_last_number_is_normalised_and_placed(text, answer):
    found = last_number(text)
    assert (None if found is None else found[0]) == answer
    if found is not None:
        assert text[found[1] : found[2]].replace(",", "").rstrip("0").rstrip(".") in (
            answer,
            answer.rstrip("0"),
        )


def test_the_tokens_of_an_answer_hold_its_characters_and_no_token_more(llama):
    text = "the inn has 12 things and 345 ants"
    tokens = llama.tokenizer(text, add_special_tokens=False).input_ids
    for word in ("12", "345", "inn", "ants"):
        start = text.index(word)
        first, last = token_span(llama, tokens, start, start + len(word))
        assert word in llama.tokenizer.decode(tokens[first:last])
        assert word not in llama.tokenizer.decode(tokens[first + 1 : last])
        assert word not in llama.tokenizer.decode(tokens[first : last - 1])


def test_most_votes_win_and_the_first_of_equal_ones():
    def sample(text):
        return Completion(text, (9,), 1, "stop", (-1.0,), (0.5,), 0.0)

    voted = Voted(tuple(map(sample, "abcde")), ("3", "4", None, "4", "3"))
    assert voted.votes == Counter({"3": 2, "4": 2})
    assert voted.answer == "3"
    assert Voted((), ()).answer is None
    assert voted.best_of(lambda made: ord(made.text), n=3).text == "c"


def test_samples_differ_and_come_back_with_the_seed(llama):
    one, two, other = (
        self_consistency(
            llama, PROMPTS, n=4, temperature=1.5, max_new_tokens=5, seed=seed, find_answer=first_digit
        )
        for seed in (0, 0, 1)
    )
    texts = [[s.text for s in voted.samples] for voted in one]
    assert texts == [[s.text for s in voted.samples] for voted in two]
    assert texts != [[s.text for s in voted.samples] for voted in other]
    assert all(len(set(of)) > 1 for of in texts)
    for voted in one:
        assert sum(voted.votes.values()) == sum(answer is not None for answer in voted.answers)


def test_a_forced_beginning_is_gone_on_from(llama):
    made = forced(llama, PROMPTS, "the inn", max_new_tokens=4)
    for prompt, one in zip(PROMPTS, made, strict=True):
        ids = prompt_row(llama.tokenizer, prompt).tokens
        begun = llama.tokenizer("the inn", add_special_tokens=False).input_ids
        tokens, _, _ = alone(llama, (*ids, *begun), 4)
        assert one.tokens == (*begun, *tokens)
        assert one.prompt_tokens == len(ids)
        assert one.text == llama.tokenizer.decode([*begun, *tokens], skip_special_tokens=True)


@pytest.fixture
def scripted(llama, monkeypatch):
    """A decoder that says what it is told: for each call, the text of every row, and whether it ends."""
    calls = []

    def script(*rounds):
        waiting = list(rounds)

        def steps(self):
            told = waiting.pop(0)
            calls.append([tuple(row.tokens) for row in self._rows])
            for number, (text, ends) in enumerate(told):
                ids = tuple(llama.tokenizer(text, add_special_tokens=False).input_ids)
                ids = (*ids, 2) if ends else ids
                yield [SimpleNamespace(
                    number=number, tokens=ids[: self._budget], finish="stop" if ends else "length",
                    logprobs=None, margins=None, seconds=0.0,
                )]  # fmt: skip

        monkeypatch.setattr(Decoder, "steps", steps)
        return calls

    return script


def test_a_response_that_ends_early_is_made_to_go_on(llama, scripted):
    calls = scripted([("the inn", True)], [("a thing", True)], [("an ant", True)])
    made = budget_force(llama, PROMPTS[:1], budget=60, extensions=2, go_on=" and")
    assert made == ["the inn anda thing andan ant"]
    assert len(calls) == 3
    assert len(calls[0][0]) < len(calls[1][0]) < len(calls[2][0])


def test_a_response_that_spends_its_budget_is_made_to_answer(llama, scripted):
    scripted([("the inn the inn", False)], [("12", True)])
    made = budget_force(llama, PROMPTS[:1], budget=4, close=" so ", answer_tokens=3)
    begun = llama.tokenizer.decode(llama.tokenizer("the inn the inn", add_special_tokens=False).input_ids[:4])
    assert made == [f"{begun} so 12"]


def test_without_extensions_a_response_that_ends_in_time_is_left_as_it_is(llama, scripted):
    scripted([("the inn", True), ("a thing that goes on", False)], [("7", True)])
    made = budget_force(llama, PROMPTS[:2], budget=12, close=" =")
    assert made[0] == "the inn"
    assert made[1].endswith(" =7")


def test_a_thought_that_is_closed_early_goes_on_and_every_thought_is_answered(llama, scripted):
    """What is said after the thought is dropped; the budget is of the thought, not of its beginning."""
    calls = scripted([("the inn</think>12", True)], [("a thing", True)], [("7", True)])
    made = budget_force(
        llama, PROMPTS[:1], budget=60, extensions=1, go_on=" and", close="</think> so ",
        begin="<think>", thought_end="</think>",
    )  # fmt: skip
    assert made == ["the inn anda thing so 7"]  # tags are special tokens here, and no text
    prompt = prompt_row(llama.tokenizer, PROMPTS[0]).tokens
    assert calls[0][0] == (*prompt, *llama.tokenizer("<think>", add_special_tokens=False).input_ids)
    assert (
        calls[2][0][-5:] == tuple(llama.tokenizer("g</think> so ", add_special_tokens=False).input_ids)[-5:]
    )


def test_a_thought_is_cut_at_its_budget_and_closed(llama, scripted):
    calls = scripted(
        [("the inn</think>12", True), ("a thing that goes on", False)], [("7", True), ("8", True)]
    )
    made = budget_force(llama, PROMPTS[:2], budget=6, close=" so ", begin="<think>", thought_end="</think>")
    six = llama.tokenizer("a thing that goes on", add_special_tokens=False).input_ids[:6]
    assert made == ["the inn so 7", f"{llama.tokenizer.decode(six)} so 8"]
    assert len(calls) == 2


def test_the_end_of_a_thought_is_one_token(llama):
    with pytest.raises(InputError, match=r"'</thought>' is \d+ tokens of tiny-llama"):
        budget_force(llama, PROMPTS, budget=4, thought_end="</thought>")


def test_what_cannot_be_decoded_so_is_refused(llama):
    with pytest.raises(InputError, match="one or more prompts"):
        cot_decode(llama, [])
    with pytest.raises(InputError, match=rf"k is in 1\.\.{llama.d_vocab}"):
        cot_decode(llama, PROMPTS, k=0)
    with pytest.raises(InputError, match="two tokens or more"):
        cot_decode(llama, PROMPTS, max_new_tokens=1)
    with pytest.raises(InputError, match="must be above 0"):
        self_consistency(llama, PROMPTS, temperature=0.0)
    with pytest.raises(InputError, match="has no tokens"):
        forced(llama, PROMPTS, "")
    with pytest.raises(InputError, match="budget=0"):
        budget_force(llama, PROMPTS, budget=0)
