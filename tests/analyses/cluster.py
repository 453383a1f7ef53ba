"""A real Ray cluster of two nodes of one CPU each, on this machine."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

HEAD, SECOND = "127.0.0.2", "127.0.0.3"
"""Loopback, and not 127.0.0.1, for which Ray puts the machine's address on the network."""


def free_port(host: str) -> int:
    with socket.socket() as server:
        server.bind((host, 0))
        return int(server.getsockname()[1])


@dataclass
class Node:
    """One ``ray start``, in the foreground of a process group that can be killed."""

    process: subprocess.Popen[bytes]

    @staticmethod
    def start(host: str, *arguments: str) -> "Node":
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            *(f"--node-ip-address={host}", "--num-cpus=1", "--num-gpus=0"),
            *("--object-store-memory=80000000", "--disable-usage-stats", *arguments),
        ]
        quiet = subprocess.DEVNULL
        # else it asks for a token where an earlier Ray has left one in the home folder
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        process = subprocess.Popen(
            command, stdout=quiet, stderr=quiet, start_new_session=True, env=environment
        )
        return Node(process)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def two_nodes() -> Iterator[tuple[str, Sequence[Node]]]:
    """The address of a cluster, and its nodes; this process is connected to it."""
    import ray

    port = free_port(HEAD)
    address = f"{HEAD}:{port}"
    scratch = tempfile.TemporaryDirectory(prefix="ray")  # sockets lie in it, and their paths must be short
    head = (f"--port={port}", "--include-dashboard=false", f"--temp-dir={scratch.name}")
    nodes = [Node.start(HEAD, "--head", *head)]
    try:
        while not answers(HEAD, port):
            assert nodes[0].process.poll() is None, "the head did not start"
            time.sleep(0.2)
        nodes.append(Node.start(SECOND, f"--address={address}"))
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", _node_ip_address=HEAD)
        while ray.cluster_resources().get("CPU", 0) < 2:
            assert all(node.process.poll() is None for node in nodes), "a node did not start"
            time.sleep(0.2)
        yield address, nodes
    finally:
        ray.shutdown()
        for node in reversed(nodes):
            node.kill()
        scratch.cleanup()


def answers(host: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0
