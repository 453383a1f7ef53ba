"""One thread for all that torch computes, so that its own threads stay quick.

OpenMP gives each thread that computes a team of its own. Once the teams of a process are more threads than
cores, the idle ones no longer spin but sleep, and every product waits for them to wake: with SmolLM2-135M on
two cores 64 tokens took 4.1 s after a second thread had computed anything, and 2.5 s before. A web server
answers each request, and each step of one, on whatever thread is free.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar, cast

Given = ParamSpec("Given")
Made = TypeVar("Made")

_END = object()


class ModelThread:
    """The thread; it computes one thing after another, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    def call(self, function: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs) -> Made:
        """What the function returns, or raises, there."""
        return self._thread.submit(function, *args, **kwargs).result()

    def iterate(self, begin: Callable[[], Iterator[Made]]) -> Iterator[Made]:
        """The items of an iterator that is begun, gone on with and closed there."""
        there = self.call(begin)
        try:
            while (item := self.call(next, there, _END)) is not _END:
                yield cast(Made, item)
        finally:
            if (close := getattr(there, "close", None)) is not None:
                self.call(close)
