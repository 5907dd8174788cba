"""Object stores for the tests, each a process of its own on a free port of this machine.

    with serving("s3") as server:
        store = open_store(server.url("runs"), storage_options=server.options)

What they are faithful in, and what not, is in tests/store/README.md.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runner.store.remote import FsspecStore
from runner.store.settings import OPTIONS_VARIABLE

BUCKET = "bucket"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running object store."""

    kind: str  #: "s3" or "gcs"
    port: int

    @property
    def options(self) -> dict[str, Any]:
        """What its client needs to reach it."""
        return self.through(self.port)

    def through(self, port: int) -> dict[str, Any]:
        """What a client needs to reach it through a proxy at `port`."""
        endpoint = f"http://127.0.0.1:{port}"
        if self.kind == "gcs":
            return {"token": "anon", "project": "test", "endpoint_url": endpoint}
        return {
            "key": "test",
            "secret": "testtest",
            "endpoint_url": endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
        }

    def url(self, folder: str) -> str:
        """Return the URL of a folder in its bucket."""
        return f"{'gs' if self.kind == 'gcs' else 's3'}://{BUCKET}/{folder}"

    def store(self, folder: str, *, port: int | None = None, **given: Any) -> FsspecStore:
        """Return the store in a folder of its bucket, through a proxy at `port` if given."""
        options = self.through(port or self.port)
        return FsspecStore(self.url(folder), storage_options=options, **given)

    def environment(self, *, port: int | None = None) -> dict[str, str]:
        """Return what another process needs in its environment to use it."""
        return {OPTIONS_VARIABLE: json.dumps(self.through(port or self.port))}


@contextmanager
def serving(kind: str, *flags: str) -> Iterator[Server]:
    """Run an object store until the block ends. `--dishonest`: it ignores conditions."""
    command = [sys.executable, "-m", f"tests.store.servers.{kind}", *flags]
    environment = {**os.environ, "AWS_EC2_METADATA_DISABLED": "true"}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the emulator prints every absent object
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            assert port.isdecimal(), f"{kind} server did not start"
            yield Server(kind=kind, port=int(port))
        finally:
            process.kill()
