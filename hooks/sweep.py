"""Many plans over the same prompts, as rows of shared batches: layers x doses x vectors x prompts at once.

A plan is a list of edits. Every (plan, prompt) is one row, carrying its own edits; rows with the same
prompt, edited alike up to its last token, share one prefill; rows that end make room for rows that
wait. A row gets what it would get alone, but for rounding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from hooks.chat import Prompt, prompt_row
from hooks.decode import MAX_ROWS
from hooks.edits import Edit
from hooks.errors import InputError
from hooks.generate import Generation, check_prompts, generate_rows
from hooks.language_model import LanguageModel
from hooks.rows import Row
from hooks.sampling import Sampling

Plans = Mapping[str, Sequence[Edit]]
"""Edits by the name of the plan; no edits is the plain model."""


class Sweep(Mapping[str, Generation]):
    """What came of each plan: its completions in the order of the prompts, and its own receipt."""

    def __init__(self, plans: Mapping[str, Generation], seconds: float, halvings: int) -> None:
        self._plans = dict(plans)
        self.seconds = seconds
        """Of all plans together, which ran together."""
        self.halvings = halvings

    def __getitem__(self, plan: str) -> Generation:
        return self._plans[plan]

    def __iter__(self) -> Iterator[str]:
        return iter(self._plans)

    def __len__(self) -> int:
        return len(self._plans)

    def __repr__(self) -> str:
        tokens = sum(len(c.tokens) for made in self.values() for c in made)
        return f"Sweep of {len(self)} plans: {tokens} tokens in {self.seconds:.1f} s"


@torch.no_grad()
def sweep(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    plans: Plans,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    system: str | None = None,
    think: bool | None = None,
    template: bool = True,
    logprobs: bool = False,
    max_rows: int = MAX_ROWS,
    on_tokens: Callable[[int], None] | None = None,
) -> Sweep:
    """Continue every prompt under every plan. Arguments are those of :func:`hooks.generate`.

    Sampling draws the same numbers for a prompt under every plan, so that plans differ by their edits
    and not by their luck.

    Raises:
        InputError: for no prompts, no plans, or a budget below one token.
        VectorError, SiteNotFoundError: for an edit that does not fit, before anything runs.
        EmptySelectionError: if a plan's edit matched no token.

    Example:
        >>> plans = {f"{i} x {d}": [vector.at(i, dose=d)] for i in vector.layers for d in (0.1, 0.3)}
        >>> made = sweep(lm, prompts, {"plain": [], **plans})
        >>> made["12 x 0.3"].texts
    """
    check_prompts(prompts)
    rows = [prompt_row(lm.tokenizer, p, system=system, think=think, template=template) for p in prompts]
    return sweep_rows(
        lm,
        rows,
        plans,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature, top_p, seed),
        logprobs=logprobs,
        max_rows=max_rows,
        on_tokens=on_tokens,
    )


@torch.no_grad()
def sweep_rows(
    lm: LanguageModel,
    rows: Sequence[Row],
    plans: Plans,
    *,
    max_new_tokens: int = 256,
    sampling: Sampling | None = None,
    logprobs: bool = False,
    max_rows: int = MAX_ROWS,
    on_tokens: Callable[[int], None] | None = None,
) -> Sweep:
    """:func:`sweep` for prompts that are token ids already."""
    if not plans:
        raise InputError("sweep was given no plan; pass at least one, e.g. {'plain': []}.")
    for name, edits in plans.items():
        for edit in edits:
            if edit.positions.by_row:
                raise InputError(
                    f"Plan {name!r} edits {edit.positions}, which counts rows, and the rows of a sweep are "
                    "those of all plans together. Use generate, one plan at a time."
                )
    n = len(rows)
    made = generate_rows(
        lm,
        [row for _ in plans for row in rows],
        edits=[list(edits) for edits in plans.values() for _ in rows],
        streams=[number for _ in plans for number in range(n)],
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        logprobs=logprobs,
        max_rows=max_rows,
        on_tokens=on_tokens,
    )
    found = {}
    for place, name in enumerate(plans):
        mine = range(place * n, (place + 1) * n)
        found[name] = Generation(
            tuple(made.completions[mine.start : mine.stop]),
            made.receipt.of_rows(mine),
            made.seconds,
            made.halvings,
        )
    return Sweep(found, made.seconds, made.halvings)
