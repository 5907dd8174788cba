"""`runner export JOB FILE.keras`: the trained model, ready for keras.models.load_model."""

import argparse
from pathlib import Path

from runner.cli.common import add_store_option, open_queue, say
from runner.cli.exit import Exit
from runner.errors import SpecError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    parser.add_argument("job", metavar="JOB")
    parser.add_argument("path", metavar="FILE.keras", type=Path)
    parser.add_argument(
        "--checkpoint",
        choices=("final", "best", "latest"),
        default="final",
        help="which state (default: final; latest while the training runs)",
    )
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    path: Path = options.path
    if path.suffix != ".keras":
        msg = f"FILE received {str(path)!r}; expected a name that ends in .keras"
        raise SpecError(msg)
    if not path.parent.is_dir():
        msg = f"FILE received {str(path)!r}; the folder {str(path.parent)!r} does not exist"
        raise SpecError(msg)
    if path.is_dir():
        msg = f"FILE received {str(path)!r}, which is a folder; expected a file's name"
        raise SpecError(msg)
    queue, store = open_queue(options)
    job = queue.job(options.job)
    latest = job.checkpoints[0] if job.checkpoints else None
    reference = {"final": job.final, "best": job.best, "latest": latest}[options.checkpoint]
    if reference is None:
        available = [name for name, one in (("best", job.best), ("latest", latest)) if one]
        hint = f" Try --checkpoint {available[-1]}." if available else ""
        msg = f"{job.id} has no {options.checkpoint} checkpoint yet ({job.state.value}).{hint}"
        say(f"runner: {msg}")
        return Exit.UNFINISHED
    from runner.training.export import export

    export(store, job.id, queue.spec(job.id), reference, path)
    say(f"wrote {path} (step {reference.get('step')}, digest {str(reference.get('digest'))[:12]})")
    return Exit.DONE
