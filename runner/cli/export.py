"""`runner export JOB FILE`: the trained model, or its history, for use without runner.

`FILE.keras` is ready for keras.models.load_model, `FILE.weights.h5` for a model's load_weights.
`FILE.csv` has a line for each finished epoch with every metric, exact to the last bit, and is
written without TensorFlow.
"""

import argparse
import csv
import io
from itertools import zip_longest
from pathlib import Path

from runner.cli.common import add_code_option, add_store_option, open_queue, say, write_file
from runner.errors import NotReadyError, SpecError
from runner.exit import Exit
from runner.queue.job import Job, Json
from runner.queue.view import History, history_of, read_manifest

ENDINGS = (".keras", ".weights.h5", ".csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    add = parser.add_argument
    add("job", metavar="JOB")
    files = "FILE.keras: the model; FILE.weights.h5: its weights; FILE.csv: the history"
    add("path", metavar="FILE", type=Path, help=files)
    state = "which state (default: final; of a history also latest, while the training runs)"
    add("--checkpoint", choices=("final", "best", "latest"), help=state)
    add_store_option(parser)
    add_code_option(parser)


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    path: Path = options.path
    _check(path)
    queue, store = open_queue(options)
    job = queue.job(options.job)
    if path.suffix == ".csv":
        newest = "final" if job.final else "latest"
        reference = _reference(job, options.checkpoint or newest)
        what = _write_history(job, history_of(read_manifest(store, reference)), path)
    else:
        from runner.training.export import export

        reference = _reference(job, options.checkpoint or "final")
        spec = queue.spec(job.id, job.spec_digest)
        differences = export(store, job.id, spec, reference, path)
        what = f"step {reference.get('step')}, digest {str(reference.get('digest'))[:12]}"
        what += job.weights if reference is job.final else f", after epoch {reference.get('epoch')}"
        for difference in differences:
            say(f"{job.id}: exported with other code than it was trained with: {difference}")
    say(f"wrote {path} ({what})")
    return Exit.DONE


def _check(path: Path) -> None:
    wrong = ""
    if not path.name.endswith(ENDINGS):
        wrong = "; expected a name that ends in .keras, .weights.h5 or .csv"
    elif not path.parent.is_dir():
        wrong = f"; the folder {str(path.parent)!r} does not exist"
    elif path.is_dir():
        wrong = ", which is a folder; expected a file's name"
    if wrong:
        raise SpecError(f"FILE received {str(path)!r}{wrong}")


def _reference(job: Job, wanted: str) -> Json:
    latest = job.checkpoints[0] if job.checkpoints else None
    known = {"final": job.final, "best": job.best, "latest": latest}
    reference = known[wanted]
    if reference is None:
        available = [name for name in ("best", "latest") if known[name]]
        hint = f" Try --checkpoint {available[-1]}." if available else ""
        kind = "" if wanted == "latest" else f"{wanted} "
        raise NotReadyError(f"{job.id} has no {kind}checkpoint yet ({job.state.value}).{hint}")
    return reference


def _write_history(job: Job, history: History, path: Path) -> str:
    """Write the CSV; how much it holds, in words."""
    epochs = list(zip_longest(*history.values()))
    if not epochs:
        msg = f"{job.id} has finished no epoch yet ({job.state.value}), so there is no history."
        raise NotReadyError(msg)
    content = io.StringIO(newline="")
    lines = csv.writer(content, lineterminator="\n")
    lines.writerow(["epoch", *history])
    for number, values in enumerate(epochs, 1):
        lines.writerow([number, *("nan" if value is None else repr(value) for value in values)])
    write_file(path, content.getvalue().encode())
    return f"{len(epochs)} epochs"
