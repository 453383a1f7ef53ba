"""A table of facts from a JSON file in the form of the LRE ``relations`` data set.

    {"name": "...", "prompt_templates": ["The capital of {} is"], "samples": [{"subject", "object"}, ...]}

Source: Hernandez et al. 2024, "Linearity of Relation Decoding in Transformer Language Models",
arXiv:2308.09124, whose data are such files.
Differs from the source: a subject with several objects is left out, since a model that names the
other one is not wrong; a few facts are kept for demonstrations.
"""

import random
import re
from pathlib import Path

from analyses.items.facts import Table, checked_templates, read_json
from hooks.errors import InputError

DEMONSTRATIONS = 4
"""Facts that are kept for demonstrations."""

_EXAMPLE = '{"name": "...", "prompt_templates": ["..."], "samples": [{"subject": "...", "object": "..."}]}'


def read_relation(path: Path | str, *, seed: int = 0, demonstrations: int = DEMONSTRATIONS) -> Table:
    """Read one relation; the facts to demonstrate are drawn by the seed, of different objects first.

    Raises:
        InputError: if the file is no relation, or holds too few facts to keep some for demonstration.
    """
    path = Path(path).expanduser()
    relation = read_json(path, f"An object such as {_EXAMPLE}")
    for key, form in {"name": str, "prompt_templates": list, "samples": list}.items():
        if not isinstance(relation.get(key), form):
            raise InputError(
                f"{path} has no {key!r} that is a {form.__name__}. It has "
                f"{', '.join(relation) or 'no keys'}; {_EXAMPLE} would work."
            )
    objects: dict[str, set[str]] = {}
    for place, sample in enumerate(relation["samples"], start=1):
        subject, answer = (
            sample.get(key) if isinstance(sample, dict) else None for key in ("subject", "object")
        )
        if not (isinstance(subject, str) and isinstance(answer, str) and subject.strip() and answer.strip()):
            raise InputError(
                f"Sample {place} of {path} is {str(sample)[:80]!r}. "
                'A sample such as {"subject": "France", "object": "Paris"} would work.'
            )
        objects.setdefault(subject.strip(), set()).add(answer.strip())
    facts = [(subject, answers.pop()) for subject, answers in objects.items() if len(answers) == 1]
    if len(facts) < demonstrations + 2:
        raise InputError(
            f"{path} holds {len(facts)} subjects with one object each. {demonstrations + 2} would work: "
            f"{demonstrations} are kept for demonstrations."
        )
    shuffled = random.Random(seed).sample(facts, len(facts))
    first = {answer: subject for subject, answer in reversed(shuffled)}
    shuffled.sort(key=lambda fact: first[fact[1]] != fact[0])  # stable: one fact of each object first
    shown = shuffled[:demonstrations]
    return Table(
        kind=re.sub(r"\W+", "_", relation["name"]).strip("_"),
        templates=checked_templates(relation["prompt_templates"], path),
        facts=tuple(fact for fact in facts if fact not in shown),
        demonstrations=tuple(shown),
    )
