"""Decode many prompts together, edited or not, and say for each what came out and why it ended."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import torch

from hooks.chat import Prompt, prompt_row
from hooks.decode import MAX_ROWS, Decoder, Finish
from hooks.edits import Edit
from hooks.errors import InputError
from hooks.inject import Edits, inject
from hooks.language_model import LanguageModel
from hooks.receipts import Receipt
from hooks.rows import Row
from hooks.sampling import Sampling


@dataclass(frozen=True)
class Completion:
    """What one prompt was continued with."""

    text: str
    """The response, without special tokens."""

    tokens: tuple[int, ...]
    """Generated ids, the one that ended the turn included."""

    prompt_tokens: int
    finish: Finish
    """``stop``: the model ended its turn. ``length``: it was cut at ``max_new_tokens``. ``nan``: its
    logits were not numbers, and ``tokens`` are those before."""

    logprobs: tuple[float, ...] | None
    """Log-probability in nats of each generated token under the edited model, before temperature
    and top-p; None unless asked for."""

    margins: tuple[float, ...] | None
    """Probability of the likeliest token less that of the second, where each token was chosen; None
    unless ``logprobs`` were asked for."""

    seconds: float
    """Its share of the time that the batches took."""


@dataclass(frozen=True)
class Generation(Sequence[Completion]):
    """Completions in the order of the prompts, with the receipt of what was edited."""

    completions: tuple[Completion, ...]
    receipt: Receipt
    seconds: float
    halvings: int
    """How often memory ran out and the batch was halved."""

    @overload
    def __getitem__(self, index: int) -> Completion: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Completion]: ...
    def __getitem__(self, index: int | slice) -> Completion | Sequence[Completion]:
        return self.completions[index]

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]


@dataclass(frozen=True)
class SoFar:
    """A generation that is still being made."""

    decoder: Decoder
    done: Mapping[int, Completion]
    n_rows: int

    def tokens(self) -> list[tuple[int, ...]]:
        """What each row has made; nothing where it has not begun, or had to begin again."""
        running = self.decoder.so_far()
        made = {number: completion.tokens for number, completion in self.done.items()}
        return [made.get(n, running.get(n, ())) for n in range(self.n_rows)]


@torch.no_grad()
def generate(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    edits: Edits = (),
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    system: str | None = None,
    think: bool | None = None,
    template: bool = True,
    streams: Sequence[int] | None = None,
    logprobs: bool = False,
    max_rows: int = MAX_ROWS,
    on_tokens: Callable[[int], None] | None = None,
) -> Generation:
    """Continue every prompt until the model ends its turn.

    Greedy by default, and then equal token for token to ``model.generate(do_sample=False)``.
    Prompts are sorted by length, equal ones share their prefill, batches are sized by the free memory,
    finished rows leave and waiting ones take their place.

    Args:
        edits: For every row, or one list of edits for each prompt.
        template: Pass False to continue the texts as they stand, without the chat template.
        streams: The random stream that each prompt samples from; None takes its number. Prompts of one
            stream draw the same numbers, so that what differs between them is not chance.
        max_rows: Most rows of one batch.
        on_tokens: Called with the number of tokens that each step added, for progress.

    Raises:
        InputError: for no prompts, or a budget below one token.
        VectorError, SiteNotFoundError: for an edit that does not fit, before anything runs.
        EmptySelectionError: if an edit matched no token.

    Example:
        >>> brief = generate(lm, ["How many legs do 3 cats have?"], edits=[vector.at(15, dose=0.3)])
        >>> brief.receipt.check(generated)
    """
    check_prompts(prompts)
    rows = [prompt_row(lm.tokenizer, p, system=system, think=think, template=template) for p in prompts]
    return generate_rows(
        lm,
        rows,
        edits=edits,
        streams=streams,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature, top_p, seed),
        logprobs=logprobs,
        max_rows=max_rows,
        on_tokens=on_tokens,
    )


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Raise :class:`InputError` unless this is a list of prompts."""
    if not prompts or isinstance(prompts, str):
        raise InputError(f"Pass a list of one or more prompts; got {prompts!r}.")


@torch.no_grad()
def generate_rows(
    lm: LanguageModel,
    rows: Sequence[Row],
    *,
    edits: Edits = (),
    streams: Sequence[int] | None = None,
    max_new_tokens: int = 256,
    sampling: Sampling | None = None,
    logprobs: bool = False,
    max_rows: int = MAX_ROWS,
    on_tokens: Callable[[int], None] | None = None,
) -> Generation:
    """:func:`generate` for prompts that are token ids already.

    Args:
        streams: The random stream that each row samples from; None takes the row's own number.
    """
    steps = decoding(
        lm,
        rows,
        edits=edits,
        streams=streams,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        logprobs=logprobs,
        max_rows=max_rows,
        on_tokens=on_tokens,
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            generation: Generation = end.value
            return generation


@torch.no_grad()
def decoding(
    lm: LanguageModel,
    rows: Sequence[Row],
    *,
    edits: Edits,
    streams: Sequence[int] | None,
    max_new_tokens: int,
    sampling: Sampling | None,
    logprobs: bool,
    max_rows: int,
    on_tokens: Callable[[int], None] | None,
) -> Generator[SoFar, None, Generation]:
    """:func:`generate_rows`, a step at a time: stops after each, and returns the generation at the end.

    The edits stay open from the first step to the last, or until it is closed.
    """
    sampling = sampling or Sampling()
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens}: ask for one token or more.")
    per_row = [e for e in edits if not isinstance(e, Edit)]
    if per_row and len(per_row) != len(rows):
        raise InputError(
            f"{len(per_row)} lists of edits for {len(rows)} prompts; pass one list for each prompt, "
            "or a single list of edits for all."
        )
    start = time.perf_counter()
    done: dict[int, Completion] = {}
    with inject(lm, edits) as injection:
        decoder = Decoder(
            lm,
            rows,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            streams=streams,
            max_rows=max_rows,
            logprobs=logprobs,
            on_tokens=on_tokens,
        )
        for ended in decoder.steps():
            for row in ended:
                text = str(lm.tokenizer.decode(list(row.tokens), skip_special_tokens=True))
                done[row.number] = Completion(
                    text,
                    row.tokens,
                    rows[row.number].prompt_length,
                    row.finish,
                    row.logprobs,
                    row.margins,
                    row.seconds,
                )
            yield SoFar(decoder, done, len(rows))
    completions = tuple(done[number] for number in range(len(rows)))
    return Generation(completions, injection.receipt(), time.perf_counter() - start, decoder.halvings)
