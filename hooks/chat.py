"""From a prompt to token ids: chat templates, thinking on or off, and where a turn ends."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hooks.errors import InputError
from hooks.rows import Row

Message = Mapping[str, str]
"""``{"role": "user" | "assistant" | "system", "content": text}``."""

Prompt = str | Sequence[Message]
"""A text, which becomes one user turn where the model has a chat template; or the turns."""


def render(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    *,
    system: str | None = None,
    think: bool | None = None,
    template: bool = True,
) -> str:
    """The text that the model reads, up to where its response begins.

    Args:
        system: A system turn to put first.
        think: Turn thinking on or off; None leaves the template's default.
        template: Pass False to give the model the text as it stands.

    Raises:
        InputError: if ``think`` or ``system`` is asked of a model whose template has no such thing.
    """
    if tokenizer.chat_template is None or not template:
        if not isinstance(prompt, str):
            raise InputError("Messages need a chat template; this model has none. Pass a text.")
        if system is not None or think is not None:
            raise InputError(
                "`system` and `think` need a chat template, and this prompt is given without one."
            )
        return prompt
    if think is not None and "enable_thinking" not in str(tokenizer.chat_template):
        raise InputError(
            f"think={think} was asked, but this model's chat template has no `enable_thinking`. "
            "Pass think=None."
        )
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(t) for t in prompt]
    if system is not None:
        turns = [{"role": "system", "content": system}, *turns]
    options: dict[str, Any] = {} if think is None else {"enable_thinking": think}
    try:
        text = str(
            tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **options)
        )
    except TemplateError as error:
        raise InputError(f"This model's chat template refuses these turns: {error}") from None
    if system is not None and system.strip() not in text:
        raise InputError(
            "This model's chat template has no system turn and leaves it out. Put the text into the prompt."
        )
    return text


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, template: bool = True) -> tuple[int, ...]:
    """Token ids of a rendered text. Special tokens are added only where no template wrote them."""
    special = tokenizer.chat_template is None or not template
    ids = tuple(int(i) for i in tokenizer(text, add_special_tokens=special).input_ids)
    if not ids and tokenizer.bos_token_id is not None:
        ids = (int(tokenizer.bos_token_id),)
    if not ids:
        raise InputError("The prompt is empty and this model has no begin-of-text token to start.")
    return ids


def prompt_row(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    *,
    system: str | None = None,
    think: bool | None = None,
    template: bool = True,
) -> Row:
    """The row of a prompt, ready to be continued."""
    text = render(tokenizer, prompt, system=system, think=think, template=template)
    ids = encode(tokenizer, text, template=template)
    return Row(ids, len(ids))


def response_row(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    response: str,
    *,
    think: bool | None = None,
    template: bool = True,
) -> Row:
    """The row of a prompt and a given response to it.

    Both are tokenized apart, so the prompt's tokens are the same whatever the response.
    """
    start = prompt_row(tokenizer, prompt, think=think, template=template)
    rest = tuple(int(i) for i in tokenizer(response, add_special_tokens=False).input_ids)
    if not rest:
        raise InputError(f"An empty response to {prompt!r}: there is nothing to read.")
    return Row(start.tokens + rest, start.prompt_length)


def stop_ids(tokenizer: PreTrainedTokenizerBase, configured: int | Sequence[int] | None) -> set[int]:
    """Ids that end a response: the configured ones, the tokenizer's, and the template's turn end.

    The turn end is read off the template: the first special token that follows an assistant turn.
    """
    ids = {configured} if isinstance(configured, int) else set(configured or ())
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    if tokenizer.chat_template is not None:
        marker = "unlatch-marks-the-end"
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": marker}]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
        after = tokenizer(text.rpartition(marker)[2], add_special_tokens=False).input_ids
        special = special_ids(tokenizer)
        ids.update([int(i) for i in after if int(i) in special][:1])
    return ids


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that stand for no text: begin, end, padding, turns."""
    added = {int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | {int(i) for i in tokenizer.all_special_ids}
