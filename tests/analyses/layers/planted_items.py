"""The prompts of a planted model as items."""

from analyses.items import Item
from tests.interp.planted import TASK, TOKENS, Planted


def items_of(truth: Planted) -> list[Item]:
    """One for every prompt; the partners are the same prompt with another x."""
    made = []
    for family, pairs in truth.pairs.items():
        answers = {pair.clean.tokens[2:4]: TOKENS[pair.answer] for pair in pairs}
        for (x, y), answer in answers.items():
            others = [(TOKENS[o], a) for (o, also), a in answers.items() if also == y and a != answer]
            made.append(
                Item(
                    family=family,
                    kind=TASK[family],
                    before=f"<bos> {TASK[family]} ",
                    subject=TOKENS[x],
                    after=f" {TOKENS[y]} =",
                    answer=answer,
                    others=tuple(others),
                    choices=tuple(map(str, range(10))),
                )
            )
    return made
