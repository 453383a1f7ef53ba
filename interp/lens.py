"""Logit lens: read the next token off every layer, and see from where on it is the answer.

    logits_l = W_U · LN_final(resid_post_l),

by the model's own final norm and unembedding, with whatever cap or scale its family puts on its
logits: so the last layer's are the model's output. Of each layer is kept how many tokens it prefers to
the answer, the answer's log-probability, and the token it likes best; never the logits.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
Differs from the source: nothing. A layer's logits are a reading in the last layer's coordinates, not
what the layer "believes": a layer that writes the answer in other coordinates looks undecided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooks.edits import widened
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.positions import Positions
from hooks.rows import Row
from hooks.sites import Site
from hooks.unembed import unembed
from interp.token_activations import checked, last_token, taken

MAX_LOGITS = 2**25
"""Logits made at once: 128 MiB in float32."""


@dataclass(frozen=True, eq=False)
class LogitLens:
    """What each layer says comes next, as far as it concerns one answer of each row."""

    rank: Int[np.ndarray, "layer row"]
    """How many tokens the layer prefers to the answer; 0 where the answer is on top. Equal logits are
    ordered as ``argmax`` orders them, the lower id first."""

    logprob: Float[np.ndarray, "layer row"]
    """Of the answer, in nats."""

    top: Int[np.ndarray, "layer row"]
    """The token that the layer likes best."""

    @property
    def on_top(self) -> Bool[np.ndarray, "layer row"]:
        """Where the answer is the token that the layer likes best."""
        return np.asarray(self.rank == 0)

    @property
    def settled(self) -> Int[np.ndarray, " row"]:
        """The first layer from which the answer stays on top to the end; ``n_layers`` if it never does."""
        stays = np.logical_and.accumulate(self.on_top[::-1])
        return np.asarray(len(self.rank) - stays.sum(0))


@torch.no_grad()
def logit_lens(
    lm: LanguageModel,
    rows: Sequence[Row],
    answers: Sequence[int],
    *,
    read: Positions = last_token,
    max_rows: int | None = None,
) -> LogitLens:
    """Rank and log-probability of an answer at every layer: :func:`logit_lenses` of one answer a row."""
    return logit_lenses(lm, rows, [answers], read=read, max_rows=max_rows)[0]


@torch.no_grad()
def logit_lenses(
    lm: LanguageModel,
    rows: Sequence[Row],
    columns: Sequence[Sequence[int]],
    *,
    read: Positions = last_token,
    max_rows: int | None = None,
) -> list[LogitLens]:
    """Rank and log-probability of several answers at every layer, at one token of each row, in one pass.

    Works through the rows a batch at a time; what is kept does not depend on their length.

    Args:
        columns: Each with the token of each row that is looked for.
        read: Where to look: the one token of each row whose next token is read.

    Raises:
        InputError: if there is not one answer in the vocabulary for each row, ``read`` does not select
            exactly one token of each, or an injection is open.
    """
    for answers in columns:
        if len(checked(rows)) != len(answers):
            raise InputError(f"{len(rows)} rows and {len(answers)} answers; pass one token id for each row.")
        if outside := [a for a in answers if not 0 <= a < lm.d_vocab]:
            raise InputError(f"Answer {outside[0]} is no token: {lm.name} has ids 0..{lm.d_vocab - 1}.")
    sites = [Site(layer, "resid_post") for layer in range(lm.n_layers)]
    shape = lm.n_layers, len(rows)
    rank, logprob = np.empty((len(columns), *shape), np.int64), np.empty((len(columns), *shape))
    top = np.empty(shape, np.int64)
    ids = torch.tensor(columns, device=lm.device)
    for number, acts in taken(lm, rows, sites, read=read, max_rows=max_rows):
        wanted = ids[:, torch.from_numpy(number).to(ids.device)].T.repeat(lm.n_layers, 1)
        resid = torch.cat([acts[site].to(lm.device) for site in sites])
        found = [
            _place(unembed(lm, some[:, None])[:, 0], asked)
            for some, asked in zip(
                *(t.split(max(1, MAX_LOGITS // lm.d_vocab)) for t in (resid, wanted)), strict=True
            )
        ]
        ranks, logprobs, tops = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
        rank[..., number] = ranks.T.reshape(len(columns), lm.n_layers, -1)
        logprob[..., number] = logprobs.T.reshape(len(columns), lm.n_layers, -1)
        top[:, number] = tops.reshape(lm.n_layers, -1)
    return [LogitLens(*parts, top) for parts in zip(rank, logprob, strict=True)]


def _place(
    logits: Float[Tensor, "n d_vocab"], ids: Int[Tensor, "n answers"]
) -> tuple[Int[Tensor, "n answers"], Float[Tensor, "n answers"], Int[Tensor, " n"]]:
    """Rank and log-probability of each row's ids, and the id on top."""
    wide, ids = widened(logits), ids.to(logits.device)
    own = wide.gather(-1, ids)
    every = torch.arange(wide.shape[-1], device=wide.device)
    ranks = [
        ((wide > mine[:, None]) | ((wide == mine[:, None]) & (every < at[:, None]))).sum(-1)
        for mine, at in zip(own.T, ids.T, strict=True)
    ]
    return torch.stack(ranks, -1), own - wide.logsumexp(-1, keepdim=True), wide.argmax(-1)
