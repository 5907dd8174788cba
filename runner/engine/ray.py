"""`runner work --engine ray`: identical workers on the machines of a Ray cluster.

The bucket is the queue; Ray only keeps workers alive and gives them GPUs. Nothing of value is in
Ray: when the cluster, its head or this command is lost, the same command on any cluster goes on.

Actors, not tasks: Ray starts a lost actor and its call again (`max_restarts=-1`,
`max_task_retries=-1`), also when its host froze, where a task would be waited for. That may leave
two workers where one was meant, for a while; that only the later owner of a job can write is the
bucket's rule, not Ray's.

A worker is told to save when its node is drained (a preemption that the cluster was told of), when
its actor's process gets a SIGTERM or is lost, and when this command is asked to stop.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RuntimeEnvSetupError

from runner.engine.keeper import Keeper, Work
from runner.engine.preemption import StopRequest
from runner.errors import SpecError
from runner.exit import Exit, worst
from runner.queue.owner import NODE_VARIABLE

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
LOST_SECONDS = 30.0  #: Ray's own processes give up on a head that was silent for 60
ANSWER_SECONDS = 10.0  #: for a member, if it runs at all
LOOK_SECONDS = 10.0  #: between looks at the queue


class Member:
    """The actor: a worker on one node, and an ear for what the cluster says of the node."""

    def __init__(self, work: Work) -> None:
        self._node = ray.get_runtime_context().get_node_id()
        node = f"ray {self._node[:8]} at {ray.util.get_node_ip_address()}"
        self._keeper = Keeper(work, environment={NODE_VARIABLE: node})
        self._leaving = threading.Event()
        threading.Thread(target=self._listen, daemon=True, name="drain").start()
        self._hear_signals()

    def run(self) -> int:
        """Work; the worker's exit code. It never returns where its process or node is to go."""
        code = self._keeper.run()
        while self._leaving.is_set():
            time.sleep(POLL_SECONDS)
        return code

    def stop(self) -> None:
        """Let the worker save and release its job; `run` then returns."""
        self._keeper.stop()

    def answer(self) -> None:
        """Answer: it has a node, which lives."""

    def _listen(self) -> None:
        above = os.getppid()
        # without its raylet, it is on a node that the cluster has given up
        while os.getppid() == above and not self._is_draining():
            time.sleep(POLL_SECONDS)
        self._leave()

    def _leave(self) -> None:
        """End this process once its worker has saved; Ray puts another one on a better node."""
        self._leaving.set()
        self._keeper.stop()
        self._keeper.join()
        os._exit(Exit.PREEMPTED)

    def _hear_signals(self) -> None:
        """Hear a SIGTERM although Ray's own loop, in the main thread, runs no Python."""
        heard, write = os.pipe()
        os.set_blocking(write, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

        def listen() -> None:
            while os.read(heard, 1) != bytes([signal.SIGTERM]):
                pass
            self._leave()

        threading.Thread(target=listen, daemon=True, name="signals").start()

    def _is_draining(self) -> bool:
        # what Ray Serve asks; the public API does not tell an actor
        try:
            client = ray._private.worker.global_worker.gcs_client
            return any(
                (node.hex() if isinstance(node, bytes) else str(node)) == self._node
                for node in client.get_draining_nodes(timeout=10)
            )
        except Exception as error:  # noqa: BLE001 - the head is away, or Ray has changed
            logger.info("the cluster does not say whether the node is drained: %s", error)
            return False


class Crew:
    """The members, from the command that started them.

    Args:
        work: for each of them.
        workers: how many; None: one for each GPU of the cluster, or for each node without any.
        gpus: for each worker, a part of one too; None: one, where the cluster has any.
        unfinished: whether the queue holds anything to do.
        stop: asked all the time.
        say: told what happens.
    """

    def __init__(
        self,
        work: Work,
        *,
        workers: int | None,
        gpus: float | None,
        unfinished: Callable[[], bool],
        stop: StopRequest,
        say: Callable[[str], None],
    ) -> None:
        self._work = work
        self._unfinished = unfinished
        self._stop = stop
        self._say = say
        self._head = _Head()
        found = ray.cluster_resources().get("GPU", 0.0)
        self._gpus = (1.0 if found else 0.0) if gpus is None else gpus
        self._workers = workers or _as_many_as_fit(found, self._gpus)
        self._members: dict[Any, Any] = {}  #: of the call `run` → the actor

    def run(self) -> int:
        """Start the members and wait until all have ended; the worst of their exit codes."""
        needs = f"{self._gpus:g} GPU each" if self._gpus else "no GPU"
        self._say(f"ray: {self._workers} workers, {needs}, on {_nodes()} nodes")
        for _ in range(self._workers):
            self._enlist()
        codes: list[int] = []
        asked, looked_at = False, 0.0
        while self._members:
            done, _ = ray.wait(list(self._members), timeout=1.0)
            codes += [self._ended(call) for call in done]
            if self._stop.reason is not None:
                if not asked:
                    self._ask("stop")
                asked = True
            elif codes and time.monotonic() - looked_at > LOOK_SECONDS:
                # some have found nothing left; who has no node yet would wait for one in vain
                looked_at = time.monotonic()
                if not self._unfinished():
                    self._ask("answer")
            self._head.check()
        return worst(codes)

    def _enlist(self) -> None:
        actor = (
            ray.remote(Member)
            .options(
                num_cpus=1,
                num_gpus=self._gpus,
                max_restarts=-1,
                max_task_retries=-1,
                max_concurrency=16,  # it hears while it works, also when Ray has made calls again
                scheduling_strategy="SPREAD",
            )
            .remote(self._work)
        )
        self._members[actor.run.remote()] = actor

    def _ended(self, call: Any) -> int:
        del self._members[call]
        try:
            return int(ray.get(call))
        except RayError as error:
            if self._stop.reason is not None:
                return Exit.PREEMPTED
            self._say(f"ray: a worker could not be kept alive: {_first_line(error)}")
            return Exit.FAILED

    def _ask(self, method: str) -> None:
        """Call a method of all; whoever has no node, or a silent one, is given up."""
        calls = {
            getattr(actor, method).remote(): running for running, actor in self._members.items()
        }
        if calls:
            _, silent = ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER_SECONDS)
            for call in silent:
                ray.kill(self._members.pop(calls[call]), no_restart=True)


class HeadLostError(Exception):
    """The head of the cluster does not answer."""


class _Head:
    """Whether the cluster's head answers: Ray would end this process when it does not."""

    def __init__(self) -> None:
        host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._seen_at = self._asked_at = time.monotonic()

    def check(self) -> None:
        """Raise HeadLostError when it has been silent for long."""
        now = time.monotonic()
        if now - self._asked_at < POLL_SECONDS:
            return
        self._asked_at = now
        try:
            with socket.create_connection(self._address, timeout=POLL_SECONDS):
                self._seen_at = time.monotonic()
        except OSError:
            if now - self._seen_at > LOST_SECONDS:
                raise HeadLostError from None


def work_on_ray(
    work: Work,
    *,
    own_code: Path | None = None,
    address: str | None,
    workers: int | None,
    gpus: float | None,
    unfinished: Callable[[], bool],
    stop: StopRequest,
    say: Callable[[str], None],
) -> int:
    """Let a crew work on a cluster until it ends; the exit code of it.

    Args:
        work: for each worker.
        own_code: a folder that Ray takes to the nodes; their workers start in its copy there.
        address: of the cluster's head, `host:port`; None: as Ray finds it ($RAY_ADDRESS, a cluster
            on this machine), or else a new one of this machine alone.
        workers: see `Crew`.
        gpus: see `Crew`.
        unfinished: see `Crew`.
        stop: of this process.
        say: told what happens.

    Raises:
        SpecError: there is no such cluster, it runs another Ray or Python, or does not take the
            folder.
    """
    carried = {"working_dir": str(own_code), "excludes": [".git"]} if own_code else None
    try:
        ray.init(
            address=address,
            runtime_env=carried,
            logging_level=logging.WARNING,
            log_to_driver=True,
        )
    except RuntimeEnvSetupError as error:
        msg = f"--code {own_code}: Ray can't take it to the nodes: {error.error_message}"
        raise SpecError(msg) from None
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        msg = f"--address received {address!r}; no Ray cluster to work on: {_first_line(error)}"
        raise SpecError(msg) from None
    stop.install()  # Ray has put its own handlers there
    try:
        code = Crew(
            work, workers=workers, gpus=gpus, unfinished=unfinished, stop=stop, say=say
        ).run()
    except HeadLostError:
        say(
            f"ray: the cluster's head has not answered for {LOST_SECONDS:.0f} s. The jobs are in"
            " the bucket, and workers that live go on or save; run me again on any cluster"
        )
        os._exit(Exit.PREEMPTED)  # a farewell would wait for the head
    ray.shutdown()
    return code


def _nodes() -> int:
    return sum(1 for node in ray.nodes() if node["Alive"])


def _as_many_as_fit(gpus: float, each: float) -> int:
    """Return how many workers the cluster has room for now; one at least."""
    if each:
        return max(1, int(gpus / each + 1e-6))
    return max(1, sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")))


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
