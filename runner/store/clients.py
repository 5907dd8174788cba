"""How the clients of fsspec have to be set up to be honest, and what they call a time.

gcsfs has no timeout of its own (a stalled request still hung after 330 s) and makes six tries in
half a minute, whatever it is told; s3fs and botocore both retry, each inside the other. Retrying
is done in one place, `patience.patiently`, which says so. Only uploads in parts have tries of their
own for each part, else a long one would never end on a bad line.
"""

import asyncio
import inspect
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from difflib import get_close_matches
from random import random
from typing import Any

from runner.errors import StoreError, StoreRefusedError
from runner.store.allowed import check_address
from runner.store.patience import NO_S3, OPTIONS_FIX, brief, fix_for, refused
from runner.store.schemes import PACKAGES, WEB, split
from runner.store.settings import mask

_CONNECT_SECONDS = 10.0
_SILENT_SECONDS = 30.0  # without a byte from the server
_REQUEST_SECONDS = 600.0  # one part of an upload on a slow line
_ANY_CLIENT = {"use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache"}
_SESSION = {"profile", "session_vars", "event_hooks", "include_builtin_handlers"}  # botocore's
_TEXTS = ("key", "secret", "token", "profile", "endpoint_url")  # of s3fs
#: of objects that browsers show, by the end of their keys; all others are downloaded
_SHOWN = {".html": "text/html; charset=utf-8", ".png": "image/png"}
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified")


def _options(scheme: str, given: dict[str, Any], tries: int) -> dict[str, Any]:
    """Return the options of the client; those given by the user win, but for the caches."""
    options, client = dict(given), PACKAGES.get(scheme)
    if client == "s3fs":
        config = {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _SILENT_SECONDS,
            "retries": {"total_max_attempts": tries, "mode": "standard"},
        }
        options["config_kwargs"] = {**config, **options.get("config_kwargs", {})}
    elif client == "gcsfs":
        from aiohttp import ClientTimeout

        # Zonal buckets, which ignore the condition, are what this variable is for
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        if (log := logging.getLogger("gcsfs")).level == logging.NOTSET:
            log.setLevel(logging.CRITICAL)  # it prints tracebacks of what is one line here
        options.setdefault(
            "requests_timeout",
            ClientTimeout(
                total=_REQUEST_SECONDS, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS
            ),
        )
    elif scheme in WEB:
        from aiohttp import ClientTimeout

        options["get_client"] = _web_client
        options["client_kwargs"] = {
            "timeout": ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
        }
    elif client is None:
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


def _check_texts(given: Mapping[str, Any]) -> None:
    """Refuse values that an S3 client would fail with, in words of its own."""
    for name in _TEXTS:
        if not isinstance(value := given.get(name), str | None):
            shown = "a secret" if name == "secret" else mask(f"{value!r:.40}")
            msg = f"the storage option {name}: received {shown}; expected a text. {OPTIONS_FIX}"
            raise StoreRefusedError(msg)
    endpoint = given.get("endpoint_url")
    if isinstance(endpoint, str) and "://" not in endpoint:
        msg = f"the storage option endpoint_url: received {mask(endpoint)!r}; expected http:// or"
        raise StoreRefusedError(f"{msg} https:// before it. {OPTIONS_FIX}")


def _check_options(client: type, scheme: str, given: Mapping[str, Any]) -> None:
    """Refuse options that a bucket's client does not know: most take any, and ignore them."""
    if PACKAGES[scheme] == "s3fs":
        _check_texts(given)
    makers = [vars(one)["__init__"] for one in client.__mro__ if "__init__" in vars(one)]
    known = {name for one in makers for name in inspect.signature(one).parameters}
    known |= _ANY_CLIENT | (_SESSION if PACKAGES[scheme] == "s3fs" else set())
    for name in set(given) - known:
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise StoreRefusedError(
            f"{scheme}:// has no storage option {mask(repr(name))}.{hint} {OPTIONS_FIX} Those in "
            "the variable go to every bucket; the file keeps them apart."
        )


def make_client(url: str, given: dict[str, Any], *, tries: int = 1) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    It sends each request up to `tries` times by itself.
    """
    scheme, _ = split(url)
    package = PACKAGES.get(scheme)
    try:
        from fsspec import get_filesystem_class
        from fsspec.core import url_to_fs

        options = _options(scheme, given, tries)  # before gcsfs is imported
        if package:
            _check_options(get_filesystem_class(scheme), scheme, given)
        client, path = url_to_fs(url, **options)
    except StoreError:
        raise
    except ImportError as error:
        raise StoreRefusedError(
            f"{scheme}:// needs a package that is not installed ({error})."
            + (f" Install it: pip install '{package}'." if package else "")
        ) from error
    except Exception as error:  # noqa: BLE001 - clients raise anything, and show what they got
        raise _not_opened(url, error) from None
    if package == "s3fs":
        client.retries = 1
    elif package == "gcsfs":
        plain = getattr(type(client)._request, "__wrapped__", None)
        if plain is not None:  # else it retries for half a minute by itself, which is safe too
            client._request = _tried(plain.__get__(client), tries)
    return client, str(path)


def _not_opened(url: str, error: Exception) -> StoreError:
    text = f"{mask(url)} can't be opened ({brief(error)})."
    if isinstance(error, OSError) and fix_for(error) is None:
        return StoreError(f"{text} Is the network up?")
    fix = None if isinstance(error, TypeError | ValueError) else fix_for(error)
    return StoreRefusedError(f"{text} {fix or OPTIONS_FIX}")


def _tried(request: Callable[..., Awaitable[Any]], tries: int) -> Callable[..., Awaitable[Any]]:
    async def send(*arguments: Any, **named: Any) -> Any:
        for attempt in range(1, tries):
            try:
                return await request(*arguments, **named)
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:
                if fix_for(error) is not None:
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
        if PACKAGES.get(scheme) == "s3fs":
            client.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
        elif PACKAGES.get(scheme) == "gcsfs":
            client.call("GET", f"b/{bucket}/o", maxResults=1, json_out=True)
        else:
            return bool(client.exists(bucket))
    except FileNotFoundError as error:
        said = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", "")
        if said == "404":  # no word of S3's, such as NoSuchBucket
            raise refused(f"opening bucket {bucket}", error, NO_S3) from error
        return False
    return True


def modified_at(info: Mapping[str, Any]) -> float | None:
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


def shown_as(scheme: str, key: str) -> dict[str, Any]:
    """Return what a client's `pipe_file` is told of an object that browsers show.

    Without a type a page would be downloaded, and GCS lets browsers keep a public object for an
    hour. adlfs has no stable way to say either: there a page is downloaded.
    """
    kind, client = _SHOWN.get(key[key.rfind(".") :]), PACKAGES.get(scheme)
    if kind and client == "gcsfs":
        return {"content_type": kind, "fixed_key_metadata": {"cache_control": "no-cache"}}
    if kind and client == "s3fs":
        return {"ContentType": kind, "CacheControl": "no-cache"}
    return {}
