"""The same work in this process, and on a real cluster of two nodes, one of which dies on the way."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from analyses import verbosity
from analyses.configs import VerbosityConfig
from analyses.run_folder import RunFolder
from analyses.workers import LocalWorker, RayWorkers
from hooks.errors import InputError, RunError
from hooks.load import load
from tests.analyses.cluster import HEAD, free_port


@dataclass(frozen=True)
class Layers:
    """A task of a later analysis: anything that a model can be asked."""

    times: int

    def compute(self, lm, on_tokens):
        if self.times < 0:
            raise InputError(f"{self.times} times is none.")
        on_tokens(self.times)
        return [{"layers": lm.n_layers, "tokens": 1, "process": os.getpid()}] * self.times


def test_one_worker_does_its_tasks_in_turn(llama):
    told: list[int] = []
    found = list(LocalWorker(llama).map([Layers(2), Layers(0), Layers(1)], told.append))
    assert [(place, len(records)) for place, records in found] == [(0, 2), (1, 0), (2, 1)]
    assert told == [2, 0, 1]
    assert {record["process"] for _, records in found for record in records} == {os.getpid()}


# --- a cluster


def test_a_run_on_a_cluster_that_loses_a_node_ends_with_the_same_bytes(
    cluster, finished: Path, config: VerbosityConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address, (_, second) = cluster
    add, added = RunFolder.add, []

    def kill_after_a_while(self, part, fields):
        add(self, part, fields)
        added.append(part)
        if len(added) == 5:
            second.kill()

    monkeypatch.setattr(RunFolder, "add", kill_after_a_while)
    out = verbosity.run(config, tmp_path / "run", ray=address)
    assert len(added) > 10
    assert second.process.poll() is not None
    assert (out / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_workers_share_the_tasks_and_raise_what_a_task_raises(cluster, config: VerbosityConfig):
    address, _ = cluster
    lm = load(config.model)
    workers, told = RayWorkers(address, lm), []
    while len(workers.actors) < 2:  # the second joins when it has loaded the model
        list(workers.map([Layers(1)], lambda _: None))
    found = dict(workers.map([Layers(n) for n in (3, 1, 2, 4, 5, 1)], told.append))
    assert {place: len(records) for place, records in found.items()} == dict(enumerate((3, 1, 2, 4, 5, 1)))
    processes = {record["process"] for records in found.values() for record in records}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert sum(told) == 16
    with pytest.raises(InputError, match="-1 times is none"):
        list(workers.map([Layers(-1)], told.append))
    ray = sys.modules["ray"]
    for actor in workers.actors:
        ray.kill(actor)
        with pytest.raises(ray.exceptions.RayActorError):
            ask_until_dead(ray, actor)
    with pytest.raises(RunError, match="Every Ray worker was lost"):
        list(workers.map([Layers(1)], told.append))
    other = replace(lm)
    vars(other)["fingerprint"] = "another"
    with pytest.raises(RunError, match="Give every node the same file"):
        RayWorkers(address, other)


def ask_until_dead(ray, actor) -> None:
    """A killed actor may answer for a moment."""
    while True:
        ray.get(actor.fingerprint.remote())


def test_an_address_where_nothing_answers_is_refused(llama):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'unlatch[ray]'")
    with pytest.raises(InputError, match=r"No Ray cluster at 127\.0\.0\.2:"):
        RayWorkers(f"{HEAD}:{free_port(HEAD)}", llama)


def test_without_ray_the_flag_says_what_to_install(llama, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'unlatch\[ray\]'"):
        RayWorkers("127.0.0.1:1", llama)
