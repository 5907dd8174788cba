"""Tables that fit a terminal, and curves of one line."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

MANY_LINES = 500
#: columns that a narrow terminal is spared, the first first; "": a second metric
FIRST_TO_GO = ("", "WORKER", "SEEN", "TRY", "UNSAVED", "METRIC", "ETA", "PROGRESS")
COLOURED = "STATUS"  #: the column that gets the style of its row, and is cut where it is too long
LEAST = 30  #: characters of it that stay, whatever else must go
GAP = 2  #: characters between two columns


def show(rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
    """Print a table whose first row is its header, a line a row, without its empty columns.

    On a terminal it is in colour and no wider than that; a long one goes without, to be fast.
    """
    from rich.console import Console

    console = Console()
    if console.is_terminal and len(rows) <= MANY_LINES:
        console.print(fitting(rows, styles, console.width))
        return
    filled = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in filled]
    for row in zip(*filled, strict=True):
        sys.stdout.write("  ".join(map(str.ljust, row, widths)).rstrip() + "\n")


def fitting(rows: Sequence[Sequence[str]], styles: Sequence[str], width: int) -> "Table":
    """Draw a table of one line a row in so many characters."""
    from rich.table import Table
    from rich.text import Text

    widths = _widths(rows, width)
    cells = [dict(zip(rows[0], row, strict=True)) for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="")
    for name, most in widths.items():
        table.add_column(name, no_wrap=True, max_width=most)
    for row, style in zip(cells[1:], styles or [""] * len(cells[1:]), strict=True):
        texts = {name: Text(row[name], no_wrap=True, overflow="ellipsis") for name in widths}
        texts.get(COLOURED, Text()).style = style
        table.add_row(*texts.values())
    return table


def _widths(rows: Sequence[Sequence[str]], width: int) -> dict[str, int]:
    """Return the columns that have content and fit, and how wide each may be.

    Where that is not enough, the status is cut, and at last the first column.
    """
    filled = [column for column in zip(*rows, strict=True) if any(column[1:])]
    wide = {column[0]: max(map(len, column)) for column in filled}
    first = next(iter(wide), "")

    def room(name: str) -> int:
        return width - sum(other + GAP for key, other in wide.items() if key != name)

    status = wide.get(COLOURED, 0)
    if COLOURED in wide:
        wide[COLOURED] = min(status, LEAST)
    for name in FIRST_TO_GO:
        if name != first and room(first) < wide.get(first, 0):
            wide.pop(name, None)
    if first in wide:
        wide[first] = max(1, min(wide[first], room(first)))
    if COLOURED in wide:
        wide[COLOURED] = max(wide[COLOURED], min(status, room(COLOURED)))
    return wide


def wrapped(text: str) -> str:
    """Return a text broken between words where a terminal shows it, else as it is."""
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, subsequent_indent="  ", break_on_hyphens=False)


def sparkline(values: Sequence[float | None], scale: Sequence[float | None] | None = None) -> str:
    """A curve in one line of text; None leaves a gap.

    `scale`: what lies between its lowest and highest point; None: the values themselves.

    Example:
        >>> sparkline([0.0, 0.5, 1.0])
        '▁▅█'
    """
    ticks = "▁▂▃▄▅▆▇█"
    known = [value for value in (values if scale is None else scale) if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    span = (high - low) or 1.0
    return "".join(
        " " if value is None else ticks[round((value - low) / span * (len(ticks) - 1))]
        for value in values
    )
