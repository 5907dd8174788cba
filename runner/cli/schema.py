"""`runner schema`: the JSON schema of specs, for editors."""

import argparse
import json

from runner import spec
from runner.exit import Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 - the commands' common form
    """Print the schema."""
    print(json.dumps(spec.json_schema(), indent=2))
    return Exit.DONE
