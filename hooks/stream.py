"""Generate and watch: the same tokens as :func:`hooks.generate`, yielded step by step."""

from collections.abc import Iterator, Sequence
from types import TracebackType

from hooks.chat import Prompt, prompt_row
from hooks.decode import MAX_ROWS
from hooks.errors import InputError
from hooks.generate import Generation, check_prompts, decoding
from hooks.inject import Edits
from hooks.language_model import LanguageModel
from hooks.rows import Row
from hooks.sampling import Sampling

Made = list[tuple[int, ...]]
"""The tokens that each row has made so far, in the order of the prompts."""


class Stream(Iterator[Made]):
    """An iterator over the steps of a generation; :attr:`generation` is there once it has ended.

    From the first step to the last the edits are open on the model, so nothing else may run on it.
    :meth:`close` ends it early and takes them off; leaving the ``with`` block closes it.
    """

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[Row],
        *,
        edits: Edits = (),
        streams: Sequence[int] | None = None,
        max_new_tokens: int = 256,
        sampling: Sampling | None = None,
        logprobs: bool = False,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._generation: Generation | None = None
        self._steps = decoding(
            lm,
            rows,
            edits=edits,
            streams=streams,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            logprobs=logprobs,
            max_rows=max_rows,
            on_tokens=None,
        )

    def __next__(self) -> Made:
        try:
            return next(self._steps).tokens()
        except StopIteration as end:
            self._generation = self._generation or end.value
            raise

    def close(self) -> None:
        """Stop here: no hook is left on the model, and there will be no generation."""
        self._steps.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def generation(self) -> Generation:
        """What :func:`hooks.generate` would have returned.

        Raises:
            InputError: before the last step, or if the stream was closed.
        """
        if self._generation is None:
            raise InputError("This stream has not come to its end; take all of its steps first.")
        return self._generation


def stream(
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
) -> Stream:
    """:func:`hooks.generate`, with the tokens of every row after each step; the arguments are its.

    What fits neither prompts nor sampling is refused here, and an edit that does not fit at the first step,
    with the errors of :func:`hooks.generate`. When memory runs out, rows begin again: what they have made
    may get shorter.

    Example:
        >>> with stream(lm, [prompt, prompt], edits=[[], [edit]]) as steps:
        ...     for plain, steered in steps:
        ...         show(plain, steered)
        >>> steps.generation.receipt.check(generated, rows=[1])
    """
    check_prompts(prompts)
    rows = [prompt_row(lm.tokenizer, p, system=system, think=think, template=template) for p in prompts]
    return Stream(
        lm,
        rows,
        edits=edits,
        streams=streams,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature, top_p, seed),
        logprobs=logprobs,
        max_rows=max_rows,
    )
