"""Which tokens: a small algebra of absolute positions, the same for reading and for steering.

A selection is a rule about a token's absolute position in its row, never about its index in the
tensor at hand, so it means the same with a KV cache, with left padding and in a compacted batch.
Rules are causal: whether a token is selected depends on it and on what came before it.

    all                       every token
    prompt, last_prompt       tokens of the prompt; the last of them
    generated                 every token whose output is a generated token: the last prompt token,
                              which produces the first one, and all later ones
    response                  ``generated`` without ``last_prompt``: the response's own tokens
    step(n), steps(a, b)      the token that produces the n-th generated token (from 0); a <= n < b
    first(n)                  the first n tokens of the row
    last(n)                   the last n tokens of the row as it was first given
    after("text")             from the token that completes the first occurrence of ``text`` on
    think, answer             inside <think>…</think>; ``generated`` outside it
    mask(tensor)              true cells of a [row, position] table

joined by ``|`` (union), ``&`` (intersection) and ``-`` (exclusion).
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooks.errors import InputError

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
NEVER = torch.iinfo(torch.int64).max
"""The position of a text that has not occurred."""


@dataclass(frozen=True)
class Frame:
    """The tokens of one forward pass, and where each stands in its row."""

    row: Int[Tensor, " batch"]
    """The number of each row, as the caller counts them."""

    position: Int[Tensor, "batch chunk"]
    """Absolute position of each token in its row, counted without padding; -1 on padding."""

    prompt_length: Int[Tensor, " batch"]
    given_length: Int[Tensor, " batch"]
    """Tokens of the row in its first forward pass."""

    completed: Mapping[str, Int[Tensor, " batch"]] = field(default_factory=dict)
    """For each text looked for: the position that completed it, or ``NEVER``."""


class Positions:
    """A selection of token positions. Subclasses are values: equal rules are equal and hashable."""

    def select(self, frame: Frame) -> Bool[Tensor, "batch chunk"]:
        """True where a token of ``frame`` is selected; never on padding."""
        raise NotImplementedError

    @property
    def texts(self) -> frozenset[str]:
        """Texts whose place in the row must be known to decide."""
        return frozenset()

    @property
    def by_row(self) -> bool:
        """Whether the selection depends on the number of a row, beyond its tokens."""
        return False

    def __or__(self, other: "Positions") -> "Positions":
        return _Join("|", self, other)

    def __and__(self, other: "Positions") -> "Positions":
        return _Join("&", self, other)

    def __sub__(self, other: "Positions") -> "Positions":
        return _Join("-", self, other)


@dataclass(frozen=True)
class _Join(Positions):
    operator: str
    left: Positions
    right: Positions

    def select(self, frame: Frame) -> Bool[Tensor, "batch chunk"]:
        left, right = self.left.select(frame), self.right.select(frame)
        match self.operator:
            case "|":
                return left | right
            case "&":
                return left & right
            case _:
                return left & ~right

    @property
    def texts(self) -> frozenset[str]:
        return self.left.texts | self.right.texts

    @property
    def by_row(self) -> bool:
        return self.left.by_row or self.right.by_row

    def __str__(self) -> str:
        return f"({self.left} {self.operator} {self.right})"


@dataclass(frozen=True)
class _All(Positions):
    def select(self, frame: Frame) -> Bool[Tensor, "batch chunk"]:
        return frame.position >= 0

    def __str__(self) -> str:
        return "all"


@dataclass(frozen=True)
class _Prompt(Positions):
    def select(self, frame: Frame) -> Bool[Tensor, "batch chunk"]:
        return (frame.position >= 0) & (frame.position < frame.prompt_length[:, None])

    def __str__(self) -> str:
        return "prompt"


@dataclass(frozen=True)
class _Steps(Positions):
    """Tokens that produce generated tokens ``start`` (from 0) up to, not including, ``stop``."""

    start: int
    stop: int | None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise InputError(
                f"steps({self.start}, {self.stop}) selects nothing: steps count from 0, the one "
                "that produces the first generated token, and stop must be above start."
            )

    def select(self, frame: Frame) -> Bool[Tensor, "batch chunk"]:
        step = frame.position - (frame.prompt_length[:, None] - 1)
        chosen = (step >= self.start) & (frame.position >= 0)
        return chosen if self.stop is None else chosen & (step < self.stop)

    def __str__(self) -> str:
        if (self.start, self.stop) == (0, None):
            return "generated"
        if (self.start, self.stop) == (1, None):
            return "response"
        if (self.start, self.stop) == (0, 1):
            return "last_prompt"
        if self.stop == self.start + 1:
            return f"step({self.start})"
        return f"steps({self.start}, {self.stop})"


@dataclass(frozen=True)
class _First(Positions):
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"first({self.n}) selects nothing; pass 1 or more.")

    def select(self, frame: Frame) -> Bool[Tensor, "batch chunk"]:
        return (frame.position >= 0) & (frame.position < self.n)

    def __str__(self) -> str:
        return f"first({self.n})"


@dataclass(frozen=True)
class _Last(Positions):
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"last({self.n}) selects nothing; pass 1 or more.")

    def select(self, frame: Frame) -> Bool[Tensor, "batch chunk"]:
        end = frame.given_length[:, None]
        return (frame.position >= (end - self.n).clamp(min=0)) & (frame.position < end)

    def __str__(self) -> str:
        return f"last({self.n})"


@dataclass(frozen=True)
class _After(Positions):
    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise InputError('after("") has nothing to look for; pass a text.')

    def select(self, frame: Frame) -> Bool[Tensor, "batch chunk"]:
        return frame.position >= frame.completed[self.text][:, None]

    @property
    def texts(self) -> frozenset[str]:
        return frozenset({self.text})

    def __str__(self) -> str:
        return f"after({self.text!r})"


@dataclass(frozen=True)
class _Think(Positions):
    def select(self, frame: Frame) -> Bool[Tensor, "batch chunk"]:
        opened, closed = frame.completed[THINK_OPEN], frame.completed[THINK_CLOSE]
        return (frame.position >= opened[:, None]) & (frame.position < closed[:, None])

    @property
    def texts(self) -> frozenset[str]:
        return frozenset({THINK_OPEN, THINK_CLOSE})

    def __str__(self) -> str:
        return "think"


@dataclass(frozen=True, eq=False)
class _Mask(Positions):
    table: Bool[Tensor, "row position"]

    def __post_init__(self) -> None:
        if not self.table.any():
            raise InputError("mask(...) selects nothing: every cell is False.")

    def select(self, frame: Frame) -> Bool[Tensor, "batch chunk"]:
        table = self.table.to(frame.position.device)
        if int(frame.row.max()) >= len(table):
            raise InputError(
                f"mask has {len(table)} rows and row {int(frame.row.max())} is running; "
                "pass one row of the mask for each prompt."
            )
        inside = (frame.position >= 0) & (frame.position < table.shape[1])
        column = frame.position.clamp(0, table.shape[1] - 1)
        return table[frame.row].gather(1, column) & inside

    @property
    def by_row(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"mask({'x'.join(map(str, self.table.shape))})"


everything: Positions = _All()
prompt: Positions = _Prompt()
last_prompt: Positions = _Steps(0, 1)
generated: Positions = _Steps(0, None)
response: Positions = _Steps(1, None)
think: Positions = _Think()
answer: Positions = generated - think
first = _First
last = _Last
after = _After
mask = _Mask


def step(n: int) -> Positions:
    """The token that produces the ``n``-th generated token, counted from 0."""
    return _Steps(n, n + 1)


def steps(start: int, stop: int) -> Positions:
    """The tokens that produce generated tokens ``start <= n < stop``, counted from 0."""
    return _Steps(start, stop)


_NAMES = {
    "all": everything,
    "prompt": prompt,
    "last_prompt": last_prompt,
    "generated": generated,
    "response": response,
    "think": think,
    "answer": answer,
}
_CALLS = {"step": step, "steps": steps, "first": first, "last": last, "after": after}


def parse_positions(text: str) -> Positions:
    """Read a selection as it prints.

    Example:
        >>> str(parse_positions("generated - steps(0, 4)"))
        '(generated - steps(0, 4))'

    Raises:
        InputError: naming the part that is not a selection, and the names that are.
    """
    refuse = partial(_refuse, text)
    try:
        return _read(ast.parse(text.strip(), mode="eval").body, refuse)
    except SyntaxError:
        raise refuse("it is not an expression") from None


def _refuse(text: str, why: str) -> InputError:
    return InputError(
        f"Cannot read {text!r} as positions: {why}. Names are {', '.join(_NAMES)}; calls are "
        f'step(n), steps(a, b), first(n), last(n), after("text"); join them with |, & and -.'
    )


def _read(node: ast.expr, refuse: "partial[InputError]") -> Positions:
    match node:
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS:
            values = [a.value for a in args if isinstance(a, ast.Constant)]
            kinds = tuple(type(v) for v in values)
            if len(values) != len(args) or kinds != _ARGUMENTS[name]:
                raise refuse(f"{ast.unparse(node)} has the wrong arguments")
            return _CALLS[name](*values)  # type: ignore[operator, no-any-return]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _read(left, refuse) | _read(right, refuse)
        case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
            return _read(left, refuse) & _read(right, refuse)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _read(left, refuse) - _read(right, refuse)
    raise refuse(f"{ast.unparse(node)} is not a selection")


_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "steps": (int, int),
    "first": (int,),
    "last": (int,),
    "after": (str,),
}
