"""Word problems that lack a number, beside ones that lack a clause which is beside the point.

The clause that is needed is a problem's first: in every template it holds a number that the first steps use
and nothing else gives. The one beside the point stands just before or just after it, in half of the problems
each, with as many numbers, about as many words, and numbers that occur nowhere else in the problem.
"""

import random
import re

from analyses.tasks.word_problems import template_of, word_problems
from interp.missing import Triple, triple

ASKS = "I cannot tell. One number is missing. How many were there?"
STATES = "The answer is {answer}."

_BESIDE = {
    1: (
        "It is {0} degrees outside",
        "A neighbor is {0} years old",
        "The clock shows {0} minutes past noon",
        "The calendar on the wall shows day {0}",
        "The nearest town is {0} miles away by car",
        "The old house across the street has {0} large windows",
    ),
    2: (
        "The radio plays {0} songs and {1} talks",
        "The park nearby has {0} benches and {1} lamps",
        "The house next door has {0} windows and {1} doors",
        "The town close by has {0} long streets and {1} bridges",
    ),
}
"""Clauses by how many numbers they hold."""


def missing_number(n: int = 300, seed: int = 0) -> list[Triple]:
    """Triples made from the first ``n`` word problems; their groups are the templates.

    Raises:
        InputError: as :func:`analyses.tasks.word_problems.word_problems`.
    """
    made = []
    for number, problem in enumerate(word_problems(n, seed)):
        stream = random.Random(f"{seed}/{number}")
        *facts, question = re.split(r"(?<=[.]) ", problem.prompt)
        size, given = len(facts[0].split()), re.findall(r"\d+", facts[0])
        kinds = _BESIDE[len(given)]
        nearest = min(abs(len(text.split()) - size) for text in kinds)
        text = stream.choice([text for text in kinds if abs(len(text.split()) - size) == nearest])
        used = re.findall(r"\d+", problem.prompt + problem.solutions["brief"])
        free = [value for value in range(13, 30) if str(value) not in used]
        beside = f"{text.format(*stream.sample(free, len(given)))}."
        first = stream.random() < 0.5
        made.append(
            triple(
                [beside, *facts] if first else [facts[0], beside, *facts[1:]],
                question,
                needed=int(first),
                irrelevant=int(not first),
                asks=ASKS,
                states=STATES.format(answer=problem.answer),
                group=template_of(problem),
            )
        )
    return made
