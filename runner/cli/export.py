"""`runner export JOB FILE`: the trained model, or its history, for use without runner.

`FILE.keras` is ready for keras.models.load_model. `FILE.csv` has a line for each finished epoch
with every metric, exact to the last bit, and is written without TensorFlow.
"""

import argparse
import csv
import io
from pathlib import Path

from runner.cli.common import add_store_option, open_queue, say, write_file
from runner.errors import NotReadyError, SpecError
from runner.exit import Exit
from runner.queue.job import Job, Json
from runner.queue.queue import Queue
from runner.store.base import Store

ENDINGS = (".keras", ".csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    parser.add_argument("job", metavar="JOB")
    parser.add_argument(
        "path", metavar="FILE", type=Path, help="FILE.keras: the model; FILE.csv: the history"
    )
    parser.add_argument(
        "--checkpoint",
        choices=("final", "best", "latest"),
        help="which state (default: final; of a history also latest, while the training runs)",
    )
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    path: Path = options.path
    _check(path)
    queue, store = open_queue(options)
    job = queue.job(options.job)
    if path.suffix == ".csv":
        return _history(store, job, _reference(job, options.checkpoint or _newest(job)), path)
    return _model(queue, store, job, _reference(job, options.checkpoint or "final"), path)


def _check(path: Path) -> None:
    if path.suffix not in ENDINGS:
        msg = f"FILE received {str(path)!r}; expected a name that ends in .keras or .csv"
        raise SpecError(msg)
    if not path.parent.is_dir():
        msg = f"FILE received {str(path)!r}; the folder {str(path.parent)!r} does not exist"
        raise SpecError(msg)
    if path.is_dir():
        msg = f"FILE received {str(path)!r}, which is a folder; expected a file's name"
        raise SpecError(msg)


def _newest(job: Job) -> str:
    return "final" if job.final else "latest"


def _reference(job: Job, wished: str) -> Json:
    latest = job.checkpoints[0] if job.checkpoints else None
    known = {"final": job.final, "best": job.best, "latest": latest}
    reference = known[wished]
    if reference is None:
        available = [name for name in ("best", "latest") if known[name]]
        hint = f" Try --checkpoint {available[-1]}." if available else ""
        msg = f"{job.id} has no {wished} checkpoint yet ({job.state.value}).{hint}"
        raise NotReadyError(msg)
    return reference


def _model(queue: Queue, store: Store, job: Job, reference: Json, path: Path) -> int:
    from runner.training.export import export

    export(store, job.id, queue.spec(job.id, job.spec_digest), reference, path)
    say(f"wrote {path} (step {reference.get('step')}, digest {str(reference.get('digest'))[:12]})")
    return Exit.DONE


def _history(store: Store, job: Job, reference: Json, path: Path) -> int:
    from runner.checkpoint.reading import read_manifest
    from runner.report.collect import history_of

    history = history_of(read_manifest(store, str(reference.get("manifest"))))
    epochs = max(map(len, history.values()), default=0)
    if not epochs:
        msg = f"{job.id} has finished no epoch yet ({job.state.value}), so there is no history."
        raise NotReadyError(msg)
    content = io.StringIO(newline="")
    lines = csv.writer(content, lineterminator="\n")
    lines.writerow(["epoch", *history])
    for epoch in range(epochs):
        values = [column[epoch] if epoch < len(column) else None for column in history.values()]
        lines.writerow([epoch + 1, *("nan" if value is None else repr(value) for value in values)])
    write_file(path, content.getvalue().encode())
    say(f"wrote {path} ({epochs} epochs)")
    return Exit.DONE
