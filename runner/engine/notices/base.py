"""What a notice is, what gives one, and how a machine's own metadata service is asked.

No proxy is ever asked, no redirect followed and nothing tried again: the service is on the machine
or on its host. An address that is not there costs a timeout in a thread that nobody waits for.
"""

import http.client
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

#: where Linux shows what the firmware reports of the machine; readable without privileges
DMI = Path("/sys/class/dmi/id")
ADDRESS = "169.254.169.254"  #: of the metadata service, the same on GCE, EC2 and Azure
PROBE_SECONDS = 1.0  #: for finding out whether there is a service
ANSWER_SECONDS = 5.0  #: for one that is known to be there
MOST_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Notice:
    """The machine's announcement that it is about to go."""

    text: str  #: who announces what, for people
    seconds_left: float | None  #: until it may be gone; None where nobody knows
    certain: bool = True  #: else only a risk: something to save for, nothing to stop for


class Source(Protocol):
    """Gives notices. Each is asked in a thread of its own, so it may take its time."""

    @property
    def name(self) -> str:
        """Whose notices these are, for people."""

    def is_here(self) -> bool:
        """Whether this machine gives such notices. Never raises."""

    def look(self) -> Notice | None:
        """What is announced now, if anything is.

        Raises:
            OSError: nothing could be learnt.
        """


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a metadata service answered."""

    status: int
    text: str
    headers: Mapping[str, str]  #: names in lower case
    at: datetime  #: by the service's clock where it tells the time, else by ours

    @property
    def document(self) -> Mapping[str, Any]:
        """The JSON object in it; empty where it is none."""
        try:
            found = json.loads(self.text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def seconds_until(self, text: str) -> float | None:
        """Return the seconds until a time that it names; None where that is no time."""
        until = _moment(text)
        return None if until is None else max(0.0, (until - self.at).total_seconds())


class Service(ABC):
    """A metadata service.

    Args:
        environ: the environment; a variable in it may name the service's address.
        dmi: holds what the firmware reports.
    """

    name: ClassVar[str]
    variables: ClassVar[tuple[str, ...]]  #: of the environment, that name the address
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, environ: Mapping[str, str] = os.environ, dmi: Path = DMI) -> None:
        self.environ = environ
        self._dmi = dmi
        self.named = next(filter(None, map(environ.get, self.variables)), "")
        self.host = self.named or ADDRESS

    def is_here(self) -> bool:
        """Whether this kind of machine is likely, and its service answers as it should."""
        unknown = not self.firmware("sys_vendor") and not self.firmware("product_name")
        if not (self.named or unknown or self.is_likely()):
            return False
        try:
            return self.answers()
        except OSError:
            return False

    @abstractmethod
    def is_likely(self) -> bool:
        """Whether the firmware reports this kind of machine."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the service is there. Raises OSError."""

    def firmware(self, name: str) -> str:
        """Return what the firmware reports under this name, or ""."""
        try:
            return (self._dmi / name).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> Answer:
        """Send one request.

        Args:
            path: with its query.
            method: GET or PUT.
            headers: beside those that every request of this service has.
            timeout_seconds: without a sign of life.

        Raises:
            OSError: nobody answered, or not in HTTP.
        """
        try:
            connection = http.client.HTTPConnection(self.host, timeout=timeout_seconds)
            try:
                connection.request(method, path, headers={**self.headers, **(headers or {})})
                response = connection.getresponse()
                found = {name.lower(): value for name, value in response.getheaders()}
                return Answer(
                    status=response.status,
                    text=response.read(MOST_BYTES).decode("utf-8", errors="replace").strip(),
                    headers=found,
                    at=_moment(found.get("date", "")) or datetime.now(UTC),
                )
            finally:
                connection.close()
        except (http.client.HTTPException, ValueError) as error:  # ValueError: a host that is none
            raise OSError(f"{self.host}{path} did not answer: {error}") from error


def _moment(text: str) -> datetime | None:
    """The time that `Mon, 19 Sep 2016 18:29:47 GMT` or `2017-09-18T08:22:00Z` names."""
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            found = parse(text)
        except ValueError:
            continue
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None
