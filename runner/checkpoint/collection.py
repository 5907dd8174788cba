"""What no checkpoint refers to is garbage, once nobody can refer to it any more.

A death between writing and committing leaves packs and manifests behind. They are collected
only under older tokens than the current one (their writers can't commit), only where every kept
manifest could be read (else something in use might look unused), and only after a long grace.
"""

import re
from collections.abc import Collection

from runner.store.base import Store

GRACE_SECONDS = 24 * 3600.0  #: what is younger by the store's own clock stays

_TOKEN = re.compile(r"t(\d+)-[^/]*")
_OWN = re.compile(
    r"head\.json|log/\d+\.json|checkpoints/t\d+-s\d+-[0-9a-f]+\.json"
    r"|packs/t\d+-[0-9a-f]+(-copy)?\.safetensors"
)


def is_own(name: str) -> bool:
    """Whether a name below a training's folder is of a kind that is written here.

    Nothing else is ever deleted: people put files of their own anywhere.
    """
    return _OWN.fullmatch(name) is not None


def unreferenced(store: Store, folder: str, *, token: int, used: Collection[str]) -> list[str]:
    """Return the keys of packs and manifests that can be deleted.

    Args:
        store: where they lie.
        folder: of the job, "" or ending in "/".
        token: the current one; only what older ones wrote is returned.
        used: packs and manifests of all checkpoints that count.
    """
    found = [*store.list(f"{folder}packs/"), *store.list(f"{folder}checkpoints/")]
    own = [key for key in found if is_own(key.removeprefix(folder))]
    candidates = [key for key in own if key not in used and _is_older(key, token)]
    return [key for key in candidates if (store.age(key) or 0.0) >= GRACE_SECONDS]


def _is_older(key: str, token: int) -> bool:
    match = _TOKEN.fullmatch(key.rsplit("/", 1)[-1])
    return match is not None and int(match[1]) < token
