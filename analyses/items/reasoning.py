"""Reasoning items: sums, comparisons, rules and compositions over what the prompt states.

No answer is a stored fact about the world: entities are drawn and paired at random, and what holds of
them is said in the prompt. Where the prompt names the candidates, they stand in the partner's prompt
in the same places, and only the subject says which is right: a model that answers by position, or by
which it likes best, gives one answer to both prompts and is right on one at most. (``place_rule`` is
the exception: there a new word stands in the subject's place, and is the answer.)

    Tom has the drum. The kite is blue. The drum is red. The color of Tom's thing is   -> red
    Tom has the kite. The kite is blue. The drum is red. The color of Tom's thing is   -> blue

Numbers are of one digit, since many tokenizers split the others. Kinds, from the ladder of tasks for
small models: one- and two-step addition, subtraction, comparison of numbers and of entities,
elimination, a rule shown by examples, a look-up, an order that the prompt makes up, and two hops.

Source: elimination between two people is the indirect object of Wang et al. 2023, "Interpretability
in the Wild", arXiv:2211.00593.
Differs from the source: also between cities, countries, languages, animals and digits.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

from analyses.items.item import Item
from hooks.errors import InputError

MAX_PARTNERS = 3
"""Partners of a sum: few, so that demonstrations can have yet other answers."""

_TRIES = 200
"""Draws without a new question after which a form is taken for exhausted."""

_NAMES = tuple(
    str.split(
        "Paul Anna Tom Mia Ben Lucy Max Emma Jack Kate Sam Rosa Leo Clara Hugo Nina "
        "Oscar Alice Peter Mary John"
    )
)
_THINGS = tuple(
    str.split("drum kite cup lamp ball book chair box hat coat ring bell rope pen bag vase clock shirt")
)
_ANIMALS = tuple(
    str.split("cat dog horse cow pig sheep goat duck fox bear wolf lion tiger mouse rabbit bird")
)
_COLORS = tuple(str.split("red blue green yellow black white brown pink orange purple gray gold silver"))
_CITIES = tuple(
    str.split(
        "Paris London Rome Berlin Madrid Tokyo Moscow Vienna Dublin Athens Cairo Boston Chicago Seattle"
    )
)
_COUNTRIES = tuple(
    str.split(
        "France Spain Italy Germany Japan China India Brazil Egypt Greece Poland Russia Turkey Canada Mexico"
    )
)
_LANGUAGES = tuple(
    str.split("French Spanish Italian German Japanese Chinese Greek Polish Russian Turkish Arabic English")
)
_DIGITS = tuple("123456789")
_LETTERS = tuple("ABCDEFGHK")


@dataclass(frozen=True)
class _Question:
    """A prompt without demonstrations, and its answer."""

    before: str
    subject: str
    after: str
    answer: str
    others: tuple[tuple[str, str], ...]
    choices: tuple[str, ...]

    @property
    def line(self) -> str:
        """The question with its answer, as a demonstration shows it."""
        text = self.before + self.subject + self.after
        return f"{text} {self.answer}{'.' if self.after[-1].isalpha() else ''}\n"


@dataclass(frozen=True)
class _Form:
    """A sentence that asks for something, and what it is about."""

    kind: str
    draw: Callable[["_Form", random.Random], _Question]
    text: str
    """With ``{subject}`` where the subject is, and the other names that ``draw`` fills in."""

    pool: tuple[str, ...] = ()
    """What the answers are drawn from, where they are words."""

    shots: tuple[int, int] = (0, 2)
    """Fewest and most demonstrations."""


def _filled(
    text: str,
    subject: str,
    answer: str,
    others: Sequence[tuple[str, str]],
    choices: Sequence[str],
    **names: object,
) -> _Question:
    before, after = text.split("{subject}")
    return _Question(
        before.format(**names), subject, after.format(**names), answer, tuple(others), tuple(choices)
    )


def _sum(form: _Form, stream: random.Random) -> _Question:
    """Positive numbers whose sum has one digit; the subject is one of them."""
    terms = form.text.count("{")
    while True:
        numbers = [stream.randint(1, 8) for _ in range(terms)]
        subject, rest = numbers[0], sum(numbers[1:])
        instead = [x for x in range(1, 10 - rest) if x != subject]
        if subject + rest <= 9 and instead:
            break
    others = [(str(x), str(x + rest)) for x in stream.sample(instead, min(len(instead), MAX_PARTNERS))]
    names = dict(zip("abc", numbers[1:], strict=False))
    return _filled(form.text, str(subject), str(subject + rest), others, _DIGITS, **names)


def _difference(form: _Form, stream: random.Random) -> _Question:
    """A number of one digit less another; the subject is the one it is taken from."""
    while True:
        subject, less = stream.randint(2, 9), stream.randint(1, 8)
        instead = [x for x in range(less + 1, 10) if x != subject]
        if subject > less and instead:
            break
    others = [(str(x), str(x - less)) for x in stream.sample(instead, min(len(instead), MAX_PARTNERS))]
    return _filled(form.text, str(subject), str(subject - less), others, _DIGITS, a=less)


def _extreme(form: _Form, stream: random.Random) -> _Question:
    """The larger or smaller of two digits; the partner makes the answer the other place's.

    The number that stays is the partner's answer or was this item's, so that a model which always
    gives the first, or the last, is right once at most.
    """
    most = "larger" in form.text or "max" in form.text
    best = max if most else min
    while True:
        subject, fixed = stream.sample(range(1, 10), 2)
        wins = best(subject, fixed) == subject
        instead = [x for x in range(1, 10) if x != fixed and (best(x, fixed) == x) != wins]
        if instead:
            break
    others = [(str(x), str(best(x, fixed))) for x in stream.sample(instead, min(len(instead), MAX_PARTNERS))]
    answer = str(best(subject, fixed))
    return _filled(form.text, str(subject), answer, others, (str(subject), str(fixed)), a=fixed)


def _points(form: _Form, stream: random.Random) -> _Question:
    """Who has more, of two people with a digit each; the subject is one of the numbers."""
    first, second = stream.sample(form.pool, 2)
    while True:
        subject, fixed = stream.sample(range(1, 10), 2)
        instead = [x for x in range(1, 10) if x != fixed and (x > fixed) != (subject > fixed)]
        if instead:
            break
    firsts = form.text.index("{subject}") < form.text.index("{b}")  # it is the first one's number
    winner, loser = (first, second) if firsts == (subject > fixed) else (second, first)
    others = [(str(x), loser) for x in stream.sample(instead, min(len(instead), MAX_PARTNERS))]
    names = {"a": first, "b": second, "n": fixed}
    return _filled(form.text, str(subject), winner, others, (first, second), **names)


_RELATIONS = (("taller", "shorter"), ("older", "younger"), ("faster", "slower"), ("richer", "poorer"))


def _relation(form: _Form, stream: random.Random) -> _Question:
    """One is more, or less, than another; asked for either end. The subject is the relation."""
    first, second = stream.sample(form.pool, 2)
    ends = stream.choice(_RELATIONS)
    subject, asked = stream.choice(ends), stream.choice(ends)
    other = ends[1 - ends.index(subject)]
    answer, wrong = (first, second) if subject == asked else (second, first)
    return _filled(form.text, subject, answer, [(other, wrong)], (first, second), a=first, b=second, q=asked)


def _elimination(form: _Form, stream: random.Random) -> _Question:
    """Two are named, one of them again; the other is left. The subject is the one named again."""
    pair = stream.sample(form.pool, 2)
    subject, answer = stream.sample(pair, 2)
    names = {"a": pair[0], "b": pair[1], "n": stream.choice([n for n in _NAMES if n not in pair])}
    return _filled(form.text, subject, answer, [(answer, subject)], pair, **names)


def _look_up(form: _Form, stream: random.Random) -> _Question:
    """Three things and what belongs to each; the subject is the one asked for."""
    keys = stream.sample(_NAMES if form.pool == _CITIES else _THINGS, 3)
    values = stream.sample([v for v in form.pool if v not in keys], 3)
    belongs = dict(zip(keys, values, strict=True))
    statement, question = form.text.split("|")
    facts = "".join(statement.format(k=key, v=value) for key, value in belongs.items())
    subject, *rest = stream.sample(keys, 3)
    others = [(key, belongs[key]) for key in rest]
    return _filled("{facts}" + question, subject, belongs[subject], others, values, facts=facts)


def _place(form: _Form, stream: random.Random) -> _Question:
    """Which of three words to copy, to be seen from four examples; the subject is the word there."""
    place = stream.randrange(3)
    words = stream.sample(form.pool, 3 * 4 + 4)
    shown, asked, spare = [words[i : i + 3] for i in range(0, 12, 3)], words[12:15], words[15:]
    examples = "".join(f"{', '.join(three)} -> {three[place]}\n" for three in shown)
    slots = ["{subject}" if i == place else word for i, word in enumerate(asked)]
    text = "{examples}" + ", ".join(slots) + form.text
    others = [(word, word) for word in spare]
    return _filled(text, asked[place], asked[place], others, asked, examples=examples)


def _step(form: _Form, stream: random.Random) -> _Question:
    """A number to be added, to be seen from four examples; the subject is what it is added to."""
    step = stream.randint(1, 4)
    numbers = stream.sample(range(1, 10 - step), 5)
    examples = "".join(f"{x} -> {x + step}\n" for x in numbers[2:])
    subject, other = numbers[:2]
    return _filled(
        "{examples}{subject}" + form.text,
        str(subject),
        str(subject + step),
        [(str(other), str(other + step))],
        _DIGITS,
        examples=examples,
    )


def _order(form: _Form, stream: random.Random) -> _Question:
    """What follows in an order that the prompt makes up; the subject is what it follows."""
    row = stream.sample(form.pool, 4)
    place, *rest = stream.sample(range(3), 3)
    others = [(row[i], row[i + 1]) for i in rest]
    return _filled(form.text, row[place], row[place + 1], others, row, row=", ".join(row))


def _two_hops(form: _Form, stream: random.Random) -> _Question:
    """From a person to a thing, from the thing to what it is like; the subject is the thing.

    The thing that is not the person's is described too, before or after.
    """
    person = stream.choice(_NAMES)
    between = [n for n in _NAMES if n != person] if "works" in form.text else _THINGS
    subject, other = stream.sample(between, 2)
    answer, wrong = stream.sample(form.pool, 2)
    first, fact, question = form.text.split("|")
    facts = [fact.format(k=subject, v=answer), fact.format(k=other, v=wrong)]
    stream.shuffle(facts)
    return _filled(
        first + "{facts}" + question,
        subject,
        answer,
        [(other, wrong)],
        (answer, wrong),
        facts="".join(facts),
        n=person,
    )


FORMS = (
    _Form("addition", _sum, "{subject} + {a} =", shots=(1, 4)),
    _Form("addition", _sum, "{a} + {subject} =", shots=(1, 4)),
    _Form("addition", _sum, "The sum of {subject} and {a} is", shots=(1, 2)),
    _Form("two_step_addition", _sum, "{subject} + {a} + {b} =", shots=(1, 3)),
    _Form("two_step_addition", _sum, "{a} + {subject} + {b} =", shots=(1, 3)),
    _Form("subtraction", _difference, "{subject} - {a} =", shots=(1, 3)),
    _Form("larger_number", _extreme, "max({subject}, {a}) =", shots=(1, 3)),
    _Form("larger_number", _extreme, "max({a}, {subject}) =", shots=(1, 3)),
    _Form("larger_number", _extreme, "The larger of {subject} and {a} is", shots=(1, 3)),
    _Form("larger_number", _extreme, "The larger of {a} and {subject} is", shots=(1, 3)),
    _Form("smaller_number", _extreme, "min({subject}, {a}) =", shots=(1, 3)),
    _Form("smaller_number", _extreme, "min({a}, {subject}) =", shots=(1, 3)),
    _Form("more_points", _points, "{a} has {subject} points. {b} has {n} points. The winner is", _NAMES),
    _Form("more_points", _points, "{a} has {n} points. {b} has {subject} points. The winner is", _NAMES),
    _Form("relation", _relation, "{a} is {subject} than {b}. The {q} one is", _NAMES, (1, 2)),
    _Form("elimination", _elimination, "When {a} and {b} came home, {subject} handed the mail to", _NAMES),
    _Form("elimination", _elimination, "Then {a} and {b} had a long talk. {subject} said goodbye to", _NAMES),
    _Form(
        "elimination",
        _elimination,
        "The train runs between {a} and {b}. The train that leaves {subject} arrives in",
        _CITIES,
    ),
    _Form(
        "elimination",
        _elimination,
        "The border lies between {a} and {b}. Whoever leaves {subject} enters",
        _COUNTRIES,
    ),
    _Form(
        "elimination",
        _elimination,
        "{n} speaks {a} and {b}. When nobody understands {subject}, {n} speaks",
        _LANGUAGES,
    ),
    _Form(
        "elimination", _elimination, "The {a} and the {b} are friends. The {subject} plays with the", _ANIMALS
    ),
    _Form("elimination", _elimination, "The {a} and the {b} had a race. The {subject} lost to the", _ANIMALS),
    _Form(
        "elimination",
        _elimination,
        "The {a} pen and the {b} pen are side by side. The {subject} pen is next to the",
        _COLORS,
    ),
    _Form(
        "elimination",
        _elimination,
        "The two numbers are {a} and {b}. If one of them is {subject}, then the other one is",
        _DIGITS,
    ),
    _Form(
        "elimination",
        _elimination,
        "The two letters are {a} and {b}. If one of them is {subject}, then the other one is",
        _LETTERS,
    ),
    _Form("place_rule", _place, " ->", _THINGS + _ANIMALS, (0, 0)),
    _Form("add_rule", _step, " ->", shots=(0, 0)),
    _Form("look_up", _look_up, "The {k} is {v}. |So the {subject} is", _COLORS, (0, 2)),
    _Form("look_up", _look_up, "{k} lives in {v}. |So {subject} lives in", _CITIES, (0, 2)),
    _Form("look_up", _look_up, "{k}: {v}, |and again {subject}:", _DIGITS, (0, 2)),
    _Form(
        "made_up_order", _order, "In the list {row}, the word after {subject} is", _THINGS + _ANIMALS, (0, 1)
    ),
    _Form(
        "two_hops",
        _two_hops,
        "{n} has the {subject}. |The {k} is {v}. |The color of {n}'s thing is",
        _COLORS,
        (0, 1),
    ),
    _Form(
        "two_hops",
        _two_hops,
        "{n} took the {subject}. |The {k} is from {v}. |The thing that {n} took is from",
        _CITIES,
        (0, 1),
    ),
    _Form(
        "two_hops",
        _two_hops,
        "{n} works for {subject}. |{k} lives in {v}. |The boss of {n} lives in",
        _CITIES,
        (0, 1),
    ),
)
"""In the order in which items are drawn, one of each in turn."""

KINDS = tuple(dict.fromkeys(form.kind for form in FORMS))


def reasoning_items(n: int = 720, *, seed: int = 0, kinds: Sequence[str] | None = None) -> list[Item]:
    """Distinct questions, one of each form in turn; a form that has no new ones left is passed over.

    The same seed gives the same items on every machine, and fewer of them are the first of more.
    Demonstrations are questions of the same form; none has the answer of the item or a partner.

    Args:
        kinds: Take only these; None takes all.

    Raises:
        InputError: if ``n`` is not positive, a kind is unknown, or all forms are exhausted.
    """
    if n < 1:
        raise InputError(f"n={n} reasoning items were asked for; any n from 1 would work.")
    unknown = sorted(set(kinds or ()) - set(KINDS))
    if unknown:
        raise InputError(f"There is no reasoning kind {unknown[0]!r}. {', '.join(KINDS)} would work.")
    forms = [form for form in FORMS if kinds is None or form.kind in kinds]
    streams = {form.text + form.kind: random.Random(f"{seed}/{form.kind}/{form.text}") for form in forms}
    items: list[Item] = []
    seen: set[str] = set()
    exhausted: set[_Form] = set()
    for form in cycle(forms):
        if len(items) == n:
            return items
        if len(exhausted) == len(forms):
            raise InputError(
                f"n={n} items of {', '.join(kinds or KINDS)} were asked for, but there are no new "
                f"questions after {len(items)}. n={len(items)} would work, or more kinds."
            )
        if form in exhausted:
            continue
        item = _new(form, streams[form.text + form.kind], seen)
        if item is None:
            exhausted.add(form)
        else:
            items.append(item)
    raise AssertionError("a cycle does not end")


def _new(form: _Form, stream: random.Random, seen: set[str]) -> Item | None:
    for _ in range(_TRIES):
        question = form.draw(form, stream)
        text = question.before + question.subject + question.after
        if text not in seen:
            seen.add(text)
            break
    else:
        return None
    shown = _demonstrations(form, question, stream)
    return Item(
        family="reasoning",
        kind=form.kind,
        before="".join(shown) + question.before,
        subject=question.subject,
        after=question.after,
        answer=question.answer,
        others=question.others,
        choices=question.choices,
    )


def _demonstrations(form: _Form, question: _Question, stream: random.Random) -> list[str]:
    """Lines of other questions of the form, none with an answer of this one or of a partner."""
    taken = {question.answer, *(answer for _, answer in question.others)}
    shown: list[str] = []
    for _ in range(stream.randint(*form.shots)):
        while True:
            other = form.draw(form, stream)
            named = set(other.choices) if form.pool else {other.answer}
            if not named & taken and other.line not in shown:
                break
        shown.append(other.line)
    return shown
