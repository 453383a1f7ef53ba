"""From items to prompt pairs of one tokenizer, or the reason why an item makes none.

A pair is two prompts of as many tokens, equal in all but the subject's, whose answers are one token
each: the tokens of prompt and answer together are those of the prompt and one more.
"""

import random
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from analyses.items.item import Item
from hooks.chat import encode
from hooks.rows import Row
from interp.prompt_pairs import PromptPair

Obstacle = Literal[
    "multi-token answer",
    "answer does not continue the prompt",
    "subject not found in the tokens",
    "no partner of equal length",
]
"""Why an item makes no pair under a tokenizer."""


@dataclass(frozen=True)
class ItemPair:
    """An item, a partner, and both as tokens."""

    item: Item
    partner: Item
    pair: PromptPair


@dataclass(frozen=True)
class TokenizedItem:
    """One item as tokens."""

    prompt: tuple[int, ...]
    answer: int
    subject: tuple[int, int]
    """First position of the subject, and the one after its last."""

    def fits(self, other: "TokenizedItem") -> bool:
        """Whether the two differ in their subjects alone, position by position, and in their answers."""
        start, stop = self.subject
        return (
            self.subject == other.subject
            and self.prompt[:start] == other.prompt[:start]
            and self.prompt[stop:] == other.prompt[stop:]
            and self.answer != other.answer
        )


def tokenize(tokenizer: PreTrainedTokenizerBase, item: Item) -> TokenizedItem | Obstacle:
    """The item's tokens, with the model's own special tokens before them and no chat template.

    The answer follows after a space. Where a tokenizer makes the space a token of its own, as many
    do before a digit, it is the last token of the prompt.
    """
    whole = _whole(tokenizer, item)
    prompt, answer = whole[:-1], whole[-1]
    starts = [encode(tokenizer, item.prompt + space, template=False) for space in ("", " ")]
    if prompt not in starts:
        continues = any(whole[: len(start)] == start for start in starts)
        return "multi-token answer" if continues else "answer does not continue the prompt"
    if _text(tokenizer, (answer,)) != item.answer:
        return "answer does not continue the prompt"
    subject = _span(tokenizer, item, prompt)
    return "subject not found in the tokens" if subject is None else TokenizedItem(prompt, answer, subject)


def _whole(tokenizer: PreTrainedTokenizerBase, item: Item) -> tuple[int, ...]:
    return encode(tokenizer, f"{item.prompt} {item.answer}", template=False)


def _span(tokenizer: PreTrainedTokenizerBase, item: Item, prompt: tuple[int, ...]) -> tuple[int, int] | None:
    """Where the subject's tokens are: those after the text before it, up to the text with it."""
    until = encode(tokenizer, item.before + item.subject, template=False)
    if prompt[: len(until)] != until:
        return None
    for before in (item.before, item.before.rstrip(" ")):
        start = encode(tokenizer, before, template=False) if before else _specials(tokenizer)
        inside = until[len(start) :]
        if until[: len(start)] == start and _text(tokenizer, inside) == item.subject:
            return len(start), len(until)
    return None


def _text(tokenizer: PreTrainedTokenizerBase, tokens: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(tokens))).strip()


def _specials(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer puts before any text."""
    return tuple(int(i) for i in tokenizer("", add_special_tokens=True).input_ids)


def after(tokenizer: PreTrainedTokenizerBase, context: str | None, item: TokenizedItem) -> tuple[int, ...]:
    """The item's prompt, or a text, an empty line, and the item's prompt, whose tokens stay as they are."""
    if not context:
        return item.prompt
    specials = _specials(tokenizer)
    body = item.prompt[len(specials) :] if item.prompt[: len(specials)] == specials else item.prompt
    return encode(tokenizer, context.strip() + "\n\n", template=False) + body


def pairs_of(
    tokenizer: PreTrainedTokenizerBase, item: Item, *, seed: int = 0, most: int = 1
) -> list[ItemPair] | Obstacle:
    """The item with up to ``most`` partners, drawn by the seed from those that fit.

    A partner fits if its subject stands at the same positions and all other tokens are the same.
    """
    clean = tokenize(tokenizer, item)
    if isinstance(clean, str):
        return clean
    partners = list(item.partners())
    random.Random(f"{seed}/{item.id}").shuffle(partners)
    found: list[ItemPair] = []
    for partner in partners:
        if len(_whole(tokenizer, partner)) != len(clean.prompt) + 1:
            continue  # the cheap test first: most partners fail it
        corrupted = tokenize(tokenizer, partner)
        if isinstance(corrupted, str) or not clean.fits(corrupted):
            continue
        rows = [Row(t.prompt, len(t.prompt)) for t in (clean, corrupted)]
        pair = PromptPair(rows[0], rows[1], clean.answer, corrupted.answer, clean.subject)
        found.append(ItemPair(item, partner, pair))
        if len(found) == most:
            break
    return found or "no partner of equal length"
