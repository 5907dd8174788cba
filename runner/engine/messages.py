"""Messages for people: what they say, and the services of apprise that take them elsewhere.

The URLs of the services hold passwords. They come from the environment or the command line, stay in
this process, and are shown without their secrets.
"""

import logging
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any
from urllib.parse import unquote

from runner.errors import SpecError
from runner.queue.job import Job, State, line
from runner.queue.texts import count, duration
from runner.queue.view import View, failure_words
from runner.store.settings import mask

VARIABLE = "RUNNER_NOTIFY"  #: URLs of services
SEND_SECONDS = 60.0  #: that all services together may take; each has timeouts of its own
LOST = "lost"
_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z][\w+.-]*://)")
_PARTS = re.compile(r"[/:@?&=,#\s]+")
#: what happened to a job -> apprise's type of message, and the command that may come next
_KINDS = {
    State.SUCCEEDED.value: ("SUCCESS", "report"),
    State.FAILED.value: ("FAILURE", "logs"),
    State.HELD.value: ("WARNING", "unhold"),
    LOST: ("WARNING", "resume"),
}


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is sent."""

    title: str
    body: str
    kind: str = "INFO"  #: of apprise's NotifyType


def message(job: Job, what: str, why: str, store: str) -> Message:
    """Return the message about a job.

    Args:
        job: as its newest record has it.
        what: happened: succeeded, failed, held or lost.
        why: in a sentence; "": as the record says.
        store: its URL for people.
    """
    kind, command = _KINDS[what]
    why = why or job.reason
    if what == State.FAILED and job.failure:
        why = f"{failure_words(job.failure)}: {why}"
    worked = f"{duration(job.worked_seconds)} of work in {count(job.attempts, 'attempt')}"
    named = [] if "***" in store else ["--store", store]
    lines = (
        why,
        ", ".join(View(job=job).metrics),
        f"{count(job.epoch, 'epoch')}, {count(job.step, 'step')}, {worked}",
        f"store: {store}",
        f"next: {shlex.join(['runner', command, job.id, *named])}",
    )
    body = "\n".join(filter(None, lines))
    return Message(title=f"runner: {job.id} {what}", body=mask(body), kind=kind)


class Service:
    """One of apprise's services: a mailbox, a chat, an address on the web."""

    def __init__(self, url: str, opened: Any, shown: str) -> None:
        self._opened = opened
        parts = {*_PARTS.split(url), *_PARTS.split(unquote(url))}
        self._secrets = sorted(
            (part for part in parts if len(part) > 2 and part not in shown), key=len, reverse=True
        )
        self.shown = shown  #: its URL, without secrets

    def send(self, message: Message) -> str:
        """Send it; why it could not be sent, else ""."""
        import apprise

        kind = getattr(apprise.NotifyType, message.kind)
        with _listening() as said:
            try:
                sent = self._opened.notify(
                    title=message.title, body=message.body, notify_type=kind, body_format="text"
                )
            except Exception as error:  # noqa: BLE001 - services are many, and written by many
                said.append(type(error).__name__)
                sent = False
        return "" if sent else self._without_secrets(said[-1] if said else "it did not say why")

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return mask(line(text)[:200])


def open_services(urls: str) -> tuple[list[Service], list[str]]:
    """Return the services of URLs that spaces or commas part, and what is wrong with the others.

    Raises:
        SpecError: apprise is not installed.
    """
    try:
        import apprise
    except ModuleNotFoundError as error:
        if error.name != "apprise":
            raise
        raise SpecError("messages need apprise: pip install apprise") from None
    found, wrong = list[Service](), list[str]()
    asset = apprise.AppriseAsset(async_mode=False)  # which starts no threads of its own
    for number, url in enumerate(_BETWEEN.split(urls.strip(" ,\n")), 1):
        one = apprise.Apprise(asset=asset)
        with _listening():  # what it says of a URL that is wrong may name its secrets
            known = one.add(url)
        if known and len(one) == 1:
            found.append(Service(url, one, _shown(one[0].url(privacy=True))))
        else:
            scheme = url.partition("://")[0] if "://" in url else "no scheme"
            wrong.append(
                f"URL {number} ({scheme:.20}) is none that apprise knows; "
                "https://github.com/caronc/apprise/wiki lists them"
            )
    return found, wrong


def send(services: Sequence[Service], message: Message) -> dict[Service, str]:
    """Send a message to all services; of each why it could not be sent, else ""."""
    answers: dict[Service, str] = {}

    def work() -> None:
        for service in services:
            answers[service] = service.send(message)

    thread = Thread(target=work, name="message", daemon=True)
    thread.start()
    thread.join(SEND_SECONDS)
    late = f"no answer within {SEND_SECONDS:.0f} s"
    return {service: answers.get(service, late) for service in services}


def names(services: Iterable[Service]) -> str:
    """Return the services in a list, for people."""
    return ", ".join(service.shown for service in services)


def _shown(private: str) -> str:
    """Return the scheme and the address in a URL that apprise has masked; a topic is no address."""
    scheme, _, rest = private.partition("://")
    place = re.split(r"[/?#]", rest)[0]
    return f"{scheme}://{place if re.search('[.:@]', place) else '***'}"


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what apprise warns of, instead of showing it."""
    logger, said = logging.getLogger("apprise"), list[str]()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
