"""Which faults of a bucket pass by themselves, and which need someone to fix them.

The clients raise what they like: OSError with and without errno, HttpError, ClientError,
aiohttp's and google.auth's errors. They are told apart here by HTTP status, errno and name,
so that no client library has to be imported. What is not known to be permanent is transient.
"""

import errno
import logging
import math
import time
from collections.abc import Callable, Iterable
from itertools import count
from json import JSONDecodeError
from random import random
from typing import Any, TypeVar

from runner.errors import StoreError, StoreRefusedError
from runner.store.settings import mask

T = TypeVar("T")
logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0  #: how long a transient fault is waited out
_FIRST_SECONDS = 5.0  # ... where no request was answered yet: the address may be wrong
_BLIP_SECONDS = 20.0  # ... where credentials are refused that worked before
_LONGEST_PAUSE = 15.0

_ACCESS = (
    "The bucket refuses these credentials. Log in again, or give this account read, write, list "
    "and delete on the bucket's objects (see runner/store/README.md); check this machine's clock."
)
_NO_CREDENTIALS = (
    "No credentials were found. Log in (gcloud auth application-default login, aws configure), "
    "set the client's environment variables, or RUNNER_STORAGE_OPTIONS."
)
_NO_PROFILE = (
    "There is no such profile in ~/.aws/config or ~/.aws/credentials: add it (aws configure "
    "--profile NAME), or fix the one that AWS_PROFILE or the storage_options name."
)
NO_S3 = "The server there answers not as an S3 server does: fix endpoint_url (storage_options)."
_NO_BUCKET = "There is no such bucket: make it, or fix the URL. runner makes none by itself."
_REGION = "The bucket lives in another region: set it with AWS_DEFAULT_REGION or in the profile."
_REQUEST = "The bucket does not take such requests: is the URL that of an object store?"
_NO_SERVER = (
    "Nothing was reached there yet. Is the network up, and the address right (endpoint_url in the "
    "storage_options)?"
)
OPTIONS_FIX = "Fix the URL, or the storage_options in RUNNER_STORAGE_OPTIONS or the settings file."
_SPACE = "The place is full or its quota used up: make room, then run it again."

_BY_NAME = {
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "DefaultCredentialsError": _NO_CREDENTIALS,
    "ProfileNotFound": _NO_PROFILE,
    "TokenRetrievalError": _NO_CREDENTIALS,
    "UnauthorizedSSOTokenError": _NO_CREDENTIALS,
    "SSOTokenLoadError": _NO_CREDENTIALS,
    "ParamValidationError": _REQUEST,
}
_BY_NUMBER = {  # HTTP status or errno
    301: _REGION,
    401: _ACCESS,
    403: _ACCESS,
    404: _NO_BUCKET,
    507: _SPACE,
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
}
_BY_TYPE: tuple[tuple[type[Exception], str | None], ...] = (
    (FileNotFoundError, _NO_BUCKET),
    (JSONDecodeError, None),  # a reply that was cut
    (UnicodeError, None),
    (ValueError, _REQUEST),
)
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed")
_NO_CONNECTION = (  # parts of the names of errors: a closed port, an unknown host, no TLS, silence
    "EndpointConnection",
    "ClientConnector",
    "ConnectTimeout",
    "ConnectionTimeout",
    "ConnectionRefused",
    "ReadTimeout",
    "SocketTimeout",
    "SSLError",
    "NonHttpUrl",
    "gaierror",
)
_PROGRAMMING = (TypeError, AttributeError, KeyError, NotImplementedError, AssertionError)
_THROTTLED = ("ratelimit", "rate limit", "slowdown", "slow down", "quota exceeded for quota metric")


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status behind a client's error, if it tells."""
    for one in (error, error.__cause__, error.__context__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            found: Any = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            named = (getattr(one, name, None) for name in ("status", "status_code", "code"))
            found = next((value for value in named if value is not None), None)
        if str(found).isdecimal():
            return int(found)
    return None


def fix_for(error: BaseException) -> str | None:
    """Return what a person has to do about a permanent fault; None for one that may pass."""
    text, name = str(error), type(error).__name__
    if name in _BY_NAME:
        return _BY_NAME[name]
    if _has(text.lower().replace("_", ""), _THROTTLED):
        return None
    if _is_refused(error):
        return _ACCESS
    number = status_of(error) or getattr(error, "errno", None)
    if number in _BY_NUMBER:
        return _BY_NUMBER[number]
    if _has(text, _ELSEWHERE):
        return _REGION
    return next((fix for kind, fix in _BY_TYPE if isinstance(error, kind)), None)


def _has(text: str, words: Iterable[str]) -> bool:
    return any(word in text for word in words)


def _is_refused(error: BaseException) -> bool:
    if type(error).__name__ == "RefreshError":
        return not getattr(error, "retryable", False)
    denied = isinstance(error, PermissionError) and status_of(error) != 405
    return denied or str(error).startswith("Forbidden")


def is_access(error: BaseException) -> bool:
    """Return whether a fault is that of credentials which are refused."""
    return fix_for(error) is _ACCESS


class Trust:
    """The kinds of requests that the credentials did for: a refusal of those may be a blip.

    Services refuse for seconds while they rotate keys or lose sight of their accounts.
    """

    def __init__(self) -> None:
        self._refused_at: dict[str, float] = {}  # monotonic, by kind; 0.0: it works

    def worked(self, kind: str) -> None:
        """Remember that such a request was answered."""
        self._refused_at[kind] = 0.0

    def is_blip(self, kind: str) -> bool:
        """Return whether a refusal may pass: it worked before, and fails for seconds only."""
        began = self._refused_at.get(kind)
        if began is None:
            return False
        now = time.monotonic()
        self._refused_at[kind] = began or now
        if now - (began or now) < _BLIP_SECONDS:
            return True
        self._refused_at.pop(kind, None)
        return False


def refused(doing: str, error: BaseException, fix: str) -> StoreRefusedError:
    """Return the error that says what failed and who fixes it how."""
    return StoreRefusedError(f"{doing} failed ({brief(error)}). {fix}")


def brief(error: BaseException) -> str:
    """Return an error in a few words, without secrets and without pages of HTML."""
    text = " ".join(str(error).split())
    return mask(f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__)


def patiently(
    doing: str,
    work: Callable[[], T],
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    reached: bool = True,
    is_blip: Callable[[], bool] = lambda: False,
) -> T:
    """Return `work()`, again and again while it fails for causes that pass.

    Where nothing was `reached` yet, a server that is not there or speaks another language is given
    up after seconds. `is_blip` says whether refused credentials are tried again.
    FileNotFoundError goes through: only the caller knows whether an absent object is news.
    Raises StoreRefusedError for a permanent fault at once, StoreError when patience is over.
    """
    began = time.monotonic()
    for attempt in count():
        try:
            return work()
        except (FileNotFoundError, StoreError):
            raise
        except Exception as error:  # clients raise anything
            no_store = not reached and _is_no_store(error)
            past = time.monotonic() - began
            left = min(patience_seconds, _FIRST_SECONDS if no_store else math.inf) - past
            given_up = _given_up(doing, error, is_blip, lost=no_store and past >= _FIRST_SECONDS)
            if given_up is None and left <= 0:
                given_up = _exhausted(doing, error, patience_seconds)
            if given_up is not None:
                raise given_up from error
            pause = min(random() * min(_LONGEST_PAUSE, 0.3 * 2**attempt), left)
            logger.warning(
                "%s failed (%s); trying again in %.1f s, for %.0f s more",
                doing, brief(error), pause, left,
            )  # fmt: skip
        time.sleep(pause)
    raise AssertionError  # never: it is tried until it is given up


def _given_up(
    doing: str, error: Exception, is_blip: Callable[[], bool], *, lost: bool
) -> StoreError | None:
    """Return what is raised where there is no use in trying again."""
    if isinstance(error.__cause__, StoreRefusedError):  # ours, inside a client's
        return error.__cause__
    if isinstance(error, _PROGRAMMING):  # options that the client can't use, or a bug in it
        return refused(doing, error, OPTIONS_FIX)
    fix = fix_for(error)
    if fix is not None and not (fix is _ACCESS and is_blip()):
        return refused(doing, error, fix)
    if lost:
        return StoreError(f"{doing} failed ({brief(error)}). {_NO_SERVER}")
    return None


def _exhausted(doing: str, error: Exception, patience_seconds: float) -> StoreError:
    """Return what is raised when patience is over."""
    if is_access(error):
        return refused(doing, error, _ACCESS)
    return StoreError(
        f"{doing} failed for {patience_seconds:.0f} s on end ({brief(error)}). Is the network "
        "up, and the bucket's service?"
    )


def _is_no_store(error: BaseException) -> bool:
    """Whether nobody answered, or someone who does not know such requests."""
    status = status_of(error)
    if status is not None:
        return (400 <= status < 500 and status not in (408, 429)) or status == 501
    chain = (error, error.__cause__, error.__context__)
    return getattr(error, "errno", None) == errno.ENOSYS or any(
        name in type(one).__name__ for one in chain for name in _NO_CONNECTION
    )
