"""Information gain: how much more likely a thought makes the gold answer, beside thoughts that say nothing.

    G(x, c, y) = log p(y | x, c) - log p(y | x)      in nats, summed over the tokens of y, or per token

of a question x, a thought c and the gold answer y. No answer is generated, so nothing is at a floor where
hardly any answer is right. The thought stands in the assistant's turn:

    prompt, [<think>], thought, [</think>], lead, answer

and log p(y | x) is read with the same frame around an empty thought: so what stands around it gains
nothing, and an empty thought gains 0. Text that only moves the answer further from its question also
changes log p. Five thoughts of one number of tokens are compared on each question:

    own        the model's own
    gold       a worked solution
    shuffled   the tokens of own, in random order: the same words without their order
    other      the own thought of another question, whose answer is another one
    random     ordinary tokens of the vocabulary, drawn uniformly

The number is that of the shortest of own, gold and other; of a longer one the last tokens stay, those next
to the answer. A thought that states the answer gains by being copied: which do is told.

Source: Hatamizadeh et al. 2025, "RLP: Reinforcement as a Pretraining Objective", arXiv:2510.01265, for G,
which is its reward.
Differs from the source: G is a probe and nothing is trained; log p(y | x) is the model's own, where no
``teacher`` is given (the source's is a moving average of the model in training); y is a whole answer, not
the next token of a document; the frame stands on both sides; the controls.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from hooks.chat import Prompt, encode, render, special_ids
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.positions import THINK_CLOSE, THINK_OPEN
from hooks.rows import Row
from interp.continuations import continuation_logprobs
from interp.stats import Interval, mean_interval, paired_bootstrap

Thought = str | Sequence[int]
"""A text, or its token ids."""

ThoughtKind = Literal["own", "gold", "shuffled", "other", "random"]
KINDS: tuple[ThoughtKind, ...] = get_args(ThoughtKind)

LEAD = "\nAnswer:"
"""What stands between a thought and the answer, where nothing else is asked for."""


@dataclass(frozen=True)
class Question:
    """A question with its gold answer and two thoughts about it."""

    prompt: Prompt
    answer: str
    """As it follows the lead, with the space before it where there is one."""

    own: Thought
    """What the model thought, of :func:`hooks.generate`."""

    gold: Thought
    """A worked solution."""


@dataclass(frozen=True, eq=False)
class Gain:
    """What one thought a question brings, in aligned arrays; in nats."""

    gain: Float[np.ndarray, " question"]
    """G, summed over the answer's tokens."""

    without: Float[np.ndarray, " question"]
    """log p(y | x)."""

    answer_tokens: Int[np.ndarray, " question"]

    @property
    def per_token(self) -> Float[np.ndarray, " question"]:
        """G over the number of the answer's tokens."""
        return np.asarray(self.gain / self.answer_tokens)


@dataclass(frozen=True)
class Gains:
    """Means over questions, in nats, with bootstrap intervals over questions."""

    gain: Mapping[ThoughtKind, Interval]
    own_beyond: Mapping[ThoughtKind, Interval]
    """G of own less that of each other kind, paired."""

    own_whole: Interval
    """Of own before it is cut to the common length: the reward of the source."""


@dataclass(frozen=True, eq=False)
class ThoughtGains:
    """Five kinds of thought of equal length on the same questions."""

    total: Gains
    """Summed over the tokens of an answer."""

    per_token: Gains

    gain: Float[np.ndarray, "kind question"]
    """G of each kind in the order of ``KINDS``, summed over the answer's tokens."""

    own_whole: Gain
    thoughts: Mapping[ThoughtKind, Sequence[tuple[int, ...]]]
    """The token ids of each thought, as they were read."""

    states_answer: Bool[np.ndarray, "kind question"]
    """Where the answer stands in the thought, word for word."""

    @property
    def thought_tokens(self) -> Int[np.ndarray, " question"]:
        return np.array([len(thought) for thought in self.thoughts["own"]])


def info_gain(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    thoughts: Sequence[Thought],
    answers: Sequence[str],
    *,
    tags: bool = False,
    lead: str = LEAD,
    teacher: LanguageModel | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> Gain:
    """G of one thought about each question. An empty one gains 0, but from another ``teacher``.

    Prompt, thought, lead and answer are tokenized apart, so the answer's tokens are the same after every
    thought. Inside an open :func:`hooks.inject` of edits for every row, both log p are the edited model's.

    Args:
        answers: As they follow ``lead``, with the space before them where there is one.
        tags: Put the thought between ``<think>`` and ``</think>``. Where the chat template has a switch
            for thinking it is turned on with them, and off without.
        lead: Stands between the thought and the answer.
        teacher: Whose log p(y | x) is subtracted; None takes ``lm``.
        on_tokens: Called with the number of tokens of each batch, for progress.

    Raises:
        InputError: if there are no questions, not one thought and answer for each, an answer is blank, a
            thought holds a special token or an id that is none, or the teacher has another tokenizer.

    Example:
        >>> made = generate(lm, [f"{q} Think step by step." for q in questions], max_new_tokens=64)
        >>> info_gain(lm, questions, made.texts, answers).gain
    """
    if not prompts or not len(prompts) == len(thoughts) == len(answers):
        raise InputError(
            f"{len(prompts)} prompts, {len(thoughts)} thoughts and {len(answers)} answers; pass one of each "
            "for every question, and at least one question."
        )
    if teacher is not None and teacher.tokenizer_hash != lm.tokenizer_hash:
        raise InputError(
            f"{teacher.name} and {lm.name} have different tokenizers: the same answer would be other "
            "tokens. Take a teacher of the same family."
        )
    frames = [_frame(lm, prompt, tags, lead) for prompt in prompts]
    endings = [_ids(lm, answer) for answer in answers]
    if blank := [number for number, answer in enumerate(answers) if not answer.strip()]:
        raise InputError(f"The answer of question {blank[0]} is blank: there is nothing to be probable.")
    asked = [thought_ids(lm, thought, number) for number, thought in enumerate(thoughts)]
    rows = [frame.row(thought, ending) for frame, thought, ending in zip(frames, asked, endings, strict=True)]
    plain = [frame.row((), ending) for frame, ending in zip(frames, endings, strict=True)]
    if teacher is None:
        given, without = np.split(_summed(lm, rows + plain, on_tokens), 2)
    else:
        given, without = _summed(lm, rows, on_tokens), _summed(teacher, plain, on_tokens)
    return Gain(given - without, without, np.array([len(ending) for ending in endings]))


def thought_gains(
    lm: LanguageModel,
    questions: Sequence[Question],
    *,
    tags: bool = False,
    lead: str = LEAD,
    teacher: LanguageModel | None = None,
    max_tokens: int | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
    on_tokens: Callable[[int], None] | None = None,
) -> ThoughtGains:
    """G of five kinds of thought of equal length, with intervals over questions.

    Args:
        tags: As in :func:`info_gain`, and so are ``lead`` and ``teacher``.
        max_tokens: The longest a thought may be; None leaves that to the shortest of each question.
        seed: Of the controls, each question's its own, and of the intervals.

    Raises:
        InputError: as :func:`info_gain`; or if a thought is empty, ``max_tokens`` is below 1, or all
            questions have one answer, so that no other question's thought is a control.
    """
    if not questions:
        raise InputError("There are no questions; pass at least two, whose answers differ.")
    thoughts = equal_thoughts(lm, questions, max_tokens=max_tokens, seed=seed)
    whole = [thought_ids(lm, question.own, number) for number, question in enumerate(questions)]
    n = len(questions)
    every = info_gain(
        lm,
        [question.prompt for question in questions] * (len(KINDS) + 1),
        [*(thought for kind in KINDS for thought in thoughts[kind]), *whole],
        [question.answer for question in questions] * (len(KINDS) + 1),
        tags=tags,
        lead=lead,
        teacher=teacher,
        on_tokens=on_tokens,
    )
    own_whole = Gain(every.gain[-n:], every.without[-n:], every.answer_tokens[-n:])

    def intervals(values: Float[np.ndarray, " row"]) -> Gains:
        of = dict(zip((*KINDS, "whole"), values.reshape(-1, n), strict=True))
        return Gains(
            gain={kind: mean_interval(of[kind], n_resamples=n_resamples, seed=seed) for kind in KINDS},
            own_beyond={
                kind: paired_bootstrap(of["own"], of[kind], n_resamples=n_resamples, seed=seed)
                for kind in KINDS[1:]
            },
            own_whole=mean_interval(of["whole"], n_resamples=n_resamples, seed=seed),
        )

    return ThoughtGains(
        total=intervals(every.gain),
        per_token=intervals(every.per_token),
        gain=every.gain[:-n].reshape(len(KINDS), n),
        own_whole=own_whole,
        thoughts=thoughts,
        states_answer=np.array(
            [
                [_states(lm, ids, question.answer) for ids, question in zip(of, questions, strict=True)]
                for of in thoughts.values()
            ]
        ),
    )


def equal_thoughts(
    lm: LanguageModel, questions: Sequence[Question], *, max_tokens: int | None = None, seed: int = 0
) -> dict[ThoughtKind, list[tuple[int, ...]]]:
    """The five kinds of thought about each question, as tokens; all about one question equally long.

    The other question is drawn from those whose own thought is at least as long as this question's
    shorter one, so that hardly anything is cut for it; it is the longest where none is.

    Raises:
        InputError: as :func:`thought_gains`.
    """
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens={max_tokens} leaves no thought; pass 1 or more, or None.")
    own, gold = (
        [thought_ids(lm, thought, number) for number, thought in enumerate(thoughts)]
        for thoughts in ([q.own for q in questions], [q.gold for q in questions])
    )
    for name, thoughts in (("own", own), ("gold", gold)):
        if () in thoughts:
            raise InputError(
                f"The {name} thought of question {thoughts.index(())} is empty: no other can be as long and "
                "say something. Leave the question out, and say how many."
            )
    ordinary = _ordinary(lm)
    made: dict[ThoughtKind, list[tuple[int, ...]]] = {kind: [] for kind in KINDS}
    for number, question in enumerate(questions):
        rng = np.random.default_rng((seed, number))
        length = min(len(own[number]), len(gold[number]), max_tokens or len(own[number]))
        others = [i for i, q in enumerate(questions) if q.answer.strip() != question.answer.strip()]
        if not others:
            raise InputError(
                f"Every question has the answer {question.answer.strip()!r}: a thought about another one "
                "would lead to it too. Pass questions with different answers."
            )
        long_enough = [i for i in others if len(own[i]) >= length]
        other = own[int(rng.choice(long_enough)) if long_enough else max(others, key=lambda i: len(own[i]))]
        length = min(length, len(other))
        mine = own[number][-length:]
        made["own"].append(mine)
        made["gold"].append(gold[number][-length:])
        made["shuffled"].append(tuple(mine[i] for i in rng.permutation(length)))
        made["other"].append(other[-length:])
        made["random"].append(tuple(rng.choice(ordinary, length).tolist()))
    return made


def thought_ids(lm: LanguageModel, thought: Thought, number: int) -> tuple[int, ...]:
    """The token ids of the thought about question ``number``.

    Raises:
        InputError: if one is special, and would end the thought or the turn, or is none of the model's.
    """
    ids = _ids(lm, thought) if isinstance(thought, str) else tuple(thought)
    if outside := [i for i in ids if not 0 <= i < lm.d_vocab]:
        raise InputError(
            f"The thought about question {number} has token {outside[0]}: {lm.name} has ids "
            f"0..{lm.d_vocab - 1}."
        )
    special = special_ids(lm.tokenizer)
    if found := [i for i in ids if i in special]:
        raise InputError(
            f"The thought about question {number} holds {lm.tokenizer.convert_ids_to_tokens(found[0])}, "
            "which is no part of a text. Pass the text without special tokens, as `Completion.text` is."
        )
    return ids


@dataclass(frozen=True)
class _Frame:
    """What stands around a thought."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def row(self, thought: tuple[int, ...], answer: tuple[int, ...]) -> Row:
        start = self.before + thought + self.after
        return Row(start + answer, len(start))


def _frame(lm: LanguageModel, prompt: Prompt, tags: bool, lead: str) -> _Frame:
    switched = "enable_thinking" in str(lm.tokenizer.chat_template)
    text = render(lm.tokenizer, prompt, think=tags if switched else None)
    opened = text.rstrip().endswith(THINK_OPEN)  # some templates begin the thought themselves
    before = f"{THINK_OPEN}\n" if tags and not opened else ""
    after = f"\n{THINK_CLOSE}\n{lead}" if tags else lead
    return _Frame(encode(lm.tokenizer, text) + _ids(lm, before), _ids(lm, after))


def _ids(lm: LanguageModel, text: str) -> tuple[int, ...]:
    return tuple(int(i) for i in lm.tokenizer(text, add_special_tokens=False).input_ids)


def _summed(
    lm: LanguageModel, rows: Sequence[Row], on_tokens: Callable[[int], None] | None
) -> Float[np.ndarray, " row"]:
    """log p of each row's answer; of equal rows the very same, however they would fall into batches."""
    distinct = list(dict.fromkeys(rows))
    nats = continuation_logprobs(lm, distinct, on_tokens=on_tokens)
    total = {row: float(tokens.sum()) for row, tokens in zip(distinct, nats, strict=True)}
    return np.array([total[row] for row in rows])


def _ordinary(lm: LanguageModel) -> Int[np.ndarray, " token"]:
    """The ids that stand for text."""
    added = special_ids(lm.tokenizer) | set(lm.tokenizer.added_tokens_decoder)
    return np.array([i for i in range(min(len(lm.tokenizer), lm.d_vocab)) if i not in added])


def _states(lm: LanguageModel, ids: tuple[int, ...], answer: str) -> bool:
    words = rf"(?<!\w){re.escape(answer.strip())}(?!\w)"
    return re.search(words, str(lm.tokenizer.decode(list(ids))), re.IGNORECASE) is not None
