"""Tables of measurements: medians with their spread, on the terminal as they come."""

import os
import statistics
from collections.abc import Sequence

import numpy as np

#: longer runs for steadier figures: RUNNER_BENCH_REPEATS=15 make bench
REPEATS = int(os.environ.get("RUNNER_BENCH_REPEATS", "4"))


def spread(values: Sequence[float], *, unit: str = "", digits: int = 1) -> str:
    """Return the median and the range: `8.1 (7.9-9.0) ms`."""
    if not values:
        return "-"
    low, middle, high = min(values), statistics.median(values), max(values)
    text = f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
    return f"{text} {unit}".rstrip()


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the quotients of neighbours: what disturbs the machine disturbs both."""
    return [one / other for one, other in zip(ones, others, strict=True)]


def quotient(ones: Sequence[float], others: Sequence[float]) -> str:
    """Return the quotient of the sums, with its standard error by the bootstrap (Efron 1979)."""
    times = np.array([ones, others])
    chosen = np.random.default_rng(1).integers(0, len(ones), (1000, len(ones)))
    sums = times[:, chosen].sum(axis=2)
    return f"{sum(ones) / sum(others):.4f} +- {(sums[0] / sums[1]).std():.4f}"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        first, *rest = (cell for cell in row)
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  " + "  ".join([first.ljust(widths[0]), *cells]))
