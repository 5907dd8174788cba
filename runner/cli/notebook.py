"""`runner notebook`: write a notebook that trains on Colab or Kaggle, and resumes the next day.

The text lies beside this file, in `notebooks/`, as Markdown: a block of Python is a cell, the words
after "python" are the cell's tags. Cells that only the platform itself can run (its mount, its
secrets) have the tag "platform", the one to edit has "parameters".
"""

import argparse
import base64
import hashlib
import io
import json
import os
import posixpath
import pprint
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Any

from runner import registry
from runner.cli.code_cell import brought
from runner.cli.common import say, write_file
from runner.cli.specs import add_set_option, load_all, local_paths
from runner.code import folder as code_folder
from runner.errors import SpecError
from runner.exit import Exit
from runner.spec import JobSpec
from runner.store.schemes import HONEST, PACKAGES, split
from runner.store.settings import OPTIONS_VARIABLE, mask, settings_for

FOLDER = Path(__file__).parent / "notebooks"
PACKAGE = "keras-runner"
S3_CLIENT = "s3fs>=2024.12"  #: of the extra s3
#: storage options that may be in a notebook, and what is in them
_PUBLIC = (
    "endpoint_url", "region_name", "use_ssl", "anon", "requester_pays", "project", "account_name",
    "signature_version", "client_kwargs", "config_kwargs", "s3", "addressing_style",
)  # fmt: skip
_CODE = re.compile(r"^```python *(?P<tags>[a-z ]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
#: the store's scheme → the text about it; "" where no store is named
_STORES = {
    "colab": {"": "colab-drive", "gs": "colab-gs", "gcs": "colab-gs", "s3": "colab-s3"},
    "kaggle": {"": "kaggle-working", "gs": "kaggle-gs", "gcs": "kaggle-gs", "s3": "kaggle-s3"},
}
#: where the platform itself can keep jobs, and where it does if no store is named
_FOLDERS = {
    "colab": ("/content/drive", "/content/drive/MyDrive/runner"),
    "kaggle": ("/kaggle", "/kaggle/working/runner"),
}
#: what the first words on Kaggle promise: of a bucket, of the session's disk
_ELSEWHERE = """\
The jobs of
this notebook live elsewhere (see *The store*). Run all cells again in a new session: the training
goes on after its last checkpoint, with the same numbers as if nothing had happened."""
_ON_ITS_DISK = """\
The jobs of
this notebook live on the session's own disk: they go with it unless you keep them (see *The
store*)."""
_METADATA: dict[str, dict[str, Any]] = {
    "colab": {"accelerator": "GPU", "colab": {"gpuType": "T4"}},
    "kaggle": {
        "kaggle": {
            "accelerator": "nvidiaTeslaT4",
            "dataSources": [],
            "isGpuEnabled": True,
            "isInternetEnabled": True,
            "language": "python",
            "sourceType": "notebook",
        }
    },
}
_GPUS = {"colab": 1, "kaggle": 2}  #: of one machine, at most
#: of a cell that is long and of no interest: JupyterLab, Kaggle and Colab hide its source
_HIDDEN = {"jupyter": {"source_hidden": True}, "_kg_hide-input": True, "cellView": "form"}
_TITLE = "#@title"  #: it begins with
_CARRIED = """\
#@title Install runner (this cell carries the package)
import base64, pathlib, tempfile

wheel = pathlib.Path(tempfile.gettempdir(), "{name}")
wheel.write_bytes(base64.b64decode(\"\"\"
{content}\"\"\"))
%pip install --quiet "{{wheel}}"{client}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `notebook`."""
    add = parser.add_argument
    add("platform", choices=sorted(_STORES), help="where it is to run")
    specs = "your jobs (default: a small example)"
    add("spec", metavar="SPEC", nargs="*", type=Path, default=[], help=specs)
    add_set_option(parser)
    file = "default: runner-PLATFORM.ipynb"
    add("-o", "--output", metavar="FILE", type=Path, help=file)
    store = "bucket of the jobs (default: your Drive on Colab, /kaggle/working on Kaggle)"
    add("--store", metavar="URL", help=store)
    install = (
        "what pip installs there: a URL such as git+https://…, or a wheel's path there (default:"
        " the notebook carries this package inside itself)"
    )
    add("--install", metavar="REQUIREMENT", help=install)
    own = (
        "your own programs/, models/ and datasets/: a public repository, https://HOST/YOU/STUDY@TAG,"
        " or a folder, whose files the notebook then carries"
    )
    add("--code", dest="own_code", metavar="URL|DIR", help=own)


def run(options: argparse.Namespace) -> int:
    """Write the file; its name on standard output."""
    path: Path = options.output or Path(f"runner-{options.platform}.ipynb")
    store, install, code = _given(
        store=options.store, install=options.install, code=options.own_code
    )
    options.spec = options.spec or [FOLDER / "job.json"]
    with brought(code) as cell:
        specs = [spec for _, spec in load_all(options)]
        if not cell:
            _refuse_own(specs)
        _say_what_is_missing(specs, options.platform)
    notebook = make(options.platform, specs, store=store, requirement=install, code=cell)
    content = (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()
    if options.output is None and path.is_file() and path.read_bytes() != content:
        raise SpecError(f"{path} is there already, with other content; -o {path} writes over it")
    write_file(path, content)
    print(path)
    return Exit.DONE


def _given(**options: str | None) -> list[str]:
    """Return the options' texts; "" for one that was left out."""
    for name, value in options.items():
        if value == "":
            raise SpecError(f"--{name} received ''; leave it out for the default")
    return [value or "" for value in options.values()]


def make(
    platform: str, specs: Sequence[JobSpec], *, store: str, requirement: str, code: str = ""
) -> dict[str, Any]:
    """Return a notebook (format 4.5) as JSON.

    Args:
        platform: "colab" or "kaggle".
        specs: the jobs that it submits.
        store: URL of the jobs; "" for what the platform itself offers.
        requirement: what pip installs; "" for this package, which the notebook then carries.
        code: source of the cell that brings the user's own code; "" for none.

    Raises:
        SpecError: the URL holds credentials, which everybody who sees the notebook would have;
            it is a folder of this machine; pip could not use the requirement; or this package was
            never installed.
    """
    folder = _folder(platform, store)
    bucket = "" if folder else store
    kind = _STORES[platform].get(bucket.partition("://")[0], "other")
    before, _, after = _text(kind).partition("\n---\n")
    own = _text("code").replace("{{code}}", code.strip()) if code else ""
    text = "\n\n".join([_text(platform), own, before, _text("work"), after])
    given = [
        spec.model_dump(mode="json", exclude={"schema_"}, exclude_unset=True, by_alias=True)
        for spec in specs
    ]
    urls = [bucket, *((one.program or one.data).path or "" for one in specs)]
    install = _install(requirement, urls)
    text = text.replace("{{store}}", json.dumps(folder or store) + _options_of(urls))
    text = text.replace("{{place}}", _ON_ITS_DISK if folder else _ELSEWHERE)
    text = text.replace("{{jobs}}", pprint.pformat(given, width=100, sort_dicts=False))
    text = text.replace("{{install}}", install)
    metadata: dict[str, Any] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        **_METADATA[platform],
    }
    cells = [cell | {"id": f"cell-{number}"} for number, cell in enumerate(_cells(text))]
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _options_of(urls: Sequence[str]) -> str:
    """The lines that set what the clients of these buckets need, but for what is secret.

    Raises:
        SpecError: an endpoint holds credentials.
    """
    found: dict[str, Any] = {}
    for url in urls:
        scheme = split(url)[0]
        if scheme in HONEST:
            given = dict(settings_for(url).storage_options)
            if PACKAGES[scheme] == "s3fs" and (endpoint := next(filter(None, _endpoints()), None)):
                given.setdefault("endpoint_url", endpoint)
            public = _public(given)
            if secret := ", ".join(sorted(given.keys() - public.keys())):
                say(f"{url}: the notebook does not have the storage options {mask(secret)}")
            if found not in ({}, public):
                say(f"{url}: its storage options are not those that the notebook has for a bucket")
            found = found or public
    set_them = f'\nos.environ["{OPTIONS_VARIABLE}"] = {json.dumps(found)!r}'
    if mask(set_them) != set_them:
        raise SpecError(
            "the storage option endpoint_url holds credentials, and a notebook is shown and shared"
        )
    return set_them if found else ""


def _endpoints() -> Iterator[str | None]:
    return map(os.environ.get, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))


def _public(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are no secret: where a server is, and how it is spoken to."""
    known = {name: value for name, value in options.items() if name in _PUBLIC}
    return {
        name: _public(value) if isinstance(value, dict) else value for name, value in known.items()
    }


def _folder(platform: str, store: str) -> str:
    """Return the folder there that holds the jobs; "" for a bucket.

    Raises:
        SpecError: it is a folder of this machine, or a URL with credentials.
    """
    if mask(store) != store:
        msg = f"--store received {mask(store)}: a notebook is shown and shared, so its URL may hold"
        raise SpecError(f"{msg} no credentials. The notebook says where they go.")
    root, default = _FOLDERS[platform]
    path = store.removeprefix("file://")
    if "://" in path:
        return ""
    if path and not PurePosixPath(posixpath.normpath(path)).is_relative_to(root):
        msg = f"--store received {store}: a folder of this machine is not there where the notebook"
        raise SpecError(f"{msg} runs. Name a bucket, or a folder under {root}.")
    return path or default


def _text(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def _cells(text: str) -> Iterator[dict[str, Any]]:
    end = 0
    for block in [*_CODE.finditer(text), None]:
        words = text[end : block.start() if block else len(text)].strip()
        if words:
            yield {
                "cell_type": "markdown",
                "metadata": {},
                "source": words.splitlines(keepends=True),
            }
        if block:
            end = block.end()
            code = block["code"].strip()
            if code.splitlines()[-1].startswith("runner.run("):
                code += ";"  # its exit code is not to be shown as the cell's value
            tags = {"tags": block["tags"].split()} if block["tags"] else {}
            yield {
                "cell_type": "code",
                "metadata": _HIDDEN if code.startswith(_TITLE) else tags,
                "source": code.splitlines(keepends=True),
                "execution_count": None,
                "outputs": [],
            }


def _install(requirement: str, urls: Sequence[str]) -> str:
    """The code that installs this package, and what opens these URLs."""
    s3 = any(url.startswith(("s3://", "s3a://")) for url in urls)
    client = f' "{S3_CLIENT}"' if s3 else ""
    if not requirement:
        name, wheel = _wheel()
        content = base64.encodebytes(wheel).decode()
        return _CARRIED.format(name=name, content=content, client=client)
    if any(not character.isprintable() or character in "\"'$`\\" for character in requirement):
        msg = f"--install received {requirement!r}: expected what pip installs, without quotes,"
        raise SpecError(f"{msg} variables or line breaks, such as git+https://HOST/REPOSITORY")
    return f'%pip install --quiet "{requirement}"{client}'


def _wheel() -> tuple[str, bytes]:
    """Return name and content of this package as a wheel: no index has it, a clone may be private.

    It holds the networks and data sets that its user has added. Its version names its content,
    since pip would keep an older one of the same version.

    Raises:
        SpecError: the package was never installed, so that what it needs is not known.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        msg = "this runner was never installed, so a notebook can't carry it. From your clone:"
        msg += " pip install . (or name what the notebook installs with --install)."
        raise SpecError(msg) from None
    root = Path(registry.__file__).parent
    files = {
        f"runner/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }
    sums = {name: _sum(content) for name, content in files.items()}
    version = f"{package.version}+{hashlib.sha256(repr(sums).encode()).hexdigest()[:12]}"
    stem = f"{PACKAGE.replace('-', '_')}-{version}"
    metadata = re.sub(r"(?m)^Version: .*", f"Version: {version}", _of(package, "METADATA"), count=1)
    texts = {
        "METADATA": metadata,
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": _of(package, "entry_points.txt"),
    }
    files |= {f"{stem}.dist-info/{name}": text.encode() for name, text in texts.items()}
    record = [f"{name},{_sum(content)},{len(content)}\n" for name, content in files.items()]
    files[f"{stem}.dist-info/RECORD"] = f"{''.join(record)}{stem}.dist-info/RECORD,,\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return f"{stem}-py3-none-any.whl", packed.getvalue()


def _of(package: Distribution, name: str) -> str:
    """A file that the installation keeps of the package."""
    return package.read_text(name) or ""


def _sum(content: bytes) -> str:
    """The hash of a file, as a wheel's RECORD has it."""
    digest = hashlib.sha256(content).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def _refuse_own(specs: Sequence[JobSpec]) -> None:
    """Refuse jobs of code that is here (RUNNER_CODE) and would not be in the notebook.

    Raises:
        SpecError: says what to name.
    """
    here = code_folder()
    for kind, name in _entries(specs):
        if registry.is_own(kind, name):
            msg = f"{kind}/{name}.py is in {here}, which the notebook would not have. Name the"
            msg += " folder's repository, --code https://HOST/YOU/STUDY@TAG, or let the notebook"
            raise SpecError(f"{msg} carry its files, for everybody who sees it: --code {here}")


def _entries(specs: Sequence[JobSpec]) -> list[tuple[registry.Kind, str]]:
    """The entries that jobs name."""
    return sorted(
        {
            (kind, getattr(spec, part).name)
            for spec in specs
            for part, kind in registry.kinds_of({"program": spec.program}).items()
        }
    )


def _say_what_is_missing(specs: Sequence[JobSpec], platform: str) -> None:
    """Name what the jobs need and the notebook does not bring."""
    names = {spec.name for spec in specs}
    for spec in specs:
        for label in spec.requirements.labels:
            say(f"{spec.name} stays queued there: the notebook's worker has no label {label!r}")
        asked = [spec.training.devices, spec.requirements.devices]
        most = _GPUS[platform]
        if any(isinstance(one, int) and one > most for one in asked):
            say(f"{spec.name} stays queued there: {platform} has no more GPUs than {most}")
        for name in sorted({*spec.after} - names):
            say(f"{spec.name} waits for {name!r}, which is no job of the notebook")
    for path in local_paths(specs):
        say(f"{path} is of this machine: give a URL, or where the file is in the notebook")
    for kind, name in _entries(specs):
        package = registry.package_of(kind, name)
        if package:
            say(f"{name!r} is of the package {package}: add a cell that installs it there")
