"""How the clients of fsspec have to be set up to be honest, and what they call a time.

gcsfs has no timeout of its own (a stalled request still hung after 330 s) and makes six tries in
half a minute, whatever it is told; s3fs and botocore both retry, each inside the other. Retrying
is done in one place, `faults.patiently`, which says so. Only uploads in parts have tries of their
own for each part, else a long one would never end on a bad line.
"""

import asyncio
import inspect
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from difflib import get_close_matches
from random import random
from typing import Any

from runner.errors import StoreError, StoreRefusedError
from runner.store.allowed import check_address
from runner.store.faults import OPTIONS_MEND, brief, mend_for
from runner.store.settings import mask

_CONNECT_SECONDS = 10.0
_SILENT_SECONDS = 30.0  # without a byte from the server
_REQUEST_SECONDS = 600.0  # one part of an upload on a slow line
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
_ANY_CLIENT = {"use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache"}
_SESSION = {"profile", "session_vars", "event_hooks", "include_builtin_handlers"}  # botocore's
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified")


def client_options(scheme: str, given: dict[str, Any], *, tries: int = 1) -> dict[str, Any]:
    """Return the options of the client; those given by the user win, but for the caches."""
    options = dict(given)
    if scheme in ("s3", "s3a"):
        config = {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _SILENT_SECONDS,
            "retries": {"total_max_attempts": tries, "mode": "standard"},
        }
        options["config_kwargs"] = {**config, **options.get("config_kwargs", {})}
    elif scheme in ("gs", "gcs"):
        from aiohttp import ClientTimeout

        # Zonal buckets, which ignore the condition, are what this variable is for
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        _quiet("gcsfs")
        options.setdefault(
            "requests_timeout",
            ClientTimeout(
                total=_REQUEST_SECONDS, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS
            ),
        )
    elif scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        options["get_client"] = _web_client
        options["client_kwargs"] = {
            "timeout": ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
        }
    elif scheme not in _PACKAGES:
        return options
    return {**options, "use_listings_cache": False, "skip_instance_cache": True}


async def _web_client(**named: Any) -> Any:
    """Return a session that goes to no address that is this machine's secret.

    Each address is looked at when it is gone to: names and redirects may lead to any.
    """
    from aiohttp import AddrInfoType, ClientSession, TCPConnector

    def connect(info: AddrInfoType) -> socket.socket:
        check_address(str(info[4][0]))
        return socket.socket(*info[:3])

    return ClientSession(**named, connector=TCPConnector(socket_factory=connect))


def _check_options(client: type, scheme: str, given: Iterable[str]) -> None:
    """Refuse options that a bucket's client does not know: most take any, and ignore them."""
    makers = [vars(one)["__init__"] for one in client.__mro__ if "__init__" in vars(one)]
    known = {name for one in makers for name in inspect.signature(one).parameters}
    known |= _ANY_CLIENT | (_SESSION if scheme in ("s3", "s3a") else set())
    for name in set(given) - known:
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise StoreRefusedError(
            f"{scheme}:// has no storage option {mask(repr(name))}.{hint} {OPTIONS_MEND} Those in "
            "the variable go to every bucket; the file keeps them apart."
        )


def make_client(url: str, given: dict[str, Any], *, tries: int = 1) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    It sends each request up to `tries` times by itself.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else "file"
    try:
        from fsspec import get_filesystem_class
        from fsspec.core import url_to_fs

        options = client_options(scheme, given, tries=tries)  # before gcsfs is imported
        if scheme in _PACKAGES:
            _check_options(get_filesystem_class(scheme), scheme, given)
        client, path = url_to_fs(url, **options)
    except StoreError:
        raise
    except ImportError as error:
        package = _PACKAGES.get(scheme, "its fsspec package")
        raise StoreRefusedError(
            f"{scheme}:// needs a package that is not installed ({error}). "
            f"Install it: pip install '{package}'."
        ) from error
    except Exception as error:  # noqa: BLE001 - clients raise anything, and show what they got
        text = f"{mask(url)} can't be opened ({brief(error)})."
        if isinstance(error, OSError) and mend_for(error) is None:
            raise StoreError(f"{text} Is the network up?") from None
        mend = None if isinstance(error, TypeError | ValueError) else mend_for(error)
        raise StoreRefusedError(f"{text} {mend or OPTIONS_MEND}") from None
    if scheme in ("s3", "s3a"):
        client.retries = 1
    elif scheme in ("gs", "gcs"):
        plain = getattr(type(client)._request, "__wrapped__", None)
        if plain is not None:  # else it retries for half a minute by itself, which is safe too
            client._request = _tried(plain.__get__(client), tries)
    return client, str(path)


def _tried(request: Callable[..., Awaitable[Any]], tries: int) -> Callable[..., Awaitable[Any]]:
    async def send(*arguments: Any, **named: Any) -> Any:
        for attempt in range(1, tries):
            try:
                return await request(*arguments, **named)
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:
                if mend_for(error) is not None:
                    raise
            await asyncio.sleep(random() * 2.0**attempt)
        return await request(*arguments, **named)

    return send


def has_bucket(client: Any, scheme: str, bucket: str) -> bool:
    """Return whether there is such a bucket, asked with the permission to list alone.

    The clients' own `exists` says no at any fault, and gcsfs's at an empty bucket too, where the
    account may not look at the bucket itself.
    """
    try:
        if scheme in ("s3", "s3a"):
            client.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
        elif scheme in ("gs", "gcs"):
            client.call("GET", f"b/{bucket}/o", maxResults=1, json_out=True)
        else:
            return bool(client.exists(bucket))
    except FileNotFoundError:
        return False
    return True


def modified_at(info: dict[str, Any]) -> float | None:
    """Return when an object was written, in seconds of the store's clock, or None."""
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str) and value:
            try:
                return datetime.fromisoformat(value).timestamp()
            except ValueError:
                continue
    return None


def _quiet(name: str) -> None:
    """Keep a client from printing tracebacks of what is told in one line here."""
    client_logger = logging.getLogger(name)
    if client_logger.level == logging.NOTSET:
        client_logger.setLevel(logging.CRITICAL)
