r"""Does a response state the right answer? Lenient about form, strict about value.

Where the answer is looked for, first rule that finds one:

    boxed    the last filled \boxed{...}
    stated   the last "the answer is X", "answer: X", "#### X", "<answer>X"
    number   the last number anywhere, or the result of the equation that it trails

Numbers are compared exactly, as fractions. What is not one number (``3-5``, ``12:30``, ``x^2``,
``3 + 4`` with nothing after it) is never read as one of its parts, and labels ("Step 5.", the
"2." of a list) are no numbers at all. Nothing is evaluated, and every pattern runs in linear time.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from hooks.errors import InputError

Rule = Literal["boxed", "stated", "number", "plan", "none"]
"""Only the verifiers of plans give ``plan``: the moves, wherever they stand."""


@dataclass(frozen=True)
class Verdict:
    """What a response was found to state, where, and whether it is right."""

    correct: bool
    """The stated answer equals the gold answer."""

    stated: str | None
    """Normalised, so that equal answers are equal strings (``"0.75"`` for ``\\frac{3}{4}``); None
    where nothing was stated. Several numbers where one is due (``"3 or 5"``) stay as written."""

    rule: Rule
    """Where it was found."""


def verify(answer: str, response: str, *, tolerance: bool = True) -> Verdict:
    """Judge a response against the gold answer.

    Args:
        answer: A number in any form, perhaps with a unit, or a short text. A text is compared
            after normalising case, spaces, articles, quotes and closing punctuation.
        tolerance: Where the gold answer is written with decimals, accept a relative error of
            1e-4, and from three significant digits on also whatever rounds to it (12.8 accepts
            12.77; 0.5 does not accept 0.52). False compares exactly. A gold answer without
            decimals is always compared exactly.

    Raises:
        InputError: if the gold answer is blank.

    Example:
        >>> verify("18", "She pays 3 * 6 = **$18.00**.")
        Verdict(correct=True, stated='18', rule='number')
    """
    if not answer.strip():
        raise InputError(
            "The gold answer is blank, so every response would be wrong. A number or a short text would work."
        )
    gold_text, text = _plain(answer), _plain(response)
    gold = _whole(gold_text)
    if gold is None:
        return _verify_text(gold_text, text)
    finding = _find_number(text)
    if finding is None:
        return Verdict(False, None, "none")
    stated, rule = finding
    if isinstance(stated, str):
        return Verdict(False, stated, rule)
    margin = _margin(gold_text, gold) if tolerance else Fraction(0)
    return Verdict(abs(stated - gold) <= margin, _canonical(stated), rule)


def boxed(text: str) -> str | None:
    r"""The content of the last filled ``\boxed{...}``, or None."""
    for low, high in reversed(_boxes(text)):
        content = text[low:high].strip()
        if content:
            return content
    return None


# Cleaning: one spelling for what has many.

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\ufe63\uff0d\u2010\u2011", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\ufeff\r", ""),
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        **{"⁄": "/", "÷": "/", "×": "*", "⋅": "*", "≈": "=", "．": ".", "，": ",", "％": "%"},
        **{"’": "'", "‘": "'", "“": '"', "”": '"', "＝": "=", "：": ":"},
        **{"½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "⅛": " 1/8"},
    }
)

_CLEANING = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\!", ""),
        (r"(?<=[0-9])(?:\{,\}|\\,|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))", ","),
        (r"\\\\", "\n"),
        (r"\\[,;: ]|\\[()\[\]]", " "),
        (r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])", " "),
        (r"\\([%$#&])", r"\1"),
        (r"\\(?:times|cdot)(?![A-Za-z])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\approx(?![A-Za-z])", "="),
        (r"\^ ?\{? ?\\circ ?\}?", "°"),
        (r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox) ?\{([^{}]*)\}", r" \1 "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"(?<=[0-9])(?=\\frac)", " "),
        (r"\\frac ?\{ ?([-+]?[0-9.,]++) ?\} ?\{ ?([0-9.,]++) ?\}", r"\1/\2"),
        (r"\\frac ?([0-9]) ?([0-9])", r"\1/\2"),
        (r"(?<![0-9.])([0-9.]++) ?[*x] ?10 ?\^ ?\{? ?(-?[0-9]++) ?\}?", r"\1e\2"),
        (r"\b(?:Rs\.?|USD|US\$|EUR|GBP|INR) ?(?=[0-9])", "$"),
        (r"(?<=[0-9])\*\*(?=[0-9])", "^"),
        (r"\*\*|__|~~|`", " "),
    ]
]


def _plain(text: str) -> str:
    for pattern, replacement in _CLEANING[:2]:  # these tell a thin space from a space
        text = pattern.sub(replacement, text)
    text = text.translate(_CHARACTERS)
    for pattern, replacement in _CLEANING[2:]:
        text = pattern.sub(replacement, text)
    return text


# Numbers.

_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]++(?:,[0-9]++)*+(?:\.[0-9]++)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+)"
    r"|(?P<word>[^\W\d_]++)|(?P<line>\n)|(?P<space>\s)|(?P<mark>.)"
)
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})++(?:\.[0-9]++)?+")
_LABELS = frozenset(
    str.split(
        "step part problem question example exercise section option equation stage phase method "
        "solution figure"
    )
)
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_VARIABLES = frozenset("xyznkKMB")  # "3x"; and "5k" could be a distance or five thousand
_POWERS = frozenset("^_\\²³")
_ORDINALS = frozenset({"st", "nd", "rd", "th"})
_CURRENCY = frozenset("$€£¥₹")
_DASHES = frozenset("-–—")
_OPERATORS = frozenset("+-–*/^")
_OPERATOR_WORDS = frozenset({"plus", "minus", "times", "x", "divided", "multiplied"})
_UNIT_WORDS = str.split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_TEN_WORDS = str.split("twenty thirty forty fifty sixty seventy eighty ninety")
_UNITS = {word: value for value, word in enumerate(_UNIT_WORDS)}
_TENS = {word: 10 * value for value, word in enumerate(_TEN_WORDS, start=2)}
_PARTS = frozenset(
    str.split(
        "half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths "
        "seventh sevenths eighth eighths ninth ninths tenth tenths first second"
    )
)


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


class _Amount(NamedTuple):
    start: int
    end: int
    value: Fraction | None
    """None where digits stand that are not one number: a range, a time, a power."""
    joined: bool
    """An operator ties it to another amount."""


_NOTHING = _Token("none", "", -1, -1)


class _Tokens:
    """The tokens of a text without its spaces; past either end lies nothing."""

    def __init__(self, text: str) -> None:
        self.list = [
            _Token(match.lastgroup or "", match[0], match.start(), match.end())
            for match in _TOKEN.finditer(text)
            if match.lastgroup != "space"
        ]

    def __getitem__(self, index: int) -> _Token:
        return self.list[index] if 0 <= index < len(self.list) else _NOTHING

    def __len__(self) -> int:
        return len(self.list)

    def touch(self, index: int) -> bool:
        """Nothing stands between this token and the one before."""
        return self[index - 1].end == self[index].start >= 0


def _amounts(text: str) -> list[_Amount]:
    """Every amount written in digits, labels left out."""
    tokens = _Tokens(text)
    amounts: list[_Amount] = []
    past = marker = 0
    for index in [i for i, token in enumerate(tokens.list) if token.kind == "number"]:
        if index < past:
            continue
        value, past = _magnitude(tokens, index)
        if value is not None and _is_list_marker(tokens, index, value, marker):
            marker = int(value)
        elif not _is_labelled(tokens, index):
            amounts.append(_signed(tokens, index, past, value))
    return amounts


def _is_list_marker(tokens: _Tokens, index: int, value: Fraction, last: int) -> bool:
    """The number opens a line, as in "1. First, ...", and carries on from the marker before."""
    opens = tokens[index - 1].kind in ("none", "line")
    dotted = tokens[index + 1].text in (".", ")") and tokens.touch(index + 1)
    followed = tokens[index + 2].kind not in ("none", "line")
    return opens and dotted and ((value == 1 and followed) or value == last + 1 > 1)


def _is_labelled(tokens: _Tokens, index: int) -> bool:
    before = tokens[index - 1]
    if before.text == "#":
        return tokens.touch(index) and tokens[index - 2].text != "#"
    return before.text.lower() in _LABELS


def _literal(text: str) -> Fraction | None:
    """A number token's value; None where its commas or its size make no sense."""
    mantissa, _, exponent = text.lower().partition("e")
    if "," in mantissa and not _THOUSANDS.fullmatch(mantissa):
        return None
    if len(mantissa) > 400 or len(exponent) > 4:
        return None
    return Fraction(f"{mantissa.replace(',', '')}e{exponent or 0}")


def _magnitude(tokens: _Tokens, index: int) -> tuple[Fraction | None, int]:
    """The unsigned value that starts at a number token, and the index past it."""
    value = _literal(tokens[index].text)
    whole = tokens[index].text.isdigit()
    between = tokens[index - 1].text.lower() == "between"
    index += 1
    upper = tokens[index + 2].text
    if whole and tokens[index].text.isdigit() and tokens[index + 1].text == "/" and upper.isdigit():
        over, under = _literal(tokens[index].text), _literal(upper)
        if value is not None and over and under and over < under:  # 1 1/2
            value, index = value + over / under, index + 3
    elif tokens[index].text == "/" and tokens[index + 1].kind == "number":
        under = _literal(tokens[index + 1].text)
        value = value / under if value is not None and under else None
        index += 2
    while _continues(tokens, index, between):
        value = None
        index += 1
        while tokens[index].kind != "number":
            index += 1
        index += 1
    here = tokens[index]
    if here.text == "and" and _is_part(tokens, index):  # 3 and a half
        value, index = None, index + 3
    elif tokens.touch(index):
        if here.kind == "number" or here.text in _VARIABLES or here.text in _POWERS:
            value = None
        elif here.text in _ORDINALS:
            index += 1
    if tokens[index].text.lower() in _SCALES and value is not None:
        value, index = value * _SCALES[tokens[index].text.lower()], index + 1
    return value, index + 1 if tokens[index].text == "%" else index


def _continues(tokens: _Tokens, index: int, between: bool) -> bool:
    """A range, a time, a ratio or a date goes on from here: ``-5``, ``:30``, ``to 5``."""
    here, after = tokens[index], tokens[index + 1]
    if here.text == "to" or (between and here.text == "and"):
        return after.kind == "number" or (after.text in _CURRENCY and tokens[index + 2].kind == "number")
    if not tokens.touch(index) or not tokens.touch(index + 1):
        return False
    if here.text in (":", "/"):
        return after.kind == "number"
    if here.text in _DASHES:
        return after.kind == "number" or (after.text in _CURRENCY and tokens[index + 2].kind == "number")
    return False


def _signed(tokens: _Tokens, index: int, past: int, value: Fraction | None) -> _Amount:
    """Look left of a magnitude for its currency and sign, and to both sides for operators."""
    first = index
    if tokens[first - 1].text in _CURRENCY:
        first -= 1
    sign = tokens[first - 1]
    if sign.text in ("-", "–", "+") and _is_sign(tokens, first - 1):
        first -= 1
        if sign.text != "+" and value is not None:
            value = -value
        if tokens[first - 1].text in _CURRENCY and tokens.touch(first):
            first -= 1
    elif sign.text.lower() == "negative":
        value = None if value is None else -value
    if tokens.touch(first) and _is_glue(tokens, first - 1):
        value = None
    joined = _operator_before(tokens, first) or _operator_after(tokens, past)
    return _Amount(tokens[first].start, tokens[past - 1].end, value, joined)


def _is_sign(tokens: _Tokens, index: int) -> bool:
    before = tokens[index - 1]
    if tokens.touch(index + 1):
        operand = before.kind in ("number", "word") or before.text in (")", "%", "}")
        return not (operand and tokens.touch(index))
    return before.text in ("=", ":", "(")


def _is_glue(tokens: _Tokens, index: int) -> bool:
    """The token before makes the number part of something else: ``x2``, ``x^2``, ``\\sqrt{2}``."""
    here, before = tokens[index], tokens[index - 1]
    if here.text == "{":
        return before.text in ("^", "_", "}", "]") or (before.kind == "word" and tokens.touch(index))
    if here.text == "_":
        return before.kind == "word" and tokens.touch(index)
    return here.kind in ("word", "number") or here.text in ("^", "\\", "√")


def _operator_after(tokens: _Tokens, index: int) -> bool:
    for here in range(index, index + 3):  # a unit of up to two words may stand before
        token = tokens[here]
        if token.text in _OPERATORS or token.text.lower() in _OPERATOR_WORDS:
            after = here + (2 if tokens[here + 1].text == "by" else 1)
            while tokens[after].text in ("(", "-", *_CURRENCY):
                after += 1
            return tokens[after].kind == "number" or _is_variable(tokens[after])
        if token.kind != "word":
            return False
    return False


def _operator_before(tokens: _Tokens, index: int) -> bool:
    here = index - 1
    if tokens[here].text == "by" and tokens[here - 1].text in ("divided", "multiplied"):
        here -= 1
    token = tokens[here]
    if token.text not in _OPERATORS and token.text.lower() not in _OPERATOR_WORDS:
        return False
    if token.text == "*" and tokens.touch(index) != tokens.touch(here):
        return False  # emphasis: is *18*
    operand = tokens[here - 1]
    if operand.kind == "number" or operand.text in (")", "%") or _is_variable(operand):
        return True
    near = (tokens[here - 2], tokens[here - 3]) if operand.kind == "word" else ()
    return any(token.kind == "number" for token in near)


def _is_variable(token: _Token) -> bool:
    return token.kind == "word" and len(token.text) == 1 and token.text not in "aAI"


def _spelled(text: str) -> list[_Amount]:
    """Every amount written in words: twenty-one, a dozen, two hundred and five."""
    tokens = _Tokens(text)
    amounts: list[_Amount] = []
    index = 0
    while index < len(tokens):
        value, past = _spelled_at(tokens, index)
        if past > index:
            if tokens[index - 1].text.lower() in ("minus", "negative"):
                value = None if value is None else -value
            joined = _operator_before(tokens, index) or _operator_after_word(tokens, past)
            amounts.append(_Amount(tokens[index].start, tokens[past - 1].end, value, joined))
        index = max(past, index + 1)
    return amounts


def _operator_after_word(tokens: _Tokens, index: int) -> bool:
    operator = tokens[index].text in _OPERATORS or tokens[index].text.lower() in _OPERATOR_WORDS
    after = index + (2 if tokens[index + 1].text == "by" else 1)
    return operator and _spelled_at(tokens, after)[1] > after


def _spelled_at(tokens: _Tokens, index: int) -> tuple[Fraction | None, int]:
    """The value of the number words from here on, and the index past them; none if unmoved."""
    start = index
    total = group = 0
    room = 1000  # the next word must be worth less than this
    if tokens[index].text.lower() == "half" and tokens[index + 2].text.lower() == "dozen":
        return Fraction(6), index + 3
    while True:
        word = tokens[index].text.lower()
        if word in _UNITS and _UNITS[word] < room:
            group, room = group + _UNITS[word], 0
        elif word in _TENS and _TENS[word] < room:
            group, room = group + _TENS[word], 10
        elif word in _SCALES and index > start and group:
            scale = _SCALES[word]
            total, group = (total, group * 100) if scale == 100 else (total + group * scale, 0)
            room = {12: 0, 100: 100}.get(scale, 1000)
        elif word in ("a", "an") and index == start and tokens[index + 1].text.lower() in _SCALES:
            group = 1
        elif word == "dozen" and index == start:
            total, room = 12, 0
        else:
            break
        index += 1
        if tokens[index].text in ("-", "and") and _adds(tokens, index, room):
            index += 1
    if index > start and _is_part(tokens, index):
        return None, index + 1
    return Fraction(total + group), index


def _adds(tokens: _Tokens, index: int, room: int) -> bool:
    """A hyphen inside twenty-one, or the "and" of two hundred and five."""
    after = tokens[index + 1].text.lower()
    worth = _UNITS.get(after, _TENS.get(after, 1000))
    return worth < room and (room == 10 if tokens[index].text == "-" else room >= 100)


def _is_part(tokens: _Tokens, index: int) -> bool:
    """What follows makes another number of it: one half, two-thirds, three and a half."""
    for ahead in range(index, index + 3):
        word = tokens[ahead].text.lower()
        if word in _PARTS:
            return True
        if word not in ("-", "and", "a"):
            return False
    return False


# Reading one clause.

_EQUALS = re.compile(r"=|\bequals?\b|\bmakes\b|\bgives\b")
_REASON = re.compile(
    r"\b(?:because|since|as|which|where|when|after|before|so|if|given|but)\b|\(", re.IGNORECASE
)
_UNIT_AND = re.compile(r"[\s$€£%]*+(?:[^\W\d_]++\s++){0,2}?(?:or|and|to)\s*[$€£]?\s*", re.IGNORECASE)
_LISTED = re.compile(r"\s*[,;&]\s*(?:(?:or|and)\s*)?[$€£]?\s*", re.IGNORECASE)
_PREFIX = re.compile(r"[\s\"'(*_:{]*+(?:[A-Za-z] ?= ?)?[$\s]*+")
_SUFFIX = re.compile(r"[\s$€£%)}\"'*_.,!°]*+(?:\(?[^\W\d_]++(?:[ /-][^\W\d_]++){0,3}+[\s$)}\"'*_.!²³]*+)?")


def _whole(text: str) -> Fraction | None:
    """The number that a text is, but for a unit of up to four words; None if it is anything else."""
    if len(text) > 500:
        return None
    amounts = _amounts(text)
    if amounts:
        amount = amounts[0]
        alone = len(amounts) == 1 and not amount.joined and "\\" not in text
        bare = _PREFIX.fullmatch(text[: amount.start]) and _SUFFIX.fullmatch(text[amount.end :])
        return amount.value if alone and bare else None
    spelled = _spelled(text)
    if len(spelled) == 1 and not text[spelled[0].end :].strip(" \n.!\"'*"):
        before = text[: spelled[0].start].strip(" \n\"'*").lower()
        return spelled[0].value if before in ("", "minus", "negative") else None
    return None


def _read(clause: str) -> Fraction | str | None:
    """The number a clause states; the clause itself if it states several; None if it states none.

    After an equals sign, what follows the last one counts ("3 + 4 = 7" states 7).
    """
    amounts = _amounts(clause)
    if not amounts and len(clause.split()) <= 12:
        amounts = _spelled(clause)
    if not amounts or "\\" in clause:
        return None
    reason = _REASON.search(clause, amounts[0].end)
    if reason:
        clause = clause[: reason.start()]
    cuts = [0, *(match.end() for match in _EQUALS.finditer(clause)), len(clause) + 1]
    for low, high in zip(cuts[-2::-1], cuts[:0:-1], strict=True):
        part = [amount for amount in amounts if low <= amount.start < high]
        if not part:
            continue
        value = _single(clause, part)
        if value is not None:
            return value
    return " ".join(clause.split()).strip(" .$*\"'")[:80]


def _single(clause: str, amounts: list[_Amount]) -> Fraction | None:
    """The first amount, unless it is tied to, listed with or set against a second."""
    first, rest = amounts[0], amounts[1:]
    if first.joined or first.value is None:
        return None
    if rest:
        gap = clause[first.end : rest[0].start]
        if _UNIT_AND.fullmatch(gap) or _LISTED.fullmatch(gap):
            return None
        if re.search(r"\bor\b", clause[first.end : rest[-1].start]):
            return None
    return first.value


# Where answers stand.

_BOX = re.compile(r"\\(?:boxed|fbox) ?\{")
_ALGEBRA = re.compile(r"(?<![^\W\d_])[A-Za-z](?![^\W\d_])|\^")
_STATEMENT = re.compile(
    r"""(?P<marked>\#{4}[ \t]*+)
    | (?<![/\w])(?P<final>final\s{1,4})?answer(?![\w'-])
      (?:[ ]?\#?[0-9]{1,2}(?=\s?[:)]))?            # answer 2: ...
      [ \t]*+["'\])*_]*+(?:\s?\([^()\n]{0,60}\))?  # "answer", answer (in dollars)
      (?: \s*+(?:[:>→]|[-=]>|[-–—](?=\s))(?P<colon>)
        | \s*+=
        | \s+(?:to|for)\b[^\n.:;=!?0-9]{0,80}+:(?P<named>)
        | (?:,\s\w{1,12},)?
          (?!\s+(?:this|that|these|those|the|your|my|his|her|their|its|each|any|all|me|us)\b)
          [^\n.,:;=!?0-9]{0,80}?
          \b(?:is|are|was|be|equals?|becomes|(?:comes|works)\s(?:out\s)?(?:to|at))\b(?:[ ]?[:=])?
        | [ \t]*+(?P<header>\n)
        | (?=\s?[-+$€£]?\.?[0-9])
      )""",
    re.IGNORECASE | re.VERBOSE,
)
_OPENING = re.compile(r"(?:[\s\"'*_:>]|\$\$)*+")
_DIRECT = re.compile(r"[(\[{ ]*+[-+–]?[ ]?[$€£]?[ ]?[-+–]?\.?[0-9]")
_SENTENCE_END = re.compile(r"[.!?;](?=[\s\"')*\]]|$)|\n|</")
_BREAK = re.compile(r"[.!?](?=\s)|[\n,;:(%]|\b(?:or|and|so|then|is|which|rounds?)\b", re.IGNORECASE)
_DIGIT = re.compile(r"[0-9]")
_NOT_A_STATEMENT = re.compile(
    r"\b(?:not|by|found|obtained|calculated|computed|determined|unknown|than|least|most|between"
    r"|if|step)\b",
    re.IGNORECASE,
)
_CLAUSE = 300


def _boxes(text: str) -> list[tuple[int, int]]:
    """Where the content of every box starts and ends; one left open ends with its line."""
    openings = [match.end() for match in _BOX.finditer(text)]
    if not openings:
        return []
    closed: dict[int, int] = {}
    opened: list[int] = []
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            opened.append(brace.end())
        elif opened:
            closed[opened.pop()] = brace.start()
    lines = [match.start() for match in re.finditer(r"\n", text)] + [len(text)]
    return [
        (start, closed[start] if start in closed else lines[bisect_left(lines, start)]) for start in openings
    ]


def _without_boxes(text: str) -> str:
    kept, past = [], 0
    for low, high in _boxes(text):
        kept.append(text[past:low])
        past = max(past, high)
    return " ".join([*kept, text[past:]])


class _Statement(NamedTuple):
    text: str
    """The sentence that follows "answer is", without its end."""
    line: str
    """The rest of its line."""
    last: bool
    """No digit comes after the sentence."""
    kind: Literal["marked", "colon", "is"]


def _statements(text: str) -> Iterator[_Statement]:
    """Every "answer is ..." of a text, last first."""
    last_digit = max((match.start() for match in re.finditer(r"[0-9]", text)), default=-1)
    matches = list(_STATEMENT.finditer(text))
    limits = [*(match.start() for match in matches), len(text)][1:]
    for match, limit in zip(reversed(matches), reversed(limits), strict=True):
        if match["marked"] is not None:
            line = text[match.end() : min(limit, match.end() + _CLAUSE)].partition("\n")[0]
            if line.strip():
                yield _Statement(line, line, True, "marked")
            continue
        colon = any(match[group] is not None for group in ("colon", "named", "header"))
        opening = _OPENING.match(text, match.end())
        start = opening.end() if opening else match.end()
        clause = text[start : min(limit, start + _CLAUSE)]
        end = _SENTENCE_END.search(clause)
        sentence = clause[: end.start()] if end else clause
        yield _Statement(
            sentence,
            clause.partition("\n")[0],
            last_digit < start + len(sentence),
            "colon" if colon and match["final"] is None else "is",
        )


def _stated_number(statement: _Statement) -> Fraction | str | None:
    if statement.kind == "marked":
        return _whole(statement.text)
    if statement.kind == "colon":
        bare = _whole(statement.text)
        if bare is not None:
            return bare
        if not statement.last:
            return None  # "Answer: first, 3 * 4 = 12. Then ..." heads the working
    reading = _read(statement.text)
    if reading is None or _DIRECT.match(statement.text):
        return reading
    amounts = _amounts(statement.text)
    spelled = [] if amounts else _spelled(statement.text)
    if spelled and spelled[0].start == 0:
        return reading
    lead = statement.text[: (amounts or spelled)[0].start]
    loose = _NOT_A_STATEMENT.search(lead) and not _EQUALS.search(statement.text)
    return None if loose or isinstance(reading, str) or (spelled and reading == 1) else reading


def _find_number(text: str) -> tuple[Fraction | str, Rule] | None:
    box = (boxed(text) or "")[:_CLAUSE]
    reading = _read(box)
    if isinstance(reading, Fraction) or (reading is not None and not _ALGEBRA.search(box)):
        return reading, "boxed"
    text = _without_boxes(text)
    for statement in _statements(text):
        reading = _stated_number(statement)
        if reading is not None:
            return reading, "stated"
    value = _last_number(_end(text))
    if value is None:
        value = _last_number(text)
    return None if value is None else (value, "number")


def _end(text: str) -> str:
    """The last few thousand characters, from a word's start on: where a last number mostly is."""
    return text if len(text) <= 4000 else text[-4000:].partition(" ")[2]


def _last_number(text: str) -> Fraction | None:
    """The last number, or the result of the equation that it trails ("= 6 miles in 2 hours").

    On the worked solutions of GSM8K's training set, read without their "####" line, the equation
    corrects 128 answers and spoils 1.
    """
    amounts = [a for a in _amounts(text) if a.value is not None and not a.joined]
    amounts = [a for a in amounts if text[a.end - 2 : a.end] not in _ORDINALS] or amounts
    if not amounts and len(text) < 500 and len(text.split()) <= 20 and not _DIGIT.search(text):
        amounts = [a for a in _spelled(text) if a.value is not None and not a.joined]
        amounts = [a for a in amounts if a.value != 1] or amounts
    if not amounts:
        return None
    last = amounts[-1]
    equals = text.rfind("=", 0, last.start)
    result = next(amount for amount in amounts if amount.start > equals)
    trails = equals >= 0 and not _BREAK.search(text, result.end, last.start)
    return (result if trails else last).value


def _margin(gold_text: str, gold: Fraction) -> Fraction:
    """How far from a gold answer with decimals a stated answer may lie."""
    match = re.search(r"([0-9,]*)\.([0-9]+)", gold_text)
    if match is None or "/" in gold_text:
        return Fraction(0)
    relative = abs(gold) / 10_000
    significant = (match[1] + match[2]).replace(",", "").lstrip("0")
    exponent = re.search(r"[eE]", gold_text[match.end() : match.end() + 1])
    if len(significant) < 3 or exponent:
        return relative
    return max(relative, Fraction(1, 2 * 10 ** len(match[2])))


def _canonical(value: Fraction) -> str:
    """An integer or a finite decimal where there is one, else a fraction in lowest terms."""
    rest, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if places == 0 or rest > 1:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


# Answers that are not numbers.

_TEXT_CUT = re.compile(r",|;| \(| because | since | as | which ")
_OPTION = re.compile(r"\(?([a-z])(?:[).:]+(?: .*)?)?")


def _normal(text: str) -> str:
    text = " ".join(text.replace("$", " ").split()).strip(" \"'*_.,!?;:`").casefold()
    text = re.sub(r" ?([^\w\s]) ?", r"\1", text)
    return re.sub(r"^(?:the|an?) (?=.)", "", text)


def _says(gold: str, *candidates: str) -> bool:
    """One of the candidates is the gold text, whole or up to its first aside."""
    for candidate in candidates:
        for text in (candidate, _TEXT_CUT.split(candidate, maxsplit=1)[0]):
            if _normal(text) == gold:
                return True
        option = _OPTION.fullmatch(" ".join(candidate.split()).casefold())
        if len(gold) == 1 and option and option[1] == gold:
            return True
    return False


def _verify_text(gold_text: str, text: str) -> Verdict:
    gold = _normal(gold_text)
    if len(gold) == 3 and gold[0] == "(" and gold[2] == ")":
        gold = gold[1]
    box = boxed(text)
    if box is not None:
        return Verdict(_says(gold, box), _normal(box), "boxed")
    for statement in _statements(text):
        if statement.text.strip():
            right = _says(gold, statement.text, statement.line)
            return Verdict(right, gold if right else _normal(statement.text), "stated")
    bare = text.strip()
    if bare and "\n" not in bare and len(bare.split()) <= 10:
        right = _says(gold, bare)
        return Verdict(right, gold if right else _normal(bare), "stated")
    return Verdict(False, None, "none")
