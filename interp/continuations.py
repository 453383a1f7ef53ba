"""Log-probability of what follows a prompt, token by token: log p(y_t | prompt, y_<t), in nats."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float

from hooks.edits import widened
from hooks.errors import InputError
from hooks.inject import open_injections
from hooks.language_model import LanguageModel
from hooks.rows import MAX_ROWS, Row, batches_of
from interp.lens import MAX_LOGITS
from interp.token_activations import checked


@torch.no_grad()
def continuation_logprobs(
    lm: LanguageModel, rows: Sequence[Row], *, on_tokens: Callable[[int], None] | None = None
) -> list[Float[np.ndarray, " token"]]:
    """Of each row, the log-probability of every token after its prompt.

    Logits are made of those tokens alone, a batch at a time. Every open injection is told which row of
    ``rows`` is where, and where its prompt ends.

    Args:
        on_tokens: Called with the number of tokens of each batch, for progress.

    Raises:
        InputError: if there are no rows, or one is all prompt.
    """
    lengths = [len(row.tokens) - row.prompt_length for row in checked(rows)]
    if 0 in lengths:
        raise InputError(
            f"Row {lengths.index(0)} is all prompt: nothing follows it to have a probability. Pass a row of "
            "a prompt and a continuation, such as `response_row` makes."
        )
    found: dict[int, np.ndarray] = {}
    batches = batches_of(
        rows,
        pad_id=lm.pad_id,
        device=lm.device,
        devices=lm.devices,
        row_bytes=lm.token_bytes(),
        max_rows=max(1, min(MAX_ROWS, MAX_LOGITS // (lm.d_vocab * (max(lengths) + 1)))),
    )
    for batch in batches:
        numbers = batch.row.tolist()
        for injection in open_injections(lm):
            injection.tracker.register(numbers, [rows[number] for number in numbers])
            injection.tracker.resume(batch.row)
        kept = max(lengths[number] for number in numbers) + 1
        logits = lm.model(**batch.inputs, use_cache=False, logits_to_keep=kept).logits
        wide, tokens = widened(logits[:, :-1]), batch.input_ids[:, 1 - kept :, None].to(logits.device)
        nats = (wide.gather(-1, tokens)[..., 0] - wide.logsumexp(-1)).double().cpu().numpy()
        found |= {number: nats[place, -lengths[number] :] for place, number in enumerate(numbers)}
        if on_tokens is not None:
            on_tokens(int(batch.attention_mask.sum()))
    return [found[number] for number in range(len(rows))]
