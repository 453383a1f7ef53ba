"""Our side: logits at every position of every text, and greedy continuations, unsteered and steered."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from hooks import LanguageModel
from hooks.edits import Edit
from hooks.generate import generate_rows
from hooks.inject import inject
from hooks.rows import Row


@torch.no_grad()
def logits(lm: LanguageModel, rows: Sequence[Row], edits: Sequence[Edit]) -> Float[np.ndarray, "pos d_vocab"]:
    """Of every position of every row, one row after the other."""
    found = []
    for row in rows:
        with inject(lm, edits):
            found.append(
                lm.model(torch.tensor([row.tokens], device=lm.device)).logits[0].float().cpu().numpy()
            )
    return np.concatenate(found)


def continuations(
    lm: LanguageModel, rows: Sequence[Row], edits: Sequence[Edit], new_tokens: int
) -> list[tuple[int, ...]]:
    """Greedy, up to and with the token that ends a turn."""
    return [one.tokens for one in generate_rows(lm, rows, edits=edits, max_new_tokens=new_tokens)]
