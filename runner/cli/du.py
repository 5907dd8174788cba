"""`runner du`: how many bytes each job holds in the store, and of what. One listing."""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping

from runner.cli.common import add_store_option, not_there, open_queue, say
from runner.cli.render import show
from runner.exit import Exit
from runner.queue.protocol import FOLDER

#: the columns, and the folders of a job that count there; all else is "other"
KINDS: Mapping[str, tuple[str, ...]] = {
    "checkpoints": ("packs", "checkpoints"),
    "records": ("log", "head.json", "lease"),
    "logs": ("logs", "failures"),
    "results": ("evaluation", "tensorboard"),
}
_OTHER = "other"
_KIND_OF = {folder: kind for kind, folders in KINDS.items() for folder in folders}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `du`."""
    parser.add_argument("job", metavar="JOB", nargs="*", help="only these (default: all)")
    parser.add_argument("--json", action="store_true", help="for programs: bytes, by job and kind")
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Print a table, the largest job first, or JSON."""
    queue, store = open_queue(options, quiet=options.json)
    for name in options.job:
        queue.job(name)
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for key, size in store.sizes(FOLDER).items():
        job, _, rest = key.removeprefix(FOLDER).partition("/")
        kind = _KIND_OF.get(rest.partition("/")[0], _OTHER)
        if not options.job or job in options.job:
            found[job][kind] = found[job].get(kind, 0) + size
    if options.json:
        print(json.dumps({job: dict(sizes) for job, sizes in sorted(found.items())}, indent=2))
        return Exit.DONE
    if not found:
        say(not_there(store) or "no jobs")
        return Exit.DONE
    largest = sorted(found, key=lambda job: (-sum(found[job].values()), job))
    kinds = [*KINDS, _OTHER]
    rows = [
        (job, *(_size(found[job].get(kind, 0)) for kind in kinds), _size(sum(found[job].values())))
        for job in largest
    ]
    total = [sum(found[job].get(kind, 0) for job in found) for kind in kinds]
    if len(rows) > 1:
        rows.append(("all", *map(_size, total), _size(sum(total))))
    show([("ID", *(kind.upper() for kind in kinds), "TOTAL"), *rows], [""] * len(rows))
    return Exit.DONE


def _size(amount: int) -> str:
    """Return `412 B` or `69.0 MB`; nothing of nothing."""
    size, unit = float(amount), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if amount else ""
