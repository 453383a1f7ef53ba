"""Fast and slow: the same items answered at once, and after a thought; right or wrong, and layer by layer.

The model first thinks aloud about the item's last sentence. Then every condition ends in the very same
tokens, the item's prompt, and the next token is the answer:

    fast         the prompt
    slow         the item's thought, then the prompt
    paraphrased  a request to go on, then the prompt: another change of what is read, without a thought
    shuffled     another item's thought, then the prompt

so the answers have one form, and activations are compared at one and the same token, the last.

Sources: Kojima et al. 2022, arXiv:2205.11916, for answering in two steps; Yang et al. 2025,
arXiv:2507.18178, for the comparison.
Differs from the sources: the answer is one token after the item's own prompt, with or without a thought
before it; items are those that are asked, whether the model answers them right or not.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from analyses.items.item import Family, Item
from analyses.items.tokenized import TokenizedItem, after, tokenize
from analyses.layers.study import FAMILIES, Study
from analyses.work import Work
from analyses.workers import Progress
from hooks.generate import generate
from hooks.language_model import LanguageModel
from hooks.rows import Row
from hooks.sites import Site
from hooks.unembed import unembed
from interp.adjustment import adjustment
from interp.similarity import FEWEST, CKACurve, fast_slow
from interp.token_activations import token_activations

ASK = (
    "Here is a sentence without its last word:\n\n{sentence} ...\n\n"
    "Think step by step about what the missing word is. Then say it."
)
CONTINUE = "Question: What is the missing word?\n{sentence} ...\nAnswer: Let's think step by step."
"""Asked of a model without a chat template."""

PARAPHRASE = "Here are some sentences. Read them and go on with the word that comes next."

CONDITIONS = ("fast", "slow", "paraphrased", "shuffled")


@dataclass(frozen=True)
class Asked:
    """An item as tokens, whether the model knows its answer or not."""

    item: Item
    tokens: TokenizedItem


def draw(lm: LanguageModel, items: Sequence[Item], family: Family, n: int, seed: int) -> list[Asked]:
    """``n`` items of a family that are one token from their answer, as evenly over the kinds as they go."""
    by_kind: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.family == family:
            by_kind[item.kind].append(item)
    for kind, some in by_kind.items():
        random.Random(f"{seed}/{kind}").shuffle(some)
    drawn: list[Asked] = []
    while len(drawn) < n and any(by_kind.values()):
        for some in by_kind.values():
            while some and len(drawn) < n:
                item = some.pop()
                if not isinstance(tokens := tokenize(lm.tokenizer, item), str):
                    drawn.append(Asked(item, tokens))
                    break
    return drawn


@dataclass(frozen=True)
class Thinking:
    """One task: thoughts about some items."""

    items: tuple[Item, ...]
    max_new_tokens: int
    think: bool | None

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record an item."""
        form = CONTINUE if lm.tokenizer.chat_template is None else ASK
        made = generate(
            lm,
            [form.format(sentence=item.prompt.rsplit("\n", 1)[-1]) for item in self.items],
            max_new_tokens=self.max_new_tokens,
            think=self.think,
            on_tokens=on_tokens,
        )
        return [{"text": c.text, "tokens": len(c.tokens), "finish": c.finish} for c in made]


@dataclass(frozen=True)
class Readings:
    """What the model answers under each condition, and its activations there."""

    right: dict[str, Bool[np.ndarray, " item"]]
    activations: dict[str, Float[np.ndarray, "layer item d_model"]]


def readings(
    lm: LanguageModel,
    asked: Sequence[Asked],
    thoughts: Sequence[str],
    *,
    seed: int,
    on_tokens: Progress,
) -> Readings:
    """The answer and the last token's activations of every item, under every condition."""
    others = _another(len(asked), seed)
    contexts: dict[str, list[str | None]] = {
        "fast": [None] * len(asked),
        "slow": list(thoughts),
        "paraphrased": [PARAPHRASE] * len(asked),
        "shuffled": [thoughts[i] for i in others],
    }
    sites = [Site(layer, "resid_post") for layer in range(lm.n_layers)]
    right, activations = {}, {}
    for name in CONDITIONS:
        rows = [
            Row(ids, len(ids))
            for ids in (
                after(lm.tokenizer, context, a.tokens)
                for context, a in zip(contexts[name], asked, strict=True)
            )
        ]
        found = token_activations(lm, rows, sites)
        last = torch.from_numpy(found[-1]).to(lm.device, lm.dtype)
        with torch.no_grad():
            tops = [unembed(lm, some[:, None])[:, 0].argmax(-1).cpu() for some in last.split(64)]
        wanted = np.array([a.tokens.answer for a in asked])
        right[name], activations[name] = torch.cat(tops).numpy() == wanted, found
        on_tokens(sum(len(row.tokens) for row in rows))
    return Readings(right, activations)


def _another(n: int, seed: int) -> list[int]:
    """For each item the number of another: a random cycle through all."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    return [following[i] for i in range(n)]


def fast_and_slow(study: Study) -> dict[str, Any] | None:
    """The same items at once and after a thought: the six quantities, and CKA with its controls."""
    config = study.config
    if config.n_thoughts == 0:
        return None
    asked = {
        family: draw(study.lm, study.items, family, config.n_thoughts, config.seed) for family in FAMILIES
    }
    work: list[Work] = []
    for some in asked.values():
        for start in range(0, len(some), config.chunk):
            items = tuple(a.item for a in some[start : start + config.chunk])
            keys = [("thought", item.id) for item in items]
            work.append((keys, Thinking(items, config.max_new_tokens, config.think)))
    study.compute("thoughts", work)
    study.compute("fast and slow", [_compared(study, family, some) for family, some in asked.items()])
    return {family: _told(study, family, some) for family, some in asked.items()}


def _compared(study: Study, family: Family, asked: Sequence[Asked]) -> Work:
    thoughts = tuple(study.run.get("thought", a.item.id)["text"] for a in asked)
    return [("fast and slow", family)], Compared(tuple(asked), thoughts, study.config.seed)


@dataclass(frozen=True)
class Compared:
    """One task: what a thought changes, in the answers of one family and layer by layer."""

    asked: tuple[Asked, ...]
    thoughts: tuple[str, ...]
    seed: int

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record."""
        found = readings(lm, self.asked, self.thoughts, seed=self.seed, on_tokens=on_tokens)
        rates = [a.item.guess_rate or None for a in self.asked]
        told = adjustment(found.right["fast"], found.right["slow"], rates, seed=self.seed)
        return [
            {
                "quantities": {
                    name: value.as_dict() if hasattr(value, "as_dict") else value
                    for name, value in vars(told).items()
                },
                "accuracy": {name: float(right.mean()) for name, right in found.right.items()},
                "cka": self._cka(found),
            }
        ]

    def _cka(self, found: Readings) -> dict[str, Any] | None:
        """The curves and their controls; None of too few items."""
        if len(self.asked) < FEWEST:
            return None
        slow = fast_slow(
            found.activations["fast"],
            found.activations["slow"],
            paraphrased=found.activations["paraphrased"],
            shuffled=found.activations["shuffled"],
            seed=self.seed,
        )
        return {
            **{name: _curve(getattr(slow, name)) for name in ("slow", "paraphrased", "shuffled")},
            "mispaired": [asdict(band) for band in slow.mispaired],
            "beyond_paraphrase": [interval.as_dict() for interval in slow.beyond_paraphrase],
            "beyond_shuffling": [interval.as_dict() for interval in slow.beyond_shuffling],
        }


def _told(study: Study, family: Family, asked: Sequence[Asked]) -> dict[str, Any]:
    records = [study.run.get("thought", a.item.id) for a in asked]
    return {
        "n": len(asked),
        "thought_tokens": float(np.mean([r["tokens"] for r in records])),
        "truncated": float(np.mean([r["finish"] == "length" for r in records])),
        "example": {
            "prompt": asked[0].item.prompt,
            "answer": asked[0].item.answer,
            "thought": records[0]["text"],
        },
        **study.fields(("fast and slow", family)),
    }


def _curve(curve: CKACurve) -> list[dict[str, Any]]:
    return [interval.as_dict() for interval in curve.layers]
