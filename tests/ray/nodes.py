"""A Ray cluster on this machine, whose nodes can be killed and frozen with all they run."""

import signal
import subprocess
import sys
from typing import Any

from ray.cluster_utils import Cluster

from tests.processes import descendants, send

#: the head notices sooner that a node is gone, but not as soon as a busy machine is slow
IMPATIENT = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 6000,
    "health_check_failure_threshold": 4,
}
STORE_BYTES = 80_000_000  # about the least that Ray takes


class Node:
    """A machine of the cluster."""

    def __init__(self, node: Any) -> None:
        self.ray = node
        self.id: str = node.node_id
        self.host = self.id[:8]  #: what its workers call themselves
        self._raylet: int = node.all_processes["raylet"][0].process.pid

    def processes(self) -> list[int]:
        """All that runs on it, from the raylet down to the workers."""
        return [self._raylet, *descendants(self._raylet)]

    def send(self, number: signal.Signals) -> list[int]:
        """Send a signal to everything at once: nobody is left to tidy up."""
        found = self.processes()
        for pid in found:
            send(pid, signal.SIGSTOP)
        found = sorted({*found, *self.processes()})
        for pid in found:
            send(pid, number)
        return found

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def freeze(self) -> list[int]:
        return self.send(signal.SIGSTOP)


class Machines:
    """A cluster: a head that runs no workers, and nodes with room for one each."""

    def __init__(self) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "num_gpus": 0,
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES,
                "_system_config": IMPATIENT,
            },
        )

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, *, gpus: int = 0) -> Node:
        return Node(
            self._cluster.add_node(
                num_cpus=1, num_gpus=gpus, object_store_memory=STORE_BYTES, wait=True
            )
        )

    def remove(self, node: Node) -> None:
        """Take it away in such a way that the head knows it at once."""
        found = node.processes()
        self._cluster.remove_node(node.ray, allow_graceful=True)
        for pid in found[1:]:
            send(pid, signal.SIGKILL)

    def drain(self, node: Node) -> None:
        """What an autoscaler does that hears of a preemption."""
        subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "drain-node",
             "--address", self.address, "--node-id", node.id,
             "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
             "--deadline-remaining-seconds", "60"],
            check=True, capture_output=True,
        )  # fmt: skip

    def lose(self) -> None:
        """All of it, at once, with what Ray itself would leave behind."""
        nodes = [node for node in (*self._cluster.worker_nodes, self._cluster.head_node) if node]
        begun = [
            one.process.pid
            for node in nodes
            for some in node.all_processes.values()
            for one in some
        ]
        for pid in [*begun, *(below for one in begun for below in descendants(one))]:
            send(pid, signal.SIGKILL)
        for node in nodes:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
