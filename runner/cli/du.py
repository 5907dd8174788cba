"""`runner du`: how many bytes each job holds in the store, and of what. One listing."""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping

from runner.cli.common import add_store_option, not_there, open_queue, say
from runner.cli.render import show
from runner.exit import Exit
from runner.queue.protocol import FOLDER
from runner.store.base import Store

#: the columns, and the folders of a job that count there; all else is "other"
KINDS: Mapping[str, tuple[str, ...]] = {
    "checkpoints": ("packs", "checkpoints"),
    "records": ("log", "head.json", "lease", "notified"),
    "logs": ("logs", "failures"),
    "results": ("evaluation", "tensorboard", "report", "mirrored"),
}
_OTHER = "other"
_KINDS = (*KINDS, _OTHER)
_KIND_OF = {folder: kind for kind, folders in KINDS.items() for folder in folders}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `du`."""
    parser.add_argument("job", metavar="JOB", nargs="*", help="only these (default: all)")
    parser.add_argument("--json", action="store_true", help="for programs: bytes, by job and kind")
    add_store_option(parser)


def run(options: argparse.Namespace) -> int:
    """Print a table, the largest job first, or JSON."""
    queue, store = open_queue(options, quiet=options.json)
    found = _held(store)
    for name in options.job:
        if name not in found:
            queue.job(name)  # which says that there is none
    if options.job:
        found = {name: found[name] for name in dict.fromkeys(options.job)}
    if options.json:
        print(json.dumps(found, indent=2))
    elif found:
        _show(found)
    else:
        say(not_there(store) or "no jobs")
    return Exit.DONE


def _held(store: Store) -> dict[str, dict[str, int]]:
    """Return the bytes of each kind, by job."""
    found: defaultdict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_KINDS, 0))
    for key, size in sorted(store.sizes(FOLDER).items()):
        job, _, rest = key.removeprefix(FOLDER).partition("/")
        found[job][_KIND_OF.get(rest.partition("/")[0], _OTHER)] += size
    return dict(found)


def _show(found: Mapping[str, Mapping[str, int]]) -> None:
    rows = sorted(found.items(), key=lambda item: -sum(item[1].values()))
    if len(rows) > 1:
        rows.append(("all", {kind: sum(one[kind] for one in found.values()) for kind in _KINDS}))
    header = ("ID", *(kind.upper() for kind in _KINDS), "TOTAL")
    cells = [(job, *map(_size, one.values()), _size(sum(one.values()))) for job, one in rows]
    show([header, *cells], [""] * len(cells))


def _size(amount: int) -> str:
    """Return `412 B` or `69.0 MB`; nothing of nothing."""
    size, unit = float(amount), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if amount else ""
