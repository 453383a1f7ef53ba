"""Arithmetic word problems made from templates, each with a long, a brief and a direct solution.

Level 1 takes one operation, level 2 two, level 3 three. Every number, on the way too, is a whole
number of at least 2, and the answer never stands in the prompt, so that copying scores nothing.
"""

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analyses.tasks.problem import Problem
from hooks.errors import InputError

LEVELS = ("1", "2", "3")


@dataclass(frozen=True)
class _Step:
    """One operation: ``left op right``, each a variable of the template or an earlier result."""

    left: str
    op: str
    right: str
    why: str
    """A clause that gives the reason, to stand before ", so we ..."."""


@dataclass(frozen=True)
class _Template:
    """A family of problems. Step ``i`` leaves its result in ``r1``, ``r2``, ``r3``."""

    facts: tuple[str, ...]
    """Clauses without a full stop; the prompt makes sentences of them."""
    asks: str
    goal: str
    """What is asked, to stand after "we want to know"."""
    steps: tuple[_Step, ...]
    says: str
    """The conclusion, with ``{answer}``."""
    ranges: Mapping[str, tuple[int, int]]
    """Smallest and largest value of each number."""
    things: tuple[str, ...]


_NAMES = str.split(
    "Amara Ben Chloe Daniel Elena Farid Grace Hugo Ines Jonas Keiko Leo Mina Noah Olga Pedro Quinn "
    "Rosa Samir Tara Uma Victor Wanda Yusuf"
)
_FOOD = ("apples", "pears", "plums", "cookies", "muffins", "lemons", "peaches", "walnuts")
_SMALL = ("marbles", "stickers", "beads", "shells", "buttons", "coins", "stamps", "pebbles")
_PAPER = ("books", "cards", "photos", "letters", "posters", "comics", "maps", "tickets")
_SCHOOL = ("pencils", "crayons", "erasers", "markers", "notebooks", "rulers", "brushes", "pens")
_GARDEN = ("roses", "tulips", "daisies", "lilies", "ferns", "tomatoes", "onions", "carrots")

_TEMPLATES: dict[str, tuple[_Template, ...]] = {
    "1": (
        _Template(
            facts=("{A} has {x} {things}", "{B} gives {A} {y} more {things}"),
            asks="How many {things} does {A} have now?",
            goal="how many {things} {A} has now",
            steps=(_Step("x", "+", "y", "the gift is joined to what {A} had already"),),
            says="{A} has {answer} {things} now",
            ranges={"x": (2, 12), "y": (2, 9)},
            things=_SMALL,
        ),
        _Template(
            facts=("there are {x} {things} in a bowl", "{A} takes {y} of the {things} away"),
            asks="How many {things} are left in the bowl?",
            goal="how many {things} are left in the bowl",
            steps=(_Step("x", "-", "y", "whatever {A} takes is no longer in the bowl"),),
            says="there are {answer} {things} left in the bowl",
            ranges={"x": (5, 19), "y": (2, 9)},
            things=_FOOD,
        ),
        _Template(
            facts=("{A} fills {x} bags", "each bag holds {y} {things}"),
            asks="How many {things} are in the bags altogether?",
            goal="how many {things} are in the bags altogether",
            steps=(_Step("x", "*", "y", "every bag holds the same number of {things}"),),
            says="there are {answer} {things} in the bags altogether",
            ranges={"x": (2, 6), "y": (2, 6)},
            things=_FOOD,
        ),
        _Template(
            facts=("{A} has {x} {things}", "{A} shares them equally among {y} friends"),
            asks="How many {things} does each friend get?",
            goal="how many {things} each friend gets",
            steps=(_Step("x", "/", "y", "all of the friends get the same number of {things}"),),
            says="each friend gets {answer} {things}",
            ranges={"x": (4, 18), "y": (2, 6)},
            things=_SCHOOL,
        ),
        _Template(
            facts=("{A} has {x} {things}", "{B} has {y} {things}"),
            asks="How many {things} do {A} and {B} have together?",
            goal="how many {things} {A} and {B} have together",
            steps=(_Step("x", "+", "y", "we want what the two of them own in one pile"),),
            says="{A} and {B} have {answer} {things} together",
            ranges={"x": (2, 12), "y": (2, 12)},
            things=_PAPER,
        ),
        _Template(
            facts=("{A} picked {x} {things}", "{B} picked {y} {things}"),
            asks="How many more {things} did {A} pick than {B}?",
            goal="how many more {things} {A} picked than {B}",
            steps=(_Step("x", "-", "y", "we are comparing the larger amount with the smaller one"),),
            says="{A} picked {answer} more {things} than {B}",
            ranges={"x": (6, 19), "y": (2, 12)},
            things=_GARDEN,
        ),
        _Template(
            facts=("one pack of {things} costs {x} dollars", "{A} buys {y} packs"),
            asks="How many dollars does {A} pay?",
            goal="how many dollars {A} pays",
            steps=(_Step("x", "*", "y", "{A} pays the same price again for every pack"),),
            says="{A} pays {answer} dollars",
            ranges={"x": (2, 7), "y": (2, 6)},
            things=_SCHOOL,
        ),
        _Template(
            facts=("{A} needs {x} {things} for a display", "{A} has {y} {things} so far"),
            asks="How many more {things} does {A} need?",
            goal="how many more {things} {A} still needs",
            steps=(_Step("x", "-", "y", "the part that is there already need not be found again"),),
            says="{A} still needs {answer} more {things}",
            ranges={"x": (6, 19), "y": (2, 12)},
            things=_PAPER,
        ),
        _Template(
            facts=("{A} has a garden with {x} rows", "there are {y} {things} in every row"),
            asks="How many {things} grow in the garden?",
            goal="how many {things} grow in the garden",
            steps=(_Step("x", "*", "y", "each of the rows holds equally many {things}"),),
            says="{answer} {things} grow in the garden",
            ranges={"x": (2, 6), "y": (2, 7)},
            things=_GARDEN,
        ),
        _Template(
            facts=("{A} found {x} {things} in the morning", "{A} found {y} more after lunch"),
            asks="How many {things} did {A} find that day?",
            goal="how many {things} {A} found that day",
            steps=(_Step("x", "+", "y", "the morning and the afternoon both count for the day"),),
            says="{A} found {answer} {things} that day",
            ranges={"x": (2, 12), "y": (2, 9)},
            things=_SMALL,
        ),
    ),
    "2": (
        _Template(
            facts=(
                "{A} has {x} boxes with {y} {things} in each",
                "{A} also has {z} loose {things}",
            ),
            asks="How many {things} does {A} have in all?",
            goal="how many {things} {A} has in all",
            steps=(
                _Step("x", "*", "y", "every box holds the same number of {things}"),
                _Step("r1", "+", "z", "the loose {things} count as well"),
            ),
            says="{A} has {answer} {things} in all",
            ranges={"x": (2, 6), "y": (2, 9), "z": (2, 12)},
            things=_SCHOOL,
        ),
        _Template(
            facts=(
                "{A} bakes {x} trays with {y} {things} on each",
                "the guests eat {z} of the {things}",
            ),
            asks="How many {things} are left?",
            goal="how many {things} are left",
            steps=(
                _Step("x", "*", "y", "all the trays carry equally many {things}"),
                _Step("r1", "-", "z", "those that were eaten are gone"),
            ),
            says="there are {answer} {things} left",
            ranges={"x": (2, 6), "y": (3, 9), "z": (2, 15)},
            things=("cookies", "muffins", "tarts", "scones", "rolls", "pies"),
        ),
        _Template(
            facts=(
                "{A} had {x} {things}",
                "{A} gave {y} of them to {B}",
                "later {A} bought {z} more",
            ),
            asks="How many {things} does {A} have now?",
            goal="how many {things} {A} has now",
            steps=(
                _Step("x", "-", "y", "the {things} for {B} leave the collection"),
                _Step("r1", "+", "z", "the new ones join what remained"),
            ),
            says="{A} has {answer} {things} now",
            ranges={"x": (8, 30), "y": (2, 12), "z": (2, 15)},
            things=_SMALL,
        ),
        _Template(
            facts=(
                "{A} has {x} {things} and {B} has {y} {things}",
                "they put them together and share them equally among {z} children",
            ),
            asks="How many {things} does each child get?",
            goal="how many {things} each child gets",
            steps=(
                _Step("x", "+", "y", "everything goes into a single pile"),
                _Step("r1", "/", "z", "the pile is split into equal shares"),
            ),
            says="each child gets {answer} {things}",
            ranges={"x": (4, 20), "y": (4, 20), "z": (2, 6)},
            things=_FOOD,
        ),
        _Template(
            facts=(
                "a pack of {things} costs {x} dollars",
                "{A} buys {y} packs and starts with {z} dollars",
            ),
            asks="How many dollars does {A} have left?",
            goal="how many dollars {A} has left",
            steps=(
                _Step("x", "*", "y", "each pack has the same price"),
                _Step("z", "-", "r1", "the cost comes out of the money {A} started with"),
            ),
            says="{A} has {answer} dollars left",
            ranges={"x": (2, 8), "y": (2, 6), "z": (15, 60)},
            things=_SCHOOL,
        ),
        _Template(
            facts=(
                "{A} collected {x} {things}",
                "{B} collected {y} more {things} than {A}",
            ),
            asks="How many {things} did they collect together?",
            goal="how many {things} they collected together",
            steps=(
                _Step("x", "+", "y", "{B} has as many as {A} and the extra ones besides"),
                _Step("x", "+", "r1", "both collections belong to the total"),
            ),
            says="they collected {answer} {things} together",
            ranges={"x": (3, 20), "y": (2, 12)},
            things=_SMALL,
        ),
        _Template(
            facts=(
                "a shelf had {x} {things}",
                "{A} removed {y} of them",
                "the rest were packed equally into {z} boxes",
            ),
            asks="How many {things} are in each box?",
            goal="how many {things} are in each box",
            steps=(
                _Step("x", "-", "y", "only the {things} that stayed were packed"),
                _Step("r1", "/", "z", "the boxes are filled equally"),
            ),
            says="there are {answer} {things} in each box",
            ranges={"x": (10, 40), "y": (2, 12), "z": (2, 6)},
            things=_PAPER,
        ),
        _Template(
            facts=(
                "{A} plants {x} {things} on Monday and {y} {things} on Tuesday",
                "rabbits eat {z} of the {things}",
            ),
            asks="How many {things} are still growing?",
            goal="how many {things} are still growing",
            steps=(
                _Step("x", "+", "y", "both days of planting count"),
                _Step("r1", "-", "z", "the rabbits make some of them disappear"),
            ),
            says="{answer} {things} are still growing",
            ranges={"x": (4, 20), "y": (4, 20), "z": (2, 12)},
            things=_GARDEN,
        ),
        _Template(
            facts=(
                "{A} reads {x} pages of a book about {things} every evening",
                "after {y} evenings there are {z} pages left",
            ),
            asks="How many pages does the book have?",
            goal="how many pages the book has",
            steps=(
                _Step("x", "*", "y", "the same number of pages is read each evening"),
                _Step("r1", "+", "z", "the unread pages are part of the book too"),
            ),
            says="the book has {answer} pages",
            ranges={"x": (3, 9), "y": (2, 6), "z": (4, 20)},
            things=("whales", "castles", "rockets", "bees", "volcanoes", "trains", "birds", "caves"),
        ),
    ),
    "3": (
        _Template(
            facts=(
                "{A} buys {x} packs with {y} {things} in each",
                "{A} gives {z} of them to {B}",
                "then {A} finds {w} more at home",
            ),
            asks="How many {things} does {A} have now?",
            goal="how many {things} {A} has now",
            steps=(
                _Step("x", "*", "y", "the packs are all the same"),
                _Step("r1", "-", "z", "{B} receives some"),
                _Step("r2", "+", "w", "the ones at home count too"),
            ),
            says="{A} has {answer} {things} now",
            ranges={"x": (2, 6), "y": (3, 9), "z": (2, 12), "w": (2, 12)},
            things=_SCHOOL,
        ),
        _Template(
            facts=(
                "{A} sells {x} {things} for {y} dollars each",
                "{B} sells {z} {things} for {w} dollars each",
            ),
            asks="How many dollars do they earn together?",
            goal="how many dollars they earn together",
            steps=(
                _Step("x", "*", "y", "{A} gets the same price for each one"),
                _Step("z", "*", "w", "{B} has a fixed price as well"),
                _Step("r1", "+", "r2", "both earnings go into one total"),
            ),
            says="they earn {answer} dollars together",
            ranges={"x": (2, 8), "y": (2, 6), "z": (2, 8), "w": (2, 6)},
            things=_FOOD,
        ),
        _Template(
            facts=(
                "{A} has {x} {things} and {B} has {y} {things}",
                "they lose {z} of the {things}",
                "the rest are shared equally by {w} children",
            ),
            asks="How many {things} does each child get?",
            goal="how many {things} each child gets",
            steps=(
                _Step("x", "+", "y", "the two start with one common pile"),
                _Step("r1", "-", "z", "the lost ones are gone"),
                _Step("r2", "/", "w", "the shares are equal"),
            ),
            says="each child gets {answer} {things}",
            ranges={"x": (6, 24), "y": (6, 24), "z": (2, 9), "w": (2, 6)},
            things=_SMALL,
        ),
        _Template(
            facts=(
                "{A} buys {x} {things} tickets at {y} dollars each",
                "{A} also pays {z} dollars for a snack",
                "{A} came with {w} dollars",
            ),
            asks="How many dollars does {A} have left?",
            goal="how many dollars {A} has left",
            steps=(
                _Step("x", "*", "y", "each ticket costs the same"),
                _Step("r1", "+", "z", "the snack must be paid as well"),
                _Step("w", "-", "r2", "the spending comes out of the money"),
            ),
            says="{A} has {answer} dollars left",
            ranges={"x": (2, 6), "y": (2, 8), "z": (2, 9), "w": (20, 80)},
            things=("circus", "museum", "zoo", "cinema", "theater", "concert", "ballet", "opera"),
        ),
        _Template(
            facts=(
                "{A} fills {x} crates with {y} {things} each",
                "there are {z} bad {things} among them",
                "the good ones are put equally into {w} baskets",
            ),
            asks="How many good {things} are in each basket?",
            goal="how many good {things} are in each basket",
            steps=(
                _Step("x", "*", "y", "the crates hold equal numbers"),
                _Step("r1", "-", "z", "the bad ones are thrown out"),
                _Step("r2", "/", "w", "the baskets get equal shares"),
            ),
            says="there are {answer} good {things} in each basket",
            ranges={"x": (2, 6), "y": (4, 12), "z": (2, 9), "w": (2, 6)},
            things=("apples", "pears", "plums", "lemons", "peaches", "onions", "carrots", "tomatoes"),
        ),
        _Template(
            facts=(
                "{A} made {x} {things}",
                "{B} made {y} times as many {things} as {A}",
                "they sold {z} of all the {things}",
            ),
            asks="How many {things} do they have left?",
            goal="how many {things} they have left",
            steps=(
                _Step("x", "*", "y", "{B} made several times what {A} made"),
                _Step("x", "+", "r1", "both of them add to the total"),
                _Step("r2", "-", "z", "the sold ones are gone"),
            ),
            says="they have {answer} {things} left",
            ranges={"x": (3, 10), "y": (2, 5), "z": (4, 20)},
            things=("candles", "bracelets", "lanterns", "kites", "baskets", "bowls", "cards", "masks"),
        ),
        _Template(
            facts=(
                "a {things} leaves with {x} people",
                "at the first stop {y} get off and {z} get on",
                "at the second stop {w} more get on",
            ),
            asks="How many people are on the {things} now?",
            goal="how many people are on the {things} now",
            steps=(
                _Step("x", "-", "y", "some people leave first"),
                _Step("r1", "+", "z", "others get on there"),
                _Step("r2", "+", "w", "those from the second stop join them"),
            ),
            says="there are {answer} people on the {things} now",
            ranges={"x": (10, 30), "y": (2, 9), "z": (2, 12), "w": (2, 12)},
            things=("bus", "train", "ferry", "tram", "boat", "coach", "river boat", "cable car"),
        ),
        _Template(
            facts=(
                "{A} saves {x} dollars a week for {y} weeks",
                "{B} gives {A} another {z} dollars",
                "a set of {things} costs {w} dollars",
            ),
            asks="How many dollars does {A} still need for the set?",
            goal="how many dollars {A} still needs for the set",
            steps=(
                _Step("x", "*", "y", "the savings are the same each week"),
                _Step("r1", "+", "z", "the present from {B} helps"),
                _Step("w", "-", "r2", "only the missing part is needed"),
            ),
            says="{A} still needs {answer} dollars",
            ranges={"x": (3, 9), "y": (2, 6), "z": (2, 12), "w": (25, 90)},
            things=("drums", "paints", "skates", "puzzles", "tools", "games", "books", "models"),
        ),
        _Template(
            facts=(
                "a class has {x} girls and {y} boys",
                "each of them brings {z} {things}",
                "the teacher adds {w} {things}",
            ),
            asks="How many {things} does the class have?",
            goal="how many {things} the class has",
            steps=(
                _Step("x", "+", "y", "girls and boys all bring some"),
                _Step("r1", "*", "z", "each child brings equally many"),
                _Step("r2", "+", "w", "the teacher adds to them"),
            ),
            says="the class has {answer} {things}",
            ranges={"x": (3, 9), "y": (3, 9), "z": (2, 5), "w": (2, 12)},
            things=_PAPER,
        ),
    ),
}


def word_problems(n: int = 360, seed: int = 0, levels: Sequence[str] = LEVELS) -> list[Problem]:
    """Distinct word problems, the levels in turn: 1, 2, 3, 1, 2, 3, ...

    The same seed gives the same problems on every machine, and fewer of them are the first of
    more.

    Raises:
        InputError: if ``n`` is not positive, or more than the templates can tell apart.
    """
    if n < 1:
        raise InputError(f"n={n} word problems were asked for; any n from 1 would work.")
    streams = {level: random.Random(f"{seed}/{level}") for level in levels}
    problems: list[Problem] = []
    seen: set[str] = set()
    for place in range(n):
        level = levels[place % len(levels)]
        family = _TEMPLATES[level][place // len(levels) % len(_TEMPLATES[level])]
        for _ in range(200):
            problem = _draw(family, level, streams[level])
            if problem.prompt not in seen:
                break
        else:
            raise InputError(
                f"n={n} word problems were asked for, but the templates of level {level} repeat "
                f"themselves after {place}. n={place} would work."
            )
        seen.add(problem.prompt)
        problems.append(problem)
    return problems


def template_of(problem: Problem) -> str:
    """The template that a word problem was made from: its level, and its place there."""
    for place, family in enumerate(_TEMPLATES[problem.level]):
        text = " ".join([*(f"{_capital(fact)}." for fact in family.facts), family.asks])
        pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(text))
        if re.fullmatch(pattern, problem.prompt, re.IGNORECASE):  # a thing may begin a sentence
            return f"{problem.level}/{place}"
    raise InputError(f"Problem {problem.id} is of none of the templates; pass one of word_problems.")


def _draw(family: _Template, level: str, stream: random.Random) -> Problem:
    numbers = _numbers(family, stream)
    first, second = stream.sample(_NAMES, 2)
    words = {"A": first, "B": second, "things": stream.choice(family.things), **numbers}
    answer = str(numbers[f"r{len(family.steps)}"])

    def fill(text: str) -> str:
        return text.format(answer=answer, **words)

    facts = [fill(fact) for fact in family.facts]
    prompt = " ".join([*(f"{_capital(fact)}." for fact in facts), fill(family.asks)])
    told = _Told(
        facts=facts,
        goal=fill(family.goal),
        steps=[
            _Line(numbers[step.left], step.op, numbers[step.right], fill(step.why)) for step in family.steps
        ],
        says=fill(family.says),
    )
    equations = [f"{line.equation}." for line in told.steps]
    return Problem(
        id=f"word-{level}-{hashlib.sha256(prompt.encode()).hexdigest()[:12]}",
        prompt=prompt,
        answer=answer,
        source="word-problems",
        level=level,
        solutions={
            "long": f"{stream.choice(_TELLINGS)(told)} The answer is {answer}.",
            "brief": " ".join([*equations, f"Answer: {answer}"]),
            "direct": f"The answer is {answer}.",
        },
    )


def _numbers(family: _Template, stream: random.Random) -> dict[str, int]:
    """Draw until every result is whole and at least 2, and the answer is not in the prompt."""
    while True:
        numbers = {name: stream.randint(*limits) for name, limits in family.ranges.items()}
        given = set(numbers.values())
        for place, step in enumerate(family.steps, start=1):
            left, right = numbers[step.left], numbers[step.right]
            if step.op == "/" and left % right:
                break
            result = _Line(left, step.op, right, "").result
            if result < 2:
                break
            numbers[f"r{place}"] = result
        else:
            if result not in given:
                return numbers


# Telling a solution at length.


@dataclass(frozen=True)
class _Line:
    left: int
    op: str
    right: int
    why: str

    @property
    def result(self) -> int:
        operations: dict[str, Callable[[int, int], int]] = {
            "+": int.__add__,
            "-": int.__sub__,
            "*": int.__mul__,
            "/": int.__floordiv__,
        }
        return operations[self.op](self.left, self.right)

    @property
    def equation(self) -> str:
        return f"{self.left} {self.op} {self.right} = {self.result}"

    @property
    def in_words(self) -> str:
        """7 plus 5."""
        word = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}[self.op]
        return f"{self.left} {word} {self.right}"

    @property
    def order(self) -> str:
        """add 7 and 5."""
        return {
            "+": f"add {self.left} and {self.right}",
            "-": f"subtract {self.right} from {self.left}",
            "*": f"multiply {self.left} by {self.right}",
            "/": f"divide {self.left} by {self.right}",
        }[self.op]

    @property
    def backwards(self) -> "_Line":
        """The operation that undoes this one."""
        undo = {"+": "-", "-": "+", "*": "/", "/": "*"}[self.op]
        return _Line(self.result, undo, self.right, "")


@dataclass(frozen=True)
class _Told:
    facts: list[str]
    goal: str
    steps: list[_Line]
    says: str


_ORDER = ("First", "Next", "Finally")
_CALM = ("To start", "After that", "Last of all")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _listed(clauses: list[str], lead: str = "") -> str:
    """a, b, and c; each after the same lead."""
    clauses = [f"{lead}{clause}" for clause in clauses]
    return ", and ".join([", ".join(clauses[:-1]), clauses[-1]]) if clauses[1:] else clauses[0]


def _together(told: _Told) -> str:
    steps = [
        f"{word}, {line.why}, so we {line.order}: {line.equation}."
        for word, line in zip(_words(_ORDER, told), told.steps, strict=True)
    ]
    last = told.steps[-1]
    return " ".join(
        [
            "Let's look at this problem together, one small piece at a time.",
            f"We are told that {_listed(told.facts)}.",
            f"We want to know {told.goal}.",
            *steps,
            f"To make sure, we can go back: {last.backwards.equation}, which fits.",
            f"This means that {told.says}.",
        ]
    )


def _question_first(told: _Told) -> str:
    steps = [
        f"{_capital(line.why)}, and that is why we {line.order}, which gives {line.result}."
        for line in told.steps
    ]
    last = told.steps[-1]
    return " ".join(
        [
            f"The question is {told.goal}, so that is what we have to find out.",
            f"Here is what the story says: {_listed(told.facts)}.",
            *steps,
            f"To check, we work backwards: {last.backwards.in_words} is {last.left}, just as it should be.",
            f"So {told.says}.",
        ]
    )


def _story(told: _Told) -> str:
    steps = [
        f"{word}, we notice that {line.why}. We {line.order} and get {line.result}."
        for word, line in zip(_words(_CALM, told), told.steps, strict=True)
    ]
    last = told.steps[-1]
    return " ".join(
        [
            f"In this story {_listed(told.facts)}.",
            f"Somebody would like to know {told.goal}, and we can work that out calmly.",
            *steps,
            f"Does this make sense? Yes, because {last.backwards.equation} takes us back.",
            f"We can say that {told.says}.",
        ]
    )


def _helper(told: _Told) -> str:
    steps = [
        f"{word} we see that {line.why}, and {line.in_words} makes {line.result}."
        for word, line in zip(_words(("First", "Then", "At the end"), told), told.steps, strict=True)
    ]
    last = told.steps[-1]
    return " ".join(
        [
            f"I would be happy to explain how we can find out {told.goal}!",
            f"It helps to repeat what we know before we begin: {_listed(told.facts)}.",
            *steps,
            f"A quick check: {last.backwards.equation}. That agrees with what we had before.",
            f"To sum up, {told.says}.",
        ]
    )


def _notebook(told: _Told) -> str:
    steps = [f"Since {line.why}, we {line.order}: {line.equation}." for line in told.steps]
    last = told.steps[-1]
    return " ".join(
        [
            "Before we calculate anything, it is worth reading the question again slowly.",
            f"We know {_listed(told.facts, 'that ')}, and we are looking for {told.goal}.",
            *steps,
            f"Looking back, {last.backwards.in_words} brings us to {last.left} again, so nothing "
            "went wrong on the way.",
            f"In other words, {told.says}.",
        ]
    )


def _words(words: tuple[str, ...], told: _Told) -> tuple[str, ...]:
    """One linking word a step; the last word is for the last step."""
    steps = len(told.steps)
    return (words[0],) if steps == 1 else (*words[: steps - 1], words[-1])


_TELLINGS: tuple[Callable[[_Told], str], ...] = (
    _together,
    _question_first,
    _story,
    _helper,
    _notebook,
)
