"""How thinking is turned on and off: by the chat template, by what is asked, or by an opened thought."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from analyses.configs import ThinkingConfig
from hooks.chat import prompt_row
from hooks.errors import InputError
from hooks.positions import THINK_CLOSE, THINK_OPEN
from hooks.rows import Row

Mode = Literal["off", "on"]
MODES: tuple[Mode, ...] = ("off", "on")


@dataclass(frozen=True)
class Switch:
    """One of the three ways to turn thinking on.

    template   ``enable_thinking`` of the chat template, off and on
    prompt     the problem with ``direct_prompt`` for off, with ``cot_prompt`` for on
    tags       the response as it comes for off, begun with ``<think>`` for on
    """

    way: Literal["template", "prompt", "tags"]
    direct_prompt: str
    cot_prompt: str

    @staticmethod
    def of(config: ThinkingConfig) -> "Switch":
        return Switch(config.switch, config.direct_prompt, config.cot_prompt)

    def require(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        """Whether a model has it.

        Raises:
            InputError: if the chat template is to turn thinking on and cannot.
        """
        if self.way == "template" and "enable_thinking" not in str(tokenizer.chat_template):
            raise InputError(
                f"Thinking was to be turned on by the chat template, but that of {name} has no "
                "`enable_thinking`. Pass --switch prompt, which asks for steps or for the answer alone, or "
                "--switch tags, which begins the response with <think>."
            )

    def prompt(self, problem: str, mode: Mode) -> str:
        """What the user says."""
        if self.way != "prompt":
            return problem
        return f"{problem}\n\n{self.cot_prompt if mode == 'on' else self.direct_prompt}"

    def think(self, mode: Mode) -> bool | None:
        """What the chat template is told."""
        return mode == "on" if self.way == "template" else None

    def begin(self, mode: Mode) -> str:
        """What the response begins with."""
        return f"{THINK_OPEN}\n" if self.way == "tags" and mode == "on" else ""

    def row(self, tokenizer: PreTrainedTokenizerBase, problem: str, mode: Mode) -> Row:
        """The row of a problem, up to where the model goes on."""
        row = prompt_row(tokenizer, self.prompt(problem, mode), think=self.think(mode))
        begun = tokenizer(self.begin(mode), add_special_tokens=False).input_ids
        tokens = (*row.tokens, *(int(i) for i in begun))
        return Row(tokens, len(tokens))

    @property
    def tags(self) -> bool:
        """Whether a thought stands between tags."""
        return self.way != "prompt"


def end_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends a thought; None where ``</think>`` is several."""
    ids = tokenizer(THINK_CLOSE, add_special_tokens=False).input_ids
    return int(ids[0]) if len(ids) == 1 else None


def parts(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> tuple[str, str | None]:
    """The thought and the reply: what stands before the last ``</think>``, and what after it.

    A response without one is all thought, and its reply is None: it was cut, or has no tags.
    """
    end, ids = end_token(tokenizer), list(tokens)
    if end in ids:
        place = len(ids) - 1 - ids[::-1].index(end)
        thought, reply = (
            str(tokenizer.decode(some, skip_special_tokens=True)) for some in (ids[:place], ids[place + 1 :])
        )
        return _untagged(thought), reply.strip()
    return parts_of(str(tokenizer.decode(ids, skip_special_tokens=True)))


def parts_of(text: str) -> tuple[str, str | None]:
    """:func:`parts` of a text, whose tags are words."""
    thought, closed, reply = text.rpartition(THINK_CLOSE)
    return (_untagged(thought), reply.strip()) if closed else (_untagged(text), None)


def _untagged(thought: str) -> str:
    return thought.replace(THINK_OPEN, "").replace(THINK_CLOSE, "").strip()
