"""Is first-order attribution right here? It is held against exact patching of the same sites."""

from dataclasses import asdict, dataclass
from typing import Any

from analyses.layers.study import Study
from analyses.workers import Progress
from hooks.language_model import LanguageModel
from hooks.sites import SiteKind
from interp.attribution import attribute
from interp.prompt_pairs import PromptPair

KINDS: tuple[SiteKind, ...] = ("attn_out", "mlp_out")


@dataclass(frozen=True)
class Checked:
    """One task: both, of some pairs."""

    pairs: tuple[PromptPair, ...]
    steps: int

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record."""
        found = attribute(lm, self.pairs, kinds=KINDS, where="all", steps=self.steps).against(lm, self.pairs)
        on_tokens(sum(map(len, self.pairs)) * lm.n_layers * len(KINDS))
        return [{**asdict(found), "at": str(found.at)}]


def attribution_check(study: Study) -> dict[str, Any]:
    """How well the two agree on the closest matched pairs."""
    pairs = tuple(pair for _, pair in study.pairs(max(1, study.config.n_check // 2)))
    key = ("check", "attribution")
    study.compute("attribution check", [([key], Checked(pairs, study.config.steps))])
    return study.fields(key)
