"""Where several machines may share a store, and why not elsewhere.

Only an honest create-if-absent makes sharing safe. On the places named here every racer was
told that it had won (measured), or nothing says that it would not be. They are refused. A folder
that is a mount of one may be used by one process at a time: that is what `single_writer` promises.
"""

import re
from pathlib import Path

from runner.errors import StoreRefusedError
from runner.store.settings import mask

HONEST = frozenset({"gs", "gcs", "s3", "s3a", "az", "abfs", "abfss"})

_REASONS = {
    "sftp": "SFTP has no create-if-absent: every racer wins",
    "ssh": "SFTP has no create-if-absent: every racer wins",
    "ftp": "FTP has no create-if-absent",
    "hf": "a Hugging Face repository takes every commit. Its buckets work through their S3 gateway",
    "smb": "its client checks and then writes",
    "webdav": "WebDAV servers differ in what they do with conditions",
    "dropbox": "Dropbox keeps both of two racers' files",
    "gdrive": "Drive keeps two files of one name",
    "github": "it is a repository, not a bucket",
    "http": "it can be read only",
    "https": "it can be read only",
}
# Mounts show a bucket or a drive as a folder, and promise more than they can keep.
_MOUNTS = {
    "fuse.drive": "Drive keeps two files of one name",
    "fuse.rclone": "rclone's mount checks and then writes",
    "fuse.gcsfuse": "use the gs:// URL instead",
    "gcsfuse": "use the gs:// URL instead",
    "fuse.s3fs": "use the s3:// URL instead",
    "fuse.goofys": "use the s3:// URL instead",
    "fuse.mountpoint-s3": "use the s3:// URL instead",
    "fuse.sshfs": "SFTP has no create-if-absent",
    "fuse.blobfuse2": "use the az:// URL instead",
}
_DRIVE = "/content/drive"
_MOUNT_TABLE = Path("/proc/self/mounts")


def check_url(url: str) -> None:
    """Raise StoreRefusedError where several writers could both believe that they own a job."""
    scheme = url.partition("://")[0].lower()
    if scheme not in HONEST:
        reason = _REASONS.get(scheme, "it is not known to create objects exclusively")
        raise StoreRefusedError(
            f"{mask(url)} can't hold jobs: {reason}. Use a gs://, s3:// or az:// bucket, or a "
            "local folder. Data may lie there (data.path)."
        )


def check_slashes(url: str) -> None:
    """Raise StoreRefusedError for a URL with too few slashes or too many, and say it right."""
    scheme, colon, rest = url.partition(":")
    if not colon or scheme.lower() not in HONEST | _REASONS.keys() | {"file", "memory"}:
        return
    right = f"{scheme}://" + re.sub("/+", "/", rest.lstrip("/"))
    if scheme.lower() == "file":
        right = f"{scheme}:///{rest.lstrip('/')}"
    wrong = not rest.startswith("//") or (scheme.lower() in HONEST and "//" in rest[2:])
    if wrong:
        raise StoreRefusedError(f"{mask(url)} is no URL of a store: write {mask(right)}")


def check_no_credentials(scheme: str, rest: str) -> None:
    """Raise StoreRefusedError for a bucket's URL that holds a user or a password."""
    user = re.match(r"[^/@]*@|[^/@]*:.*@", rest)
    if user and scheme in ("gs", "gcs", "s3", "s3a"):
        raise StoreRefusedError(
            f"{scheme}://***@... holds credentials, and URLs are shown and stored. Write "
            f"{scheme}://BUCKET/FOLDER; log in with the bucket's own tools, or give key and secret "
            "in RUNNER_STORAGE_OPTIONS."
        )


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
