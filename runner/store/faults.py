"""Which faults of a bucket pass by themselves, and which need someone to mend them.

The clients raise what they like: OSError with and without errno, HttpError, ClientError,
aiohttp's and google.auth's errors. They are told apart here by HTTP status, errno and name,
so that no client library has to be imported. What is not known to be permanent is transient.
"""

import errno
import logging
import time
from collections.abc import Callable
from json import JSONDecodeError
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
_NO_BUCKET = "There is no such bucket: make it, or mend the URL. runner makes none by itself."
_REGION = "The bucket lives in another region: set it with AWS_DEFAULT_REGION or in the profile."
_REQUEST = "The bucket does not take such requests: is the URL that of an object store?"
_NO_SERVER = (
    "Nothing was reached there yet. Is the network up, and the address right (endpoint_url in the "
    "storage_options)?"
)
OPTIONS_MEND = (
    "Mend the URL, or the storage_options in RUNNER_STORAGE_OPTIONS or the settings file."
)
_SPACE = "The place is full or its quota used up: make room, then run it again."

_NO_CREDENTIAL_ERRORS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "ProfileNotFound",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "SSOTokenLoadError",
}
_NO_CONNECTION = (  # parts of the names of errors: a closed port, an unknown host, no TLS there
    "EndpointConnection",
    "ClientConnector",
    "ConnectTimeout",
    "ConnectionTimeout",
    "ConnectionRefused",
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


def mend_for(error: BaseException) -> str | None:
    """Return what a person has to do about a permanent fault; None for one that may pass."""
    text, status = str(error), status_of(error)
    if type(error).__name__ in _NO_CREDENTIAL_ERRORS:
        return _NO_CREDENTIALS
    if any(word in text.lower().replace("_", "") for word in _THROTTLED):
        return None
    denied = isinstance(error, PermissionError) and status != 405
    if denied or status in (401, 403) or text.startswith("Forbidden"):
        return _ACCESS
    if type(error).__name__ == "RefreshError" and not getattr(error, "retryable", False):
        return _ACCESS
    if isinstance(error, FileNotFoundError) or status == 404:
        return _NO_BUCKET
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or status == 507:
        return _SPACE
    if "PermanentRedirect" in text or "AuthorizationHeaderMalformed" in text or status == 301:
        return _REGION
    if isinstance(error, JSONDecodeError | UnicodeError):
        return None  # a reply that was cut
    if isinstance(error, ValueError) or type(error).__name__ == "ParamValidationError":
        return _REQUEST
    return None


def is_access(error: BaseException) -> bool:
    """Return whether a fault is that of credentials which are refused."""
    return mend_for(error) is _ACCESS


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


def refused(doing: str, error: BaseException, mend: str) -> StoreRefusedError:
    """Return the error that says what failed and who mends it how."""
    return StoreRefusedError(f"{doing} failed ({brief(error)}). {mend}")


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
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return `work()`, again and again while it fails for causes that pass.

    Where nothing was `reached` yet, a server that is not there or speaks another language is given
    up after seconds. `is_blip` says whether refused credentials are tried again.
    FileNotFoundError goes through: only the caller knows whether an absent object is news.
    Raises StoreRefusedError for a permanent fault at once, StoreError when patience is over.
    """
    from tenacity import (
        RetryCallState,
        Retrying,
        retry_if_exception_type,
        stop_after_delay,
        wait_random_exponential,
    )

    began = time.monotonic()

    def once() -> T:
        try:
            return work()
        except (FileNotFoundError, StoreError):
            raise
        except Exception as error:  # clients raise anything
            lost = not reached and time.monotonic() - began >= _FIRST_SECONDS
            raise (_given_up(doing, error, is_blip, lost) or _TransientError()) from error

    def say(state: RetryCallState) -> None:
        cause = _cause(state.outcome.exception() if state.outcome else None)
        pause = state.next_action.sleep if state.next_action else 0.0
        left = patience_seconds - (state.seconds_since_start or 0.0)
        logger.warning(
            "%s failed (%s); trying again in %.1f s, for %.0f s more",
            doing,
            brief(cause),
            pause,
            max(0.0, left),
        )

    retrying = Retrying(
        retry=retry_if_exception_type(_TransientError),
        stop=stop_after_delay(patience_seconds),
        wait=wait_random_exponential(multiplier=0.3, max=_LONGEST_PAUSE),
        before_sleep=say,
        sleep=sleep,
        reraise=True,
    )
    try:
        return retrying(once)
    except _TransientError as error:
        cause = _cause(error)
        if is_access(cause):
            raise refused(doing, cause, _ACCESS) from cause
        raise StoreError(
            f"{doing} failed for {patience_seconds:.0f} s on end ({brief(cause)}). Is the network "
            "up, and the bucket's service?"
        ) from cause


def _given_up(
    doing: str, error: Exception, is_blip: Callable[[], bool], lost: bool
) -> StoreError | None:
    """Return what is raised where there is no use in trying again."""
    if isinstance(error.__cause__, StoreRefusedError):  # ours, inside a client's
        return error.__cause__
    if isinstance(error, _PROGRAMMING):  # options that the client can't use, or a bug in it
        return refused(doing, error, OPTIONS_MEND)
    mend = mend_for(error)
    if mend is not None and not (mend is _ACCESS and is_blip()):
        return refused(doing, error, mend)
    if lost and _is_no_store(error):
        return StoreError(f"{doing} failed ({brief(error)}). {_NO_SERVER}")
    return None


def _is_no_store(error: BaseException) -> bool:
    """Whether nobody answered, or someone who does not know such requests."""
    status = status_of(error)
    if status is not None:
        return (400 <= status < 500 and status not in (408, 429)) or status == 501
    chain = (error, error.__cause__, error.__context__)
    return getattr(error, "errno", None) == errno.ENOSYS or any(
        name in type(one).__name__ for one in chain for name in _NO_CONNECTION
    )


class _TransientError(Exception):
    """A fault that may pass; its cause is the client's error."""


def _cause(error: BaseException | None) -> BaseException:
    return (error and error.__cause__) or error or StoreError("unknown")
