"""Train the jobs of a study to their end on a machine that is taken away again and again.

    python -m tests.field.study --data cifar100.npz --store STORE jobs/myinception-dropout-ma.json

Workers are ended by SIGKILL at random moments, `--kills` times a job, and once more when
`--minutes` are over; the same command goes on where they died. RESULTS then holds each job's
record, history, log of attempts, kills, weights in float16 and the report. With `--check N` a
second store trains the first job undisturbed for N epochs, and the two histories must be equal in
every bit.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_ENDED = {"succeeded", "failed", "cancelled", "held"}
_POLL = 2.0  #: seconds between two looks at the queue


def main() -> int:
    options = _options()
    field = Field(options)
    field.submit()
    try:
        field.work()
    finally:
        field.collect()
    return field.check() if options.check else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="study", description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="in order")
    parser.add_argument("--data", required=True, help="the npz file of all images")
    parser.add_argument("--store", required=True, type=Path, help="a folder that stays")
    parser.add_argument("--results", required=True, type=Path, help="a folder for what is kept")
    parser.add_argument("--minutes", type=float, default=60.0, help="then all is killed")
    parser.add_argument("--kills", type=int, default=5, help="of each job")
    parser.add_argument("--within", type=float, default=45.0, metavar="SECONDS", help="of training")
    parser.add_argument("--workers", type=int, default=1, help="side by side")
    parser.add_argument("--check", type=int, default=0, metavar="EPOCHS", help="undisturbed")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


class Field:
    """The queue of a store, and the workers that live and die for it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.deadline = time.monotonic() + options.minutes * 60
        self.store = options.store.resolve()
        self.results = options.results.resolve()
        self.results.mkdir(parents=True, exist_ok=True)
        self.store.mkdir(parents=True, exist_ok=True)
        self.killed = self.store / "kills.jsonl"
        self.environment = {
            "JAX_COMPILATION_CACHE_DIR": str(self.store / "compiled"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            **os.environ,
            "PYTHONUNBUFFERED": "1",
        }

    def runner(self, *words: str, store: str = "runs") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "runner", *words, "--store", str(self.store / store)],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            print("runner", *words, "ended with", done.returncode, flush=True)
        return done.stdout

    def submit(self) -> None:
        for spec in self.options.specs:
            changes = [f"data.path={Path(self.options.data).resolve()}", *self.options.set]
            words = [word for change in changes for word in ("--set", change)]
            self.runner("submit", spec, "--detach", *words)

    def status(self) -> list[dict[str, Any]]:
        """Return all jobs as `runner status --json` tells of them."""
        found = json.loads(self.runner("status", "--json") or "[]")
        return list(found) if isinstance(found, list) else found.get("jobs", [found])

    # ------------------------------------------------------------------ work

    def work(self) -> None:
        """Keep workers alive until all is done or the time is over, and kill them on the way."""
        workers: list[Worker] = []
        while True:
            jobs = {job["id"]: job for job in self.status()}
            if all(job["state"] in _ENDED for job in jobs.values()):
                break
            if time.monotonic() >= self.deadline:
                for worker in workers:
                    self.kill(worker, jobs, "time over")
                return
            workers = [worker for worker in workers if worker.process.poll() is None]
            while len(workers) < self.options.workers:
                workers.append(Worker(self))
            for worker in workers:
                job = worker.job(jobs)
                if job is None or job["stage"] != "train":
                    continue
                if self.kills(job["id"]) < self.options.kills and worker.is_due(job):
                    self.kill(worker, jobs, "random")
            time.sleep(_POLL)
        for worker in workers:
            worker.process.wait()

    def kill(self, worker: "Worker", jobs: dict[str, Any], why: str) -> None:
        job = worker.job(jobs)
        os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        if job is None:
            return
        entry = {
            "job": job["id"],
            "why": why,
            "time": time.time(),
            "seen_epoch": job["epoch"],
            "seen_step": job["step"],
        }
        print("SIGKILL", entry, flush=True)
        with self.killed.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def kills(self, job: str, why: str = "random") -> int:
        """Return how often its worker was killed."""
        if not self.killed.exists():
            return 0
        entries = map(json.loads, self.killed.read_text().splitlines())
        return sum(entry["job"] == job and entry["why"] == why for entry in entries)

    # ------------------------------------------------------------------ results

    def collect(self) -> None:
        """Write what is kept, of finished jobs all, of others where they are."""
        jobs = self.status()
        (self.results / "jobs.json").write_text(json.dumps(jobs, indent=1))
        if self.killed.exists():
            (self.results / "kills.jsonl").write_text(self.killed.read_text())
        done = [job["id"] for job in jobs if job["state"] == "succeeded"]
        for job in jobs:
            name = job["id"]
            (self.results / f"{name}.log").write_text(self.runner("logs", name))
            if job["epoch"]:
                which = () if name in done else ("--checkpoint", "latest")
                self.runner("export", name, str(self.results / f"{name}.csv"), *which)
        if done:
            self.runner("report", *done, "-o", str(self.results / "report"))
        for name in done:
            weights = self.results / f"{name}-float16.npz"
            if not weights.exists():
                self.weights(name, weights)
        print(self.table(jobs), flush=True)

    def weights(self, name: str, target: Path) -> None:
        """Write the final model's weights as float16, by path."""
        model = self.store / f"{name}.keras"
        self.runner("export", name, str(model))
        program = (
            "import sys, keras, numpy\n"
            "model = keras.models.load_model(sys.argv[1], compile=False)\n"
            "numpy.savez_compressed(sys.argv[2], **{v.path.replace('/', '|'):"
            " numpy.asarray(v.value).astype('float16') for v in model.weights})\n"
        )
        words = [sys.executable, "-c", program, str(model), str(target)]
        subprocess.run(words, env=self.environment, check=False)

    def table(self, jobs: list[dict[str, Any]]) -> str:
        """Return a line a job: epochs, minutes, kills survived, what was learnt."""
        scored = ("top_1", "top_5", "certainty", "consistency")
        heads = ["run", "state", "epochs", "minutes", "attempts", "kills", *scored]
        lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for job in jobs:
            found = job.get("evaluation") or {}
            kills = self.kills(job["id"]) + self.kills(job["id"], "time over")
            scores = [f"{found[key]:.4f}" if key in found else "-" for key in scored]
            hours = job.get("spent_hours") or 0.0
            cells = [
                job["id"],
                job["state"],
                job["epoch"],
                f"{hours * 60:.1f}",
                job["attempts"],
                kills,
                *scores,
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        return "\n".join(lines)

    def check(self) -> int:
        """Train the first job undisturbed for some epochs; compare the histories' bits."""
        count = self.options.check
        changes = [f"data.path={Path(self.options.data).resolve()}", *self.options.set]
        changes.append(f"training.epochs={count}")
        words = [word for change in changes for word in ("--set", change)]
        self.runner("submit", self.options.specs[0], *words, store="undisturbed")
        undisturbed = json.loads(self.runner("status", "--json", store="undisturbed"))
        undisturbed = undisturbed[0] if isinstance(undisturbed, list) else undisturbed
        undisturbed = undisturbed.get("jobs", [undisturbed])[0]
        (self.results / "undisturbed.json").write_text(json.dumps(undisturbed, indent=1))
        killed = next(job for job in self.status() if job["id"] == undisturbed["id"])
        before = {key: values[:count] for key, values in undisturbed["history"].items()}
        after = {key: values[:count] for key, values in killed["history"].items()}
        print("histories of", count, "epochs are", "EQUAL" if before == after else "DIFFERENT")
        return int(before != after)


class Worker:
    """A `runner work`, and when it shall die."""

    def __init__(self, field: Field) -> None:
        log = (field.results / "workers.log").open("a")
        words = ["work", "--until-empty", "--store", str(field.store / "runs")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner", *words],
            env=field.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.first: int | None = None  #: the step it was first seen at
        self.dies: float | None = None
        self.within = field.options.within

    def job(self, jobs: dict[str, Any]) -> dict[str, Any] | None:
        """Return the job that it works on, if it does."""
        for job in jobs.values():
            worker = str(job.get("worker") or "")
            if job["state"] == "running" and worker.rpartition(":")[2] == str(self.process.pid):
                return dict(job)
        return None

    def is_due(self, job: dict[str, Any]) -> bool:
        """Return whether it has trained for the random time that was drawn."""
        if self.first is None:
            self.first = job["step"]
        if self.dies is None and job["step"] > self.first:
            self.dies = time.monotonic() + random.uniform(0, self.within)
        return self.dies is not None and time.monotonic() >= self.dies


if __name__ == "__main__":
    sys.exit(main())
