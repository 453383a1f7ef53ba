"""One item at a time, layer by token: where does putting in the clean activation bring the answer back?"""

from dataclasses import dataclass, replace
from typing import Any

from analyses.layers.study import FAMILIES, Study
from analyses.work import Work
from analyses.workers import Progress
from hooks.language_model import LanguageModel
from interp.patching import patch
from interp.prompt_pairs import PromptPair


@dataclass(frozen=True)
class TokenMap:
    """One task: patching every token of one pair, from its subject on, at every layer.

    Before the subject both prompts are the same, and there is nothing to put in.
    """

    pair: PromptPair

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record: the recovery of each token and layer, and the tokens of both prompts."""
        start, n = self.pair.subject[0], len(self.pair)
        single = [replace(self.pair, subject=(at, at + 1)) for at in range(start, n)]
        recovery = patch(lm, single, where="subject").recovery
        on_tokens(n * lm.n_layers)
        tokens, others = (
            [lm.tokenizer.decode([token]) for token in row.tokens[start:]]
            for row in (self.pair.clean, self.pair.corrupted)
        )
        return [{"recovery": recovery.tolist(), "tokens": tokens, "corrupted_tokens": others}]


def token_maps(study: Study) -> list[dict[str, Any]]:
    """Layer by token, for the closest matched pairs."""
    n = min(study.config.n_maps, len(study.survivors.knowledge))
    work: list[Work] = [([("map", item)], TokenMap(pair)) for item, pair in study.pairs(n)]
    study.compute("token maps", work)
    return [
        {
            "family": family,
            "prompt": s.item.prompt,
            "answer": s.item.answer,
            "corrupted_answer": s.partner.answer,
            **study.fields(("map", s.item.id)),
        }
        for i in range(n)
        for family in FAMILIES
        for s in (study.survivors.of(family)[i],)
    ]
