"""What a model holds where its response begins, asked for steps or for the answer alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.tasks import Problem
from hooks import LanguageModel
from hooks.chat import prompt_row
from hooks.sites import Site
from interp.token_activations import token_activations


def at_first_step(
    lm: LanguageModel, site: Site, problems: Sequence[Problem], suffix: str = "", *, think: bool | None
) -> Float[Tensor, "problem d"]:
    """The activations of one site at the last token of each prompt, which produces the first of the response.

    Args:
        suffix: Added to each problem after a blank line; nothing is where it is empty.
    """
    rows = [prompt_row(lm.tokenizer, problem.asked(suffix), think=think) for problem in problems]
    return torch.from_numpy(token_activations(lm, rows, [site])[0]).to(lm.device)
