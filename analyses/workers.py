"""Who does the work of a run: the model in this process, or actors of a Ray cluster that have loaded it.

A task is a plain value that computes the records of one chunk from a model. Tasks are independent and
are cut before any of them runs, so who does them, and in which order they end, changes no record but
for the rounding of another machine's arithmetic.
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from hooks import LanguageModel, load
from hooks.errors import InputError, RunError

Records = list[dict[str, Any]]
Progress = Callable[[int], None]
"""Told of tokens as they are made."""

SECONDS_TO_ANSWER = 10
"""A cluster whose address does not answer within this is not there."""


@runtime_checkable
class Task(Protocol):
    """One chunk of a run's work."""

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> Records: ...


@runtime_checkable
class Workers(Protocol):
    """Do tasks, in whatever order they end."""

    def map(self, tasks: Sequence[Task], on_tokens: Progress) -> Iterator[tuple[int, Records]]:
        """Each task's place in ``tasks``, and its records."""
        ...


@dataclass(frozen=True)
class LocalWorker:
    """One worker: the model in this process."""

    lm: LanguageModel

    def map(self, tasks: Sequence[Task], on_tokens: Progress) -> Iterator[tuple[int, Records]]:
        for place, task in enumerate(tasks):
            yield place, task.compute(self.lm, on_tokens)


class RayWorkers:
    """An actor for each GPU of a Ray cluster, or for each CPU where it has none.

    An actor loads the model once, by the same name, so a path must be one that every node can read. Work
    begins when the first of them has; the others join as they are ready. A task whose actor is lost, with
    its process or its node, is given to another.
    """

    def __init__(self, address: str, lm: LanguageModel) -> None:
        """Connect, and wait until one actor has loaded the model.

        Raises:
            InputError: without Ray, or when nothing answers at ``address``.
            RunError: when no actor could load the model, or one loaded another.
        """
        self._ray = ray = _connected(address)
        self._lm, self._address = lm, address
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        if not gpus + cpus:
            raise InputError(f"The Ray cluster at {address} has neither CPUs nor GPUs to work with.")
        make = ray.remote(num_gpus=1)(_Actor) if gpus else ray.remote(num_cpus=1)(_Actor)
        actors = [make.remote(lm.name, bool(gpus)) for _ in range(gpus or cpus)]
        self._loading = {actor.fingerprint.remote(): actor for actor in actors}
        self.actors: list[Any] = []
        """Those that have loaded the model and still answer."""
        while not self.actors:
            self._admit(self._first_of(self._loading))

    def map(self, tasks: Sequence[Task], on_tokens: Progress) -> Iterator[tuple[int, Records]]:
        waiting, idle = deque(range(len(tasks))), list(self.actors)
        running: dict[Any, tuple[int, Any]] = {}
        while waiting or running:
            while waiting and idle:
                place, actor = waiting.popleft(), idle.pop()
                running[actor.compute.remote(tasks[place])] = place, actor
            done = self._first_of([*running, *self._loading])
            if done in self._loading:
                idle += self._admit(done)
                continue
            place, actor = running.pop(done)
            with self._losses() as lost:
                records, tokens = self._ray.get(done)
            if lost:
                waiting.appendleft(place)
                self.actors.remove(actor)
                self._require()
                continue
            idle.append(actor)
            on_tokens(tokens)
            yield place, records

    def _first_of(self, references: Iterable[Any]) -> Any:
        (done,), _ = self._ray.wait(list(references), num_returns=1)
        return done

    def _admit(self, loaded: Any) -> list[Any]:
        """The actor that has loaded the model, unless it was lost while it did."""
        actor = self._loading.pop(loaded)
        with self._losses() as lost:
            found = self._ray.get(loaded)
            if found != self._lm.fingerprint:
                raise RunError(
                    f"A worker at {self._address} loaded {self._lm.name} with fingerprint {found}; here it "
                    f"has {self._lm.fingerprint}. Give every node the same file, or a hub id."
                )
        new = [] if lost else [actor]
        self.actors += new
        self._require()
        return new

    @contextmanager
    def _losses(self) -> Iterator[list[Exception]]:
        """Collects the error that says an actor is gone; any other is raised as the worker raised it."""
        lost: list[Exception] = []
        try:
            yield lost
        except self._ray.exceptions.RayActorError as error:
            lost.append(error)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def _require(self) -> None:
        if not self.actors and not self._loading:
            raise RunError(
                "Every Ray worker was lost. What they had finished is written; give the same command again, "
                "on a cluster that stands, to go on from there."
            )


class _Actor:
    """Runs in a process of its own on some node."""

    def __init__(self, name: str, on_gpu: bool) -> None:
        if not on_gpu:
            torch.set_num_threads(1)  # an actor is given one CPU
        self._lm = load(name)

    def fingerprint(self) -> str:
        return self._lm.fingerprint

    def compute(self, task: Task) -> tuple[Records, int]:
        """The records, and how many tokens it took."""
        told: list[int] = []
        return task.compute(self._lm, told.append), sum(told)


def _connected(address: str) -> Any:
    """The ray module, with its session open on the cluster at ``address``."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray, which is not installed: pip install 'unlatch[ray]'.") from None
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray itself would try for a minute
            socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"No Ray cluster at {address}: {reason}. Start one with `ray start --head`, and pass the "
            "address that it prints."
        ) from error
    return ray
