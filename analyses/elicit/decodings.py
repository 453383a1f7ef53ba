"""How a reply to a problem is made: of one path or of several, with a vote."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from analyses.tasks import Problem, judge
from hooks import LanguageModel
from hooks.chat import Prompt, prompt_row
from hooks.edits import Edit
from hooks.generate import Completion, generate, generate_rows
from hooks.rows import Row
from interp.decoding import NUMBER, Span, cot_decode, forced, last_number, self_consistency


@dataclass(frozen=True)
class Path:
    """One way through a problem, and what it came to."""

    text: str
    tokens: int
    stated: str | None
    correct: bool
    truncated: bool
    weight: float = 1.0
    """Of its vote."""

    mean_logprob: float | None = None
    """Mean log-probability of its tokens in nats, where it was asked for."""

    mean_margin: float | None = None
    """Mean margin between the two likeliest tokens, over all of its tokens."""


@dataclass(frozen=True)
class Reply:
    """The paths of one problem in the order in which they are paid for."""

    paths: tuple[Path, ...]
    readings: Mapping[str, bool] = field(default_factory=dict)
    """Whether it is right by other ways of reading the answer."""


def voted(paths: Sequence[Path]) -> Path | None:
    """The path that speaks for all: the heaviest of those that state the answer with the largest weight.

    Of one path it is that one; of several none of which states an answer, the first.
    """
    total: dict[str, float] = defaultdict(float)
    for path in paths:
        if path.stated is not None:
            total[path.stated] += path.weight
    if not total:
        return paths[0] if paths else None
    answer = max(total, key=lambda stated: total[stated])
    return max((path for path in paths if path.stated == answer), key=lambda path: path.weight)


@dataclass(frozen=True)
class Asked:
    """What every decoding is given."""

    problems: Sequence[Problem]
    prompts: Sequence[Prompt]
    edits: tuple[Edit, ...]
    max_new_tokens: int
    think: bool | None
    seed: int
    on_tokens: Callable[[int], None]


@runtime_checkable
class Decoding(Protocol):
    """From prompts to replies."""

    def replies(self, lm: LanguageModel, asked: Asked) -> list[Reply]: ...


@dataclass(frozen=True)
class Greedy:
    """The likeliest token at every step."""

    def replies(self, lm: LanguageModel, asked: Asked) -> list[Reply]:
        made = _greedy(lm, asked)
        return [Reply((_path(p, one),)) for p, one in zip(asked.problems, made, strict=True)]


@dataclass(frozen=True)
class Forced:
    """Greedy after a beginning that is given."""

    first: str

    def replies(self, lm: LanguageModel, asked: Asked) -> list[Reply]:
        made = forced(
            lm,
            asked.prompts,
            self.first,
            max_new_tokens=asked.max_new_tokens,
            edits=asked.edits,
            think=asked.think,
            on_tokens=asked.on_tokens,
        )
        return [Reply((_path(p, one),)) for p, one in zip(asked.problems, made, strict=True)]


@dataclass(frozen=True)
class CotDecoding:
    """The k likeliest first tokens, greedy after, each path weighing as its answer is sure."""

    k: int

    def replies(self, lm: LanguageModel, asked: Asked) -> list[Reply]:
        found = cot_decode(
            lm,
            asked.prompts,
            k=self.k,
            max_new_tokens=asked.max_new_tokens,
            find_answer=last_number if all(_is_number(p.answer) for p in asked.problems) else _all_of_it,
            edits=asked.edits,
            think=asked.think,
            on_tokens=asked.on_tokens,
        )
        return [
            Reply(
                tuple(
                    replace(
                        _path(p, path, path.delta),
                        mean_logprob=path.mean_logprob,
                        mean_margin=path.mean_margin,
                    )
                    for path in decoded.paths
                )
            )
            for p, decoded in zip(asked.problems, found, strict=True)
        ]


@dataclass(frozen=True)
class SelfConsistency:
    """Samples, each with one vote."""

    n: int
    temperature: float

    def replies(self, lm: LanguageModel, asked: Asked) -> list[Reply]:
        made = self_consistency(
            lm,
            asked.prompts,
            n=self.n,
            temperature=self.temperature,
            seed=asked.seed,
            max_new_tokens=asked.max_new_tokens,
            edits=asked.edits,
            think=asked.think,
            on_tokens=asked.on_tokens,
        )
        return [
            Reply(tuple(_path(p, sample) for sample in of.samples))
            for p, of in zip(asked.problems, made, strict=True)
        ]


@dataclass(frozen=True)
class FormatCorrected:
    """A greedy reply, read in three ways, of which the kindest to the model counts.

    native    the answer is stated as one: in a box, or after "the answer is"
    lenient   or it is the last number
    forced    or it is what the reply goes on with after "The answer is"

    Which of them counts is decided for all problems together, by the largest share that is right.

    Source: Shao et al. 2025, arXiv:2506.10947, and the discussion of Wang et al. 2025, arXiv:2504.20571: much
    of a gain can be the format.
    """

    ending: str = "\nThe answer is"
    answer_tokens: int = 16

    def replies(self, lm: LanguageModel, asked: Asked) -> list[Reply]:
        made = _greedy(lm, asked)
        ending = tuple(lm.tokenizer(self.ending, add_special_tokens=False).input_ids)
        rows = []
        for prompt, one in zip(asked.prompts, made, strict=True):
            start = prompt_row(lm.tokenizer, prompt, think=asked.think)
            said = one.tokens[:-1] if one.finish == "stop" else one.tokens
            rows.append(Row((*start.tokens, *said, *ending), len(start.tokens)))
        rest = generate_rows(
            lm, rows, edits=asked.edits, max_new_tokens=self.answer_tokens, on_tokens=asked.on_tokens
        )
        return [
            self._read(problem, one, more)
            for problem, one, more in zip(asked.problems, made, rest, strict=True)
        ]

    def _read(self, problem: Problem, one: Completion, more: Completion) -> Reply:
        plain = judge(problem, one.text)
        last_line = (more.text.strip().splitlines() or [""])[0]
        pressed = judge(problem, f"{one.text}{self.ending} {last_line}")
        path = Path(
            one.text,
            len(one.tokens) + len(more.tokens),
            plain.stated,
            plain.correct,
            one.finish == "length",
        )
        as_stated = plain.correct and plain.rule in ("boxed", "stated")
        return Reply((path,), {"native": as_stated, "lenient": plain.correct, "forced": pressed.correct})


@runtime_checkable
class _Made(Protocol):
    """What decoding gives, whole or of one branch."""

    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> tuple[int, ...]: ...
    @property
    def finish(self) -> str: ...


def _path(problem: Problem, made: _Made, weight: float = 1.0) -> Path:
    verdict = judge(problem, made.text)
    return Path(
        made.text,
        len(made.tokens),
        verdict.stated,
        verdict.correct and made.finish != "nan",
        made.finish == "length",
        weight,
    )


def _greedy(lm: LanguageModel, asked: Asked) -> Sequence[Completion]:
    return generate(
        lm,
        asked.prompts,
        edits=asked.edits,
        max_new_tokens=asked.max_new_tokens,
        think=asked.think,
        on_tokens=asked.on_tokens,
    )


def _is_number(answer: str) -> bool:
    return NUMBER.fullmatch(answer.strip()) is not None


def _all_of_it(text: str) -> Span | None:
    """Where an answer is no number, such as a plan, all of the response is the answer."""
    stripped = text.strip()
    start = text.find(stripped)
    return (" ".join(stripped.split()), start, start + len(stripped)) if stripped else None
