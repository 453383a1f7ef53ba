"""The same work in this process, and on a real cluster of two nodes, one of which dies on the way."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from analyses import verbosity
from analyses.configs import VerbosityConfig
from analyses.run_folder import RunFolder
from analyses.workers import LocalWorker, RayWorkers
from hooks.errors import InputError, RunError
from hooks.load import load


@dataclass(frozen=True)
class Layers:
    """A task of a later analysis: anything that a model can be asked."""

    times: int

    def compute(self, lm, on_tokens):
        if self.times < 0:
            raise InputError(f"{self.times} times is none.")
        on_tokens(self.times)
        return [{"layers": lm.n_layers, "tokens": self.times, "process": os.getpid()}] * self.times


def test_one_worker_does_its_tasks_in_turn(llama):
    told: list[int] = []
    found = list(LocalWorker(llama).map([Layers(2), Layers(0), Layers(1)], told.append))
    assert [(place, len(records)) for place, records in found] == [(0, 2), (1, 0), (2, 1)]
    assert told == [2, 0, 1]
    assert {record["process"] for _, records in found for record in records} == {os.getpid()}


# --- a cluster


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@dataclass
class Node:
    """One ``ray start``, in the foreground of a process group that can be killed."""

    process: subprocess.Popen[bytes]

    @staticmethod
    def start(*arguments: str) -> "Node":
        command = [
            *(
                sys.executable,
                "-m",
                "ray.scripts.scripts",
                "start",
                "--block",
                "--num-cpus=1",
                "--num-gpus=0",
            ),
            *("--object-store-memory=80000000", "--node-ip-address=127.0.0.1", "--disable-usage-stats"),
            *("--include-dashboard=false",) * (arguments[0] == "--head"),
            *arguments,
        ]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
        return Node(process)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, Sequence[Node]]]:
    """Its address and its two nodes of one CPU each."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'unlatch[ray]'")
    address = f"127.0.0.1:{free_port()}"
    head = Node.start("--head", f"--port={address.split(':')[1]}", f"--temp-dir={tmp_path}")
    nodes = [head]
    try:
        connect(ray, address, head)
        nodes.append(Node.start(f"--address={address}"))
        while ray.cluster_resources().get("CPU", 0) < 2:
            assert all(node.process.poll() is None for node in nodes), "a node did not start"
        yield address, nodes
    finally:
        ray.shutdown()
        for node in reversed(nodes):
            node.kill()


def connect(ray, address: str, head: Node) -> None:
    while True:
        assert head.process.poll() is None, "the head did not start"
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except ConnectionError:
            continue
        return


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
    address, nodes = cluster
    lm = load(config.model)
    workers, told = RayWorkers(address, lm), []
    found = dict(workers.map([Layers(n) for n in (3, 1, 2, 4, 5, 1)], told.append))
    assert {place: len(records) for place, records in found.items()} == dict(enumerate((3, 1, 2, 4, 5, 1)))
    processes = {record["process"] for records in found.values() for record in records}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert sum(told) == 16
    with pytest.raises(InputError, match="-1 times is none"):
        list(workers.map([Layers(-1)], told.append))
    other = replace(lm)
    vars(other)["fingerprint"] = "another"
    with pytest.raises(RunError, match="Give every node the same file"):
        RayWorkers(address, other)
    for node in reversed(nodes):
        node.kill()
    with pytest.raises((RunError, InputError)):
        list(workers.map([Layers(1)], told.append))


def test_an_address_where_nothing_answers_is_refused(llama, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'unlatch[ray]'")
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "1")
    with pytest.raises(InputError, match=r"No Ray cluster at 127\.0\.0\.1:"):
        RayWorkers(f"127.0.0.1:{free_port()}", llama)


def test_without_ray_the_flag_says_what_to_install(llama, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'unlatch\[ray\]'"):
        RayWorkers("127.0.0.1:1", llama)
