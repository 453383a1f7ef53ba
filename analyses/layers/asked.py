"""The filter of a run: what the model says to every item and partner, asked once and kept in its folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from analyses.configs import LayersConfig
from analyses.items import Item, Survivors, matched, survive
from analyses.items.survive import Question, Told, answers
from analyses.run_folder import RunFolder
from analyses.work import Work
from analyses.workers import Progress
from hooks.language_model import LanguageModel


@dataclass(frozen=True)
class Asking:
    """One task: what the model says to some questions."""

    questions: tuple[Question, ...]

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record a question."""
        told = answers(lm, self.questions)
        on_tokens(sum(len(question.prompt.tokens) for question in self.questions))
        return [one._asdict() for one in told]


def survivors(
    config: LayersConfig,
    lm: LanguageModel,
    items: Sequence[Item],
    run: RunFolder,
    compute: Callable[[str, Sequence[Work]], None],
) -> Survivors:
    """The matched items that the model answers right.

    Raises:
        NotEnoughItemsError: if too few are, or can be matched.
    """

    def ask(turn: int, questions: Sequence[Question]) -> list[Told]:
        """In chunks of prompts that are about as long."""
        what = f"partners, {turn}" if turn else "items"
        ordered = sorted(questions, key=lambda question: len(question.prompt.tokens))
        work: list[Work] = []
        for start in range(0, len(ordered), config.chunk):
            part = tuple(ordered[start : start + config.chunk])
            work.append(([(f"asked:{turn}", question.item.id) for question in part], Asking(part)))
        compute(what, work)
        records = [run.get(f"asked:{turn}", question.item.id) for question in questions]
        return [Told(r["top"], r["right"], r["logp"]) for r in records]

    filtered = survive(lm, items, seed=config.seed, ask=ask)
    return matched(filtered, matched_in=config.matched_in, most=config.n_items, model=lm.name)
