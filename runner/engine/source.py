"""Which version of the user's own code trains: the commit that the working folder is at."""

import functools
import shutil
import subprocess


@functools.cache
def git_commit() -> str:
    """Return the commit, "-dirty" behind it where files differ from it, or "" where there is none.

    Asked once: what a process has imported is what was there when it began.
    """
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
