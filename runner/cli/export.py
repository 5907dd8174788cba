"""`runner export JOB FILE`: the trained model, or its history, for use without runner.

`FILE.keras` is ready for keras.models.load_model, `FILE.weights.h5` for a model's load_weights.
`FILE.tflite`, `FILE.onnx` and `FOLDER/`, a SavedModel, only answer: of images uint8 in, class
probabilities out. `FILE.csv` has a line for each finished epoch with every metric, exact to the
last bit, and is written without TensorFlow.
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

ENDINGS = (".keras", ".weights.h5", ".tflite", ".onnx", ".csv", "/")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    add = parser.add_argument
    add("job", metavar="JOB")
    files = "FILE.keras: the model; FILE.weights.h5: its weights; FILE.csv: the history;"
    files += " to deploy: FILE.tflite, FILE.onnx, or FOLDER/ with a slash for a SavedModel"
    add("path", metavar="FILE", help=files)
    state = "which state (default: final; of a history also latest, while the training runs)"
    add("--checkpoint", choices=("final", "best", "latest"), help=state)
    most = "read back with so many of the test examples (default: all; 0: it is not read back)"
    add("--compare", metavar="N", type=int, help=most)
    add_store_option(parser)
    add_code_option(parser)


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    path, ending = Path(options.path), _ending(options.path)
    if options.compare is not None and options.compare < 0:
        raise SpecError(f"--compare received {options.compare}; expected a number from 0 on")
    queue, store = open_queue(options)
    job = queue.job(options.job)
    if ending == ".csv":
        newest = "final" if job.final else "latest"
        reference = _reference(job, options.checkpoint or newest)
        what = _write_history(job, history_of(read_manifest(store, reference)), path)
    else:
        from runner.evaluation.export import export

        reference = _reference(job, options.checkpoint or "final")
        spec = queue.spec(job.id, job.spec_digest)
        differences, found = export(store, job, spec, reference, path, ending, most=options.compare)
        what = f"step {reference.get('step')}, digest {str(reference.get('digest'))[:12]}"
        what += job.weights if reference is job.final else f", after epoch {reference.get('epoch')}"
        for difference in differences:
            say(f"{job.id}: exported with other code than it was trained with: {difference}")
        if found:
            say(f"{job.id}: {found}")
    say(f"wrote {path} ({what})")
    return Exit.DONE


def _ending(given: str) -> str:
    """Return what is to be written, by the ending of its name.

    Raises:
        SpecError: nothing can be written under this name, or nobody knows what.
    """
    path, wrong = Path(given), ""
    ending = next((one for one in ENDINGS if given.endswith(one)), "")
    if not ending:
        wrong = f"; expected a name that ends in {', '.join(ENDINGS[:-1])}, or FOLDER/"
    elif not path.parent.is_dir():
        wrong = f"; the folder {str(path.parent)!r} does not exist"
    elif ending == "/" and path.exists():
        wrong = ", which exists already; remove it, or choose another name"
    elif path.is_dir():
        wrong = ", which is a folder; expected a file's name"
    if wrong:
        raise SpecError(f"FILE received {given!r}{wrong}")
    return ending


def _reference(job: Job, wanted: str) -> Json:
    latest = job.checkpoints[0] if job.checkpoints else None
    known = {"final": job.final, "best": job.best, "latest": latest}
    reference = known[wanted]
    if reference is None:
        available = [name for name in ("best", "latest") if known[name]]
        hint = f" Try --checkpoint {available[-1]}." if available else ""
        kind = "" if wanted == "latest" else f"{wanted} "
        yet = "" if job.ended else " yet"
        raise NotReadyError(f"{job.id} has no {kind}checkpoint{yet} ({job.state.value}).{hint}")
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
