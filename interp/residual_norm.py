"""The unit of a dose: the median norm of the residual stream at a site, over the tokens of responses.

    r_l = median over response tokens t of |h_l(t)|

in float32, with the median over all tokens of all responses. The stream is that which the site writes to,
just after it has. :mod:`interp.contrast` measures it on the responses of its pairs; where there are none,
as for a vector that another program made, :func:`own_residual_norms` measures it on what the model itself
answers to a few plain questions.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooks.capture import stream
from hooks.chat import prompt_row
from hooks.errors import VectorError
from hooks.generate import generate_rows
from hooks.language_model import LanguageModel
from hooks.positions import response
from hooks.rows import Row
from hooks.sites import Site
from hooks.tracker import frame_of

QUESTIONS = (
    "How many legs do three cats and two birds have together?",
    "What is the capital of France, and what is it known for?",
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a lighthouse keeper.",
    "A train leaves at 9:40 and arrives at 12:15. How long does the journey take?",
    "List five things to pack for a week in the mountains.",
    "What is the difference between a virus and a bacterium?",
    "Translate into Spanish: The library opens at eight in the morning.",
)
"""What a model is asked where its residual norms are wanted and nothing else is at hand."""

TOKENS = 48
"""Most tokens of each answer."""


def stream_site(lm: LanguageModel, site: Site) -> Site:
    """The residual stream just after ``site`` has written to it: what its dose is measured by."""
    if site.kind in ("resid_pre", "resid_post"):
        return site
    if site.kind == "mlp_out" or lm.anatomy.parallel:
        return Site(site.layer, "resid_post")
    return Site(site.layer, "resid_mid")


def token_norms(
    activations: Float[Tensor, "batch pos d_model"], cells: Bool[Tensor, "batch pos"]
) -> Float[np.ndarray, " tokens"]:
    """The norms at the cells that are true."""
    norms: np.ndarray = activations[cells.to(activations.device)].float().norm(dim=-1).cpu().numpy()
    return norms


def median_norm(norms: Sequence[Float[np.ndarray, "..."]]) -> float:
    """The median over all tokens of all batches."""
    return float(np.median(np.concatenate(norms)))


@torch.no_grad()
def residual_norms(lm: LanguageModel, rows: Sequence[Row], sites: Sequence[Site]) -> dict[Site, float]:
    """The median norm at each site over the response tokens of ``rows``.

    Raises:
        VectorError: if no row has a response.
        SiteNotFoundError: if a site is not in this model.
    """
    streams = {site: stream_site(lm, site) for site in sites}
    if not any(len(row.tokens) > row.prompt_length for row in rows):
        raise VectorError(f"{lm.name} answered nothing, so its residual norms cannot be measured.")
    norms: dict[Site, list[np.ndarray]] = {site: [] for site in set(streams.values())}
    for batch, acts in stream(lm, rows, list(norms)):
        own = response.select(frame_of(lm, batch.whole))[:, batch.columns]
        for site, values in norms.items():
            values.append(token_norms(acts[site], own))
    return {site: median_norm(norms[at]) for site, at in streams.items()}


def own_residual_norms(lm: LanguageModel, sites: Sequence[Site]) -> dict[Site, float]:
    """The same over the model's own greedy answers to ``QUESTIONS``, of at most ``TOKENS`` tokens."""
    asked = [prompt_row(lm.tokenizer, question) for question in QUESTIONS]
    answers = generate_rows(lm, asked, max_new_tokens=TOKENS)
    rows = [
        replace(row, tokens=(*row.tokens, *answer.tokens)) for row, answer in zip(asked, answers, strict=True)
    ]
    return residual_norms(lm, rows, sites)
