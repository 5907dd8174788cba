"""Requests to a machine's own metadata service.

No proxy is ever asked, no redirect followed and nothing tried again: the service is on the machine
or on its host. An address that is not there costs a timeout in a thread that nobody waits for.
"""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

ADDRESS = "169.254.169.254"  #: the same on GCE, EC2 and Azure
PROBE_SECONDS = 1.0  #: for finding out whether there is a service
ANSWER_SECONDS = 5.0  #: for one that is known to be there
MOST_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the service said."""

    status: int
    text: str
    headers: Mapping[str, str]  #: names in lower case
    at: datetime  #: by the service's clock where it tells the time, else by ours


def ask(
    host: str,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float = ANSWER_SECONDS,
) -> Answer:
    """Send one request.

    Args:
        host: name or address, with ":port" if it is not 80.
        path: with its query.
        method: GET or PUT.
        headers: beside Host.
        timeout_seconds: without a sign of life.

    Raises:
        OSError: nobody answered, or not in HTTP.
    """
    try:
        connection = http.client.HTTPConnection(host, timeout=timeout_seconds)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(
                status=response.status,
                text=response.read(MOST_BYTES).decode("utf-8", errors="replace").strip(),
                headers=found,
                at=moment(found.get("date", "")) or datetime.now(UTC),
            )
        finally:
            connection.close()
    except (http.client.HTTPException, ValueError) as error:  # ValueError: a host that is none
        msg = f"{host}{path} did not answer: {error}"
        raise OSError(msg) from error


def moment(text: str) -> datetime | None:
    """The time that `Mon, 19 Sep 2016 18:29:47 GMT` or `2017-09-18T08:22:00Z` names."""
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
