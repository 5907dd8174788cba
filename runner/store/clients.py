"""How the clients of fsspec have to be set up to be honest, and what they call a time.

gcsfs has no timeout of its own (a stalled request still hung after 330 s); s3fs and botocore
both retry, each inside the other. Retrying is done in one place, `faults.patiently`.
"""

import logging
import os
from datetime import datetime
from typing import Any

from runner.errors import StoreRefusedError
from runner.store.settings import mask

_CONNECT_SECONDS = 10.0
_SILENT_SECONDS = 30.0  # without a byte from the server
_REQUEST_SECONDS = 600.0  # one part of an upload on a slow line
_PACKAGES = {
    "s3": "keras-runner[s3]",
    "s3a": "keras-runner[s3]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified")


def client_options(scheme: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the client; those given by the user win, but for the caches."""
    options = dict(given)
    if scheme in ("s3", "s3a"):
        config = {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _SILENT_SECONDS,
            "retries": {"total_max_attempts": 1},
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
    return {**options, "use_listings_cache": False, "skip_instance_cache": True}


def make_client(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it."""
    scheme = url.partition("://")[0].lower()
    try:
        from fsspec.core import url_to_fs

        client, path = url_to_fs(url, **options)
    except ImportError as error:
        package = _PACKAGES.get(scheme, "its fsspec package")
        raise StoreRefusedError(
            f"{scheme}:// needs a package that is not installed ({error}). "
            f"Install it: pip install '{package}'."
        ) from error
    except (TypeError, ValueError) as error:
        raise StoreRefusedError(
            f"{mask(url)} can't be opened ({mask(str(error))}). Mend the URL, or the "
            "storage_options in RUNNER_STORAGE_OPTIONS or the settings file."
        ) from error
    if scheme in ("s3", "s3a"):
        client.retries = 1
    return client, str(path)


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
