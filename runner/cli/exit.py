"""The exit codes, as they were imported before."""

from runner.exit import Exit

__all__ = ["Exit"]
