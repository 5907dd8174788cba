"""`runner notify`: a test message, to see that those of workers would arrive."""

import argparse
import os
import socket

from runner.errors import SpecError
from runner.exit import Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `notify`."""
    words = (
        "of apprise, such as mailto://user:password@host or ntfys://topic; better in RUNNER_NOTIFY"
        " (default), where other users of the machine don't see it"
    )
    parser.add_argument("url", metavar="URL", nargs="*", help=words)


def run(options: argparse.Namespace) -> int:
    """Send it; exit code 1 where a service did not take it."""
    from runner.engine.messages import VARIABLE, Message, open_services, send

    urls = "\n".join(options.url) or os.environ.get(VARIABLE, "")
    if not urls.strip():
        raise SpecError(f"no URL to send to: name one, such as ntfys://TOPIC, or set {VARIABLE}")
    services, wrong = open_services(urls)
    if wrong:
        raise SpecError("; ".join(wrong))
    body = f"A test from {socket.gethostname()}: the messages of its workers arrive here."
    answers = send(services, Message(title="runner: a test", body=body))
    for service, why in answers.items():
        print(f"{service.shown}: {f'not delivered: {why}' if why else 'delivered'}")
    return Exit.FAILED if any(answers.values()) else Exit.DONE
