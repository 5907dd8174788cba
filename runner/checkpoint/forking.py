"""A checkpoint is brought into another job's folder: from then on it is that job's own.

Nothing refers from job to job: whatever becomes of the one that it came from, collected, trained
on or removed, the other has all it needs. The packs get a second name inside the store, and no
byte of them travels. Their names end in their content, so that the same again changes nothing.
"""

import re
from dataclasses import replace

from runner.checkpoint.manifest import Manifest, Pack, Reference, name_of
from runner.errors import CheckpointError, ConflictError, NotFoundError
from runner.store.base import Store

TOKEN = 0  #: in the names of what was brought: no owner has it


def bring(store: Store, manifest: Manifest, folder: str) -> Reference:
    """Bring a checkpoint into a folder such as "jobs/cats"; it counts once a record names it.

    Args:
        store: in which all of it lies.
        manifest: of the checkpoint, as the other job is to find it.
        folder: of the other job.

    Raises:
        CheckpointError: a pack is missing or damaged. It may have been collected meanwhile.
        ConflictError: the folder is being removed.
    """
    packs = tuple(_bring_pack(store, pack, folder) for pack in manifest.packs)
    data = replace(manifest, packs=packs).to_bytes()
    step = manifest.position.global_step
    key = f"{folder}/checkpoints/t{TOKEN}-s{step}-{name_of(data)}.json"
    store.put(key, data)
    return manifest.reference(key)


def is_brought(reference: Reference) -> bool:
    """Whether a checkpoint is another job's work."""
    return reference.manifest.rpartition("/")[2].startswith(f"t{TOKEN}-")


def _bring_pack(store: Store, pack: Pack, folder: str) -> Pack:
    name = re.sub(r"^t\d+-", f"t{TOKEN}-", pack.key.rpartition("/")[2])
    brought = pack._replace(key=f"{folder}/packs/{name}")
    try:
        store.duplicate(pack.key, brought.key)
    except NotFoundError:
        raise CheckpointError(f"{pack.key} is missing.") from None
    size = store.size(brought.key)
    if size is None:
        msg = f"{brought.key} was deleted as it was written: an earlier job of that name is removed"
        raise ConflictError(f"{msg}. Try again once that has ended.")
    if size != pack.bytes:
        raise CheckpointError(f"{pack.key} is damaged: {size} bytes, expected {pack.bytes}.")
    return brought
