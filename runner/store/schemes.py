"""What the scheme of a URL means: which client opens it, and whether machines may share it.

Only an honest create-if-absent makes sharing safe. Buckets have one; everywhere else every racer
was told that it had won (measured, for instance on SFTP), or nothing says that it would not be. A
folder that is a mount of a bucket or a drive may be used by one process at a time: that is what
`single_writer` promises.
"""

import re
from pathlib import Path

from runner.errors import StoreRefusedError
from runner.store.settings import mask

#: the buckets with an honest create, and the package of each one's client
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
HONEST = frozenset(PACKAGES)
LOCAL = frozenset({"file", "local", "memory"})  #: what is this machine's own
WEB = frozenset({"http", "https"})

# Mounts show a bucket or a drive as a folder, and promise more than they can keep.
_BUCKET = "use the bucket's own URL instead"
_MOUNTS = {
    "fuse.drive": "Drive keeps two files of one name",
    "fuse.rclone": "rclone's mount checks and then writes",
    "fuse.sshfs": "SFTP has no create-if-absent",
    **dict.fromkeys(("fuse.gcsfuse", "gcsfuse", "fuse.s3fs", "fuse.goofys"), _BUCKET),
    **dict.fromkeys(("fuse.mountpoint-s3", "fuse.blobfuse2"), _BUCKET),
}
_DRIVE = "/content/drive"
_MOUNT_TABLE = Path("/proc/self/mounts")


def split(url: str) -> tuple[str, str]:
    """Return the scheme of a URL in lower case, and the rest; a plain path is a file's."""
    scheme, separator, rest = url.partition("://")
    return (scheme.lower(), rest) if separator else ("file", url)


def _check_folder(url: str) -> None:
    if "://" not in url and re.match(r"[A-Za-z][\w+.-]*:", url) and not Path(url).exists():
        raise StoreRefusedError(
            f"{mask(url)} is no URL of a store: write gs://, s3:// or az://BUCKET/FOLDER, or "
            f"./{mask(url)} for a folder of that name."
        )


def check_url(url: str) -> None:
    """Raise StoreRefusedError for a URL that is not that of a store which machines may share."""
    _check_slashes(url)
    scheme, rest = split(url)
    if scheme in ("file", "local"):
        _check_folder(url)
        return
    if scheme in HONEST and re.search(r"[?#]", rest):
        raise StoreRefusedError(
            f"{mask(url)} is no URL of a store: write {scheme}://BUCKET/FOLDER."
        )
    if scheme not in HONEST:
        from fsspec import available_protocols

        if not {*scheme.split("::")} <= {*available_protocols()}:
            raise StoreRefusedError(
                f"{mask(url)}: no store is known by {scheme}://. Use a gs://, s3:// or az:// "
                "bucket, or a local folder."
            )
        raise StoreRefusedError(
            f"{mask(url)} can't hold jobs: of two writers, both could be told there that they were "
            "first. Use a gs://, s3:// or az:// bucket, or a local folder. Data may lie there "
            "(data.path)."
        )
    if rest.startswith("/") or not rest:
        raise StoreRefusedError(f"{mask(url)} names no bucket: write {scheme}://BUCKET/FOLDER.")
    if PACKAGES[scheme] != "adlfs" and re.match(r"[^/@]*@|[^/@]*:.*@", rest):
        raise StoreRefusedError(
            f"{scheme}://***@... holds credentials, and URLs are shown and stored. Write "
            f"{scheme}://BUCKET/FOLDER; log in with the bucket's own tools, or give key and secret "
            "in RUNNER_STORAGE_OPTIONS."
        )


def _check_slashes(url: str) -> None:
    """Raise StoreRefusedError for a URL with too few slashes or too many, with the right one."""
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower()
    if not colon or scheme not in HONEST | {"file"}:
        return
    if rest.startswith("//") and (scheme not in HONEST or "//" not in rest[2:]):
        return
    path = rest.lstrip("/")
    right = f"file:///{path}" if scheme == "file" else f"{scheme}://{re.sub('/+', '/', path)}"
    raise StoreRefusedError(f"{mask(url)} is no URL of a store: write {mask(right)}")


def check_folder(folder: Path, *, single_writer: bool, table: Path = _MOUNT_TABLE) -> None:
    """Raise StoreRefusedError for a folder that is a bucket or a drive in disguise."""
    if single_writer:
        return
    kind = "fuse.drive" if folder.is_relative_to(_DRIVE) else _mounted_as(folder, table)
    if kind in _MOUNTS:
        raise StoreRefusedError(
            f"{folder} (mounted as {kind}) can't be shared: {_MOUNTS[kind]}. Use a gs://, s3:// or "
            "az:// bucket or a local folder, or promise that one process at a time works there: "
            '{"stores": {"FOLDER": {"single_writer": true}}} in ~/.config/runner/settings.json.'
        )


def _mounted_as(folder: Path, table: Path) -> str:
    """Return the type of the file system that holds a folder; "" where that can't be told."""
    try:
        lines = [line.split() for line in table.read_text().splitlines()]
    except OSError:
        return ""
    mounts = [(Path(line[1].replace("\\040", " ")), line[2]) for line in lines if len(line) > 2]
    holding = [mount for mount in mounts if folder.is_relative_to(mount[0])]
    return max(holding, key=lambda mount: len(mount[0].parts), default=(Path("/"), ""))[1]
