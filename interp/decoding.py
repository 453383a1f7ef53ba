"""Keys that change nothing but how tokens are chosen: CoT-decoding, self-consistency, best of n, budgets.

CoT-decoding branches at the first token alone, into the k likeliest, and goes on greedily; of each path y,

    Delta(y) = mean over the tokens t of its answer of ( p(likeliest | y_<t) - p(second | y_<t) ),

the answer being found in the text of the path and traced back to its own tokens. ``best`` is the answer of
the path with the largest Delta, ``aggregated`` that with the largest sum of Delta over the paths that give
it. A path that states no answer has a Delta of zero and is never taken for another's.

Paths of one problem share its prefill, and those of many problems run as rows of shared batches.

Sources: Wang and Zhou 2024, arXiv:2402.10200, for CoT-decoding; Wang et al. 2023, arXiv:2203.11171, for
self-consistency; Muennighoff et al. 2025 (s1), arXiv:2501.19393, for budget forcing.
Differs from the sources: nothing in the first two. Budget forcing works on any text: what a response ends
with is taken off and a word put in its place to make it go on, and a closing phrase to make it stop; the
end of a thought is taken off, as in the source, where ``thought_end`` names it.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hooks.capture import batches
from hooks.chat import Prompt, prompt_row
from hooks.edits import Edit
from hooks.errors import InputError
from hooks.generate import Completion, check_prompts, generate_rows
from hooks.inject import inject
from hooks.language_model import LanguageModel
from hooks.rows import Row
from hooks.sampling import Sampling
from hooks.sites import Site

Span = tuple[str, int, int]
"""An answer in a form in which equal answers are equal strings, and where its characters begin and end."""

FindAnswer = Callable[[str], Span | None]
"""Finds the answer that a response states; None where it states none."""

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(text: str) -> Span | None:
    """The last number of a text, without separators and trailing zeros: ``"1,080.0"`` as ``"1080"``."""
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return None
    found = numbers[-1]
    plain = found[0].replace(",", "")
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return plain, found.start(), found.end()


@dataclass(frozen=True)
class Path:
    """One way to go on from a prompt, and how sure the model was of the answer that it came to."""

    text: str
    tokens: tuple[int, ...]
    finish: str
    answer: str | None
    span: tuple[int, int] | None
    """Of its tokens, those of the answer: the first, and the one after the last."""

    delta: float
    """The mean margin over the answer's tokens; 0 without an answer."""

    mean_margin: float
    """The same over all tokens: what Delta is often taken for."""

    mean_logprob: float
    """Mean log-probability of its tokens in nats."""


@dataclass(frozen=True)
class CotDecoded:
    """The paths of one prompt, from the likeliest first token on."""

    paths: tuple[Path, ...]

    @property
    def greedy(self) -> Path:
        """The path of ordinary decoding."""
        return self.paths[0]

    @property
    def best(self) -> Path:
        """The path with the largest Delta among those that state an answer; the greedy one if none does."""
        stated = [path for path in self.paths if path.answer is not None]
        return max(stated, key=lambda path: path.delta, default=self.greedy)

    @property
    def aggregated(self) -> str | None:
        """The answer with the largest sum of Delta over its paths; None if none states one."""
        total: dict[str, float] = defaultdict(float)
        for path in self.paths:
            if path.answer is not None:
                total[path.answer] += path.delta
        return max(total, key=lambda answer: total[answer], default=None)


@torch.no_grad()
def cot_decode(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    k: int = 10,
    max_new_tokens: int = 128,
    find_answer: FindAnswer = last_number,
    edits: Sequence[Edit] = (),
    template: bool = True,
    think: bool | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> list[CotDecoded]:
    """Branch at the first token into the ``k`` likeliest, greedily after; and find the surest answer.

    Args:
        edits: Of every row; they are at work on the first token too.
        template: Pass False for "Q: ...\\nA:" prompts, which the source uses.

    Raises:
        InputError: for no prompts, ``k`` below 1 or above the vocabulary, or a budget below 2.

    Example:
        >>> (found,) = cot_decode(lm, ["Q: What is 3 + 4 * 2?\\nA:"], template=False)
        >>> found.greedy.answer, found.best.answer, found.aggregated
    """
    check_prompts(prompts)
    if not 1 <= k <= lm.d_vocab or max_new_tokens < 2:
        raise InputError(
            f"k={k} and max_new_tokens={max_new_tokens}: k is in 1..{lm.d_vocab}, and a path has two tokens "
            "or more."
        )
    rows = [prompt_row(lm.tokenizer, prompt, template=template, think=think) for prompt in prompts]
    branches = [branch for of in _first_tokens(lm, rows, k, edits) for branch in of]
    starts = [row for row in rows for _ in range(k)]
    going = [
        Row((*row.tokens, branch.token), len(row.tokens))
        for row, branch in zip(starts, branches, strict=True)
        if branch.token not in lm.stop_ids
    ]
    made: Iterator[Completion] = iter(())
    if going:
        made = iter(
            generate_rows(
                lm, going, edits=edits, max_new_tokens=max_new_tokens - 1, logprobs=True, on_tokens=on_tokens
            )
        )
    paths = [
        _path(lm, branch, None if branch.token in lm.stop_ids else next(made), find_answer)
        for branch in branches
    ]
    return [CotDecoded(tuple(paths[n * k : (n + 1) * k])) for n in range(len(rows))]


@dataclass(frozen=True)
class _Branch:
    """A first token: its log-probability, and the margin between the two likeliest there."""

    token: int
    logprob: float
    margin: float


def _first_tokens(
    lm: LanguageModel, rows: Sequence[Row], k: int, edits: Sequence[Edit]
) -> list[list[_Branch]]:
    """The ``k`` likeliest first tokens of each row, the likeliest first."""
    found: list[list[_Branch]] = [[] for _ in rows]
    with inject(lm, edits) as injection:
        for batch in batches(lm, rows, [Site(-1, "resid_post")]):
            injection.tracker.begin(batch.row, batch.prompt_length)
            logits = lm.model(**batch.inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
            nats, tokens = logits.float().log_softmax(-1).topk(max(2, k), dim=-1)
            margins = nats[:, 0].exp() - nats[:, 1].exp()
            for row, of, ids, margin in zip(
                batch.row.tolist(), nats.tolist(), tokens.tolist(), margins.tolist(), strict=True
            ):
                found[row] = [_Branch(token, n, margin) for token, n in zip(ids[:k], of[:k], strict=True)]
    return found


def _path(lm: LanguageModel, branch: _Branch, rest: Completion | None, find_answer: FindAnswer) -> Path:
    """A path of a branch's token and what it was continued with."""
    tokens, logprobs, margins = [branch.token], [branch.logprob], [branch.margin]
    if rest is not None:
        tokens += rest.tokens
        logprobs += rest.logprobs or ()
        margins += rest.margins or ()
    text = _text(lm, tokens)
    answer = find_answer(text)
    span = None if answer is None else token_span(lm, tokens, answer[1], answer[2])
    return Path(
        text=text,
        tokens=tuple(tokens),
        finish="stop" if rest is None else rest.finish,
        answer=None if answer is None else answer[0],
        span=span,
        delta=0.0 if span is None else float(np.mean(margins[slice(*span)])),
        mean_margin=float(np.mean(margins)),
        mean_logprob=float(np.mean(logprobs)),
    )


def token_span(lm: LanguageModel, tokens: Sequence[int], start: int, end: int) -> tuple[int, int]:
    """Which tokens hold the characters ``start`` to ``end`` of their text: a slice."""
    lengths = range(len(tokens) + 1)
    first = bisect_right(lengths, start, key=lambda n: len(_text(lm, tokens[:n]))) - 1
    last = bisect_left(lengths, end, key=lambda n: len(_text(lm, tokens[:n])))
    return first, max(last, first + 1)


def _text(lm: LanguageModel, tokens: Sequence[int]) -> str:
    return str(lm.tokenizer.decode(list(tokens), skip_special_tokens=True))


@dataclass(frozen=True)
class Voted:
    """Several samples of one prompt, and what most of them say."""

    samples: tuple[Completion, ...]
    answers: tuple[str | None, ...]
    """What each states."""

    @property
    def votes(self) -> Counter[str]:
        """How many samples state each answer; those that state none do not vote."""
        return Counter(answer for answer in self.answers if answer is not None)

    @property
    def answer(self) -> str | None:
        """The answer that most state, of equally many the one stated first; None if none states one."""
        return max(self.votes, key=lambda answer: self.votes[answer], default=None)

    def best_of(self, score: Callable[[Completion], float], n: int | None = None) -> Completion:
        """Of the first ``n`` samples the one with the highest score: best of n.

        Example:
            >>> voted.best_of(lambda made: sum(made.logprobs) / len(made.logprobs))
        """
        return max(self.samples[:n], key=score)


def self_consistency(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    n: int = 10,
    temperature: float = 0.7,
    top_p: float = 1.0,
    seed: int = 0,
    max_new_tokens: int = 256,
    find_answer: FindAnswer = last_number,
    edits: Sequence[Edit] = (),
    template: bool = True,
    think: bool | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> list[Voted]:
    """``n`` samples of each prompt, and the answer that most of them state.

    Raises:
        InputError: for no prompts, ``n`` below 1, or a temperature of 0, at which all samples are one.
    """
    check_prompts(prompts)
    if n < 1 or not temperature > 0:
        raise InputError(f"n={n} samples at temperature={temperature}: both must be above 0.")
    rows = [prompt_row(lm.tokenizer, p, template=template, think=think) for p in prompts for _ in range(n)]
    made = generate_rows(
        lm,
        rows,
        edits=edits,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature, top_p, seed),
        logprobs=True,
        on_tokens=on_tokens,
    )
    voted = []
    for place in range(len(prompts)):
        samples = tuple(made[place * n : (place + 1) * n])
        found = [find_answer(sample.text) for sample in samples]
        voted.append(Voted(samples, tuple(None if span is None else span[0] for span in found)))
    return voted


def forced(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    first: str,
    *,
    max_new_tokens: int = 256,
    edits: Sequence[Edit] = (),
    template: bool = True,
    think: bool | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> list[Completion]:
    """Greedy completions that begin with ``first``, which is part of what comes back.

    Raises:
        InputError: for no prompts, or an empty beginning.
    """
    check_prompts(prompts)
    begun = _ids(lm, first)
    rows = [prompt_row(lm.tokenizer, prompt, template=template, think=think) for prompt in prompts]
    starts = [Row((*row.tokens, *begun), len(row.tokens)) for row in rows]
    made = generate_rows(lm, starts, edits=edits, max_new_tokens=max_new_tokens, on_tokens=on_tokens)
    return [replace(one, text=_text(lm, (*begun, *one.tokens)), tokens=(*begun, *one.tokens)) for one in made]


@torch.no_grad()
def budget_force(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    budget: int,
    extensions: int = 0,
    go_on: str = "\nWait",
    close: str = "\nThe answer is",
    answer_tokens: int = 32,
    begin: str = "",
    thought_end: str | None = None,
    edits: Sequence[Edit] = (),
    template: bool = True,
    think: bool | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> list[str]:
    """Responses of a thinking budget: made to go on when they end early, and to answer when it is spent.

    A response that ends its turn before ``budget`` tokens has the end taken off and ``go_on`` put in its
    place, ``extensions`` times at most. One that is still going then, or was cut, gets ``close``, and
    ``answer_tokens`` more tokens to answer with.

    Args:
        begin: What every response begins with, such as ``<think>``; part of what comes back, and not of
            the budget.
        thought_end: The token that ends a thought, such as ``</think>``. It is then taken off like the end
            of a turn, the budget is that of the thought, and every thought is closed and answered: write
            the token into ``close``.

    Raises:
        InputError: for no prompts, a budget below 1, words that are empty, or a ``thought_end`` that is not
            one token.
    """
    check_prompts(prompts)
    if budget < 1 or extensions < 0 or answer_tokens < 1:
        raise InputError(
            f"budget={budget}, extensions={extensions}, answer_tokens={answer_tokens}: the first and the "
            "last are 1 or more, extensions 0 or more."
        )
    words, closing = _ids(lm, go_on), _ids(lm, close)
    rows = [prompt_row(lm.tokenizer, prompt, template=template, think=think) for prompt in prompts]
    ends = lm.stop_ids if thought_end is None else lm.stop_ids | {_token(lm, thought_end)}
    begun = _ids(lm, begin) if begin else ()
    budget += len(begun)
    said: list[tuple[int, ...]] = [begun] * len(rows)
    ended = [False] * len(rows)
    going = list(range(len(rows)))
    for round_number in range(extensions + 1):
        for n, made in _rest(lm, rows, said, going, budget, edits, on_tokens).items():
            tokens = made[: 1 + next((t for t, token in enumerate(made) if token in ends), len(made))]
            ended[n] = bool(tokens) and tokens[-1] in ends and len(said[n]) + len(tokens) <= budget
            said[n] = (*said[n], *(tokens[:-1] if ended[n] else tokens))[:budget]
        going = [n for n in going if ended[n] and len(said[n]) + len(words) < budget]
        if not going:
            break
        if round_number < extensions:
            for n in going:
                said[n], ended[n] = (*said[n], *words), False
    cut = [n for n in range(len(rows)) if thought_end is not None or not ended[n]]
    for n in cut:
        said[n] = (*said[n], *closing)
    if cut:
        longest = max(len(said[n]) for n in cut)
        for n, tokens in _rest(lm, rows, said, cut, longest + answer_tokens, edits, on_tokens).items():
            said[n] = (*said[n], *tokens[:answer_tokens])
    return [_text(lm, tokens) for tokens in said]


def _rest(
    lm: LanguageModel,
    rows: Sequence[Row],
    said: Sequence[tuple[int, ...]],
    numbers: Sequence[int],
    budget: int,
    edits: Sequence[Edit],
    on_tokens: Callable[[int], None] | None,
) -> dict[int, tuple[int, ...]]:
    """What some rows go on with; the shortest of them up to ``budget`` tokens of response, others beyond."""
    begun = [Row((*rows[n].tokens, *said[n]), len(rows[n].tokens)) for n in numbers]
    left = budget - min(len(said[n]) for n in numbers)
    made = generate_rows(lm, begun, edits=edits, max_new_tokens=left, on_tokens=on_tokens)
    return {n: one.tokens for n, one in zip(numbers, made, strict=True)}


def _token(lm: LanguageModel, text: str) -> int:
    if len(ids := _ids(lm, text)) != 1:
        raise InputError(f"{text!r} is {len(ids)} tokens of {lm.name}, and only one token can end a thought.")
    return ids[0]


def _ids(lm: LanguageModel, text: str) -> tuple[int, ...]:
    ids = tuple(int(i) for i in lm.tokenizer(text, add_special_tokens=False).input_ids)
    if not ids:
        raise InputError(f"{text!r} has no tokens; pass some text to put into the response.")
    return ids
