"""What `runner drill -- PROGRAM` orders a process of that program to do, and where it answers.

The environment names a folder, a file in it holds the orders. Without Keras: the command that
gives them does not train.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "RUNNER_DRILL"  #: of the environment; names the folder
_FILE = "orders.json"


@dataclass(frozen=True, kw_only=True)
class Orders:
    """For one process of a drill."""

    attempt: int = 1
    every: int = 1  #: steps from one line of the trace to the next
    steps: int | None = None  #: after so many the process ends
    epochs: int | None = None
    kill: tuple[int, int, float] | None = None  #: a fit, a step of it, and seconds after that
    start: str | None = None  #: a folder that gets a copy of each fit's first checkpoint

    def write(self, folder: Path) -> None:
        """Give them to the next process."""
        (folder / _FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> "Orders":
        """Take them."""
        data = json.loads((folder / _FILE).read_text())
        return cls(**{**data, "kill": tuple(data["kill"]) if data["kill"] else None})


def trace_file(folder: Path, attempt: int) -> Path:
    """Return where an attempt writes a line of JSON for each step."""
    return folder / f"trace-{attempt}.jsonl"
