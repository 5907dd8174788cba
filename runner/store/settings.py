"""Credentials come from the environment or the user's settings, and are shown to nobody.

A spec never holds them. The bucket libraries' own chains (application default credentials,
profiles, environment) work without any of this. Where options are needed:

    RUNNER_STORAGE_OPTIONS='{"profile": "lab"}'        for every store of this process
    ~/.config/runner/settings.json                     by URL prefix, the longest that fits:
        {"stores": {"s3://lab/": {"storage_options": {"profile": "lab"}},
                    "/content/drive/": {"single_writer": true}}}
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import SpecError

OPTIONS_VARIABLE = "RUNNER_STORAGE_OPTIONS"
SETTINGS_VARIABLE = "RUNNER_SETTINGS"  #: another place for the settings file
_KNOWN = ("storage_options", "single_writer")

# with a colon in it everything up to the last "@" may be a password, slashes and all
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+]*)://([^/@\s]+|[^/@\s]*:[^\s]*)@")
_BARE_USERINFO = re.compile(r"(?<![\w/:])[\w.+-]+:[^\s@'\"/]+@(?=[\w-])")  # user:password@bucket
_BEARER = re.compile(r"(?i)\b((?:bearer|basic)\s+)[^\s'\"]+")
_SECRET = re.compile(
    r"(?i)\b([\w-]*(?:password|passphrase|passwd|pwd|secret|token|signature|credential|access_?key|"
    r"api_?key|account_?key|private_?key|sas|sig)[\w-]*)(?<!Error)(\"?'?\s*[=:]\s*)"
    r"(\{[^}]*\}?|b?'[^']*'?|b?\"[^\"]*\"?|[^\s&;,'\"}]+)"
)


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """What the user's settings say about one store."""

    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)  #: for its client
    single_writer: bool = False  #: one process at a time uses it, the user says


def mask(text: str) -> str:
    """Return the text without the passwords, tokens and signatures in it.

    >>> mask("sftp://ann:geheim@nas/runs?sig=abc")
    'sftp://***@nas/runs?sig=***'
    """
    text = _BARE_USERINFO.sub("***@", _USERINFO.sub(_masked_user, text))
    return _SECRET.sub(r"\1\2***", _BEARER.sub(r"\1***", text))


def _masked_user(found: re.Match[str]) -> str:
    scheme, user = found.groups()
    if scheme.lower() in ("abfs", "abfss") and ":" not in user:
        return found[0]  # there it is the container's name
    return f"{scheme}://***@"


def settings_for(url: str, environment: Mapping[str, str] = os.environ) -> StoreSettings:
    """Return the settings of the store at `url`. A settings file that is wrong: SpecError."""
    path = Path(environment.get(SETTINGS_VARIABLE) or _default_path(environment))
    settings = _load(path)
    if unknown := set(settings) - {"stores"}:
        raise SpecError(
            f"{path} has {', '.join(sorted(unknown))}. Known: stores, such as "
            '{"stores": {"s3://lab/": {"storage_options": {"profile": "lab"}}}}.'
        )
    stores = _object(settings, "stores", path)
    fitting = max((prefix for prefix in stores if url.startswith(prefix)), key=len, default=None)
    found = {} if fitting is None else _object(stores, fitting, path)
    unknown = set(found) - set(_KNOWN)
    if unknown:
        raise SpecError(
            f"{path}: stores[{mask(fitting or '')!r}] has {', '.join(sorted(unknown))}. "
            f"Known: {', '.join(_KNOWN)}."
        )
    options = _object(found, "storage_options", path)
    if environment.get(OPTIONS_VARIABLE):
        options = {**options, **_parse(environment[OPTIONS_VARIABLE], f"${OPTIONS_VARIABLE}")}
    return StoreSettings(
        storage_options=options, single_writer=found.get("single_writer", False) is True
    )


def _default_path(environment: Mapping[str, str]) -> Path:
    # where a user has no home, "~" stays, and names no file
    home = environment.get("XDG_CONFIG_HOME") or Path(os.path.expanduser("~")) / ".config"  # noqa: PTH111
    return Path(home) / "runner" / "settings.json"


def _load(path: Path) -> dict[str, Any]:
    try:
        return _parse(path.read_text("utf-8"), str(path))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} can't be read ({error}). Fix or remove it.") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    """Return the JSON object in `text`, which is never shown: it may hold secrets."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SpecError(f'{where} is not a JSON object, such as {{"profile": "lab"}}.')
    return found


def _object(parent: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    found = parent.get(name, {})
    if not isinstance(found, dict):
        raise SpecError(f"{path}: {mask(name)} has to be a JSON object.")
    return found
