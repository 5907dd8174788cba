"""`runner notebook`: write a notebook that trains on Colab or Kaggle, and goes on the next day.

The text lies beside this file, in `notebooks/`, as Markdown: a block of Python is a cell, the words
after "python" are the cell's tags. Cells that only the platform itself can run (its mount, its
secrets, the installation) have the tag "platform", the one to edit has "parameters".
"""

import argparse
import json
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from runner.cli.common import say, write_file
from runner.cli.exit import Exit
from runner.errors import SpecError
from runner.store.settings import mask

FOLDER = Path(__file__).parent / "notebooks"
PACKAGE = "keras-runner"
_CODE = re.compile(r"^```python *(?P<tags>[a-z ]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
#: the store's scheme → which text tells of it; "" where no store is named
_STORES = {
    "colab": {"": "colab-drive", "gs": "colab-gs", "gcs": "colab-gs", "s3": "colab-s3"},
    "kaggle": {"": "kaggle-working", "gs": "kaggle-gs", "gcs": "kaggle-gs", "s3": "kaggle-s3"},
}
_EXTRAS = {"s3": "[s3]", "s3a": "[s3]"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `notebook`."""
    parser.add_argument("platform", choices=sorted(_STORES), help="where it is to run")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="default: runner-PLATFORM.ipynb"
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        help="bucket of the jobs (default: your Drive on Colab, /kaggle/working on Kaggle)",
    )
    parser.add_argument(
        "--install",
        metavar="REQUIREMENT",
        help="what pip installs there: a URL such as git+https://…, or a wheel's path there"
        f" (default: where this {PACKAGE} came from, else its version)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the file; its name on standard output."""
    path: Path = options.output or Path(f"runner-{options.platform}.ipynb")
    if options.store == "" or options.install == "":
        name = "--store" if options.store == "" else "--install"
        msg = f"{name} received ''; leave it out for the default"
        raise SpecError(msg)
    requirement = options.install or _requirement()
    notebook = make(options.platform, store=options.store or "", requirement=requirement)
    write_file(path, (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode())
    print(path)
    return Exit.DONE


def make(platform: str, *, store: str, requirement: str) -> dict[str, Any]:
    """Return a notebook (format 4.5) as JSON.

    Args:
        platform: "colab" or "kaggle".
        store: URL of the jobs; "" for what the platform itself offers.
        requirement: what pip installs.

    Raises:
        SpecError: the URL holds credentials, which everybody who sees the notebook would have.
    """
    if mask(store) != store:
        msg = f"--store received {mask(store)}: a notebook is shown and shared, so its URL may hold"
        raise SpecError(f"{msg} no credentials. The notebook says where they go.")
    scheme = store.partition("://")[0] if store else ""
    extra = _EXTRAS.get(scheme, "")
    before, _, after = _text(_STORES[platform].get(scheme, "other")).partition("\n---\n")
    text = "\n\n".join([_text(platform), before, _text("work"), after])
    text = text.replace("{{store}}", json.dumps(store))
    text = text.replace("{{requirement}}", _quoted(requirement, extra))
    metadata: dict[str, Any] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    if platform == "colab":
        metadata |= {"accelerator": "GPU", "colab": {"gpuType": "T4"}}
    cells = [cell | {"id": f"cell-{number}"} for number, cell in enumerate(_cells(text))]
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _text(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def _cells(text: str) -> Iterator[dict[str, Any]]:
    end = 0
    for block in [*_CODE.finditer(text), None]:
        words = text[end : block.start() if block else len(text)].strip()
        if words:
            yield {"cell_type": "markdown", "metadata": {}, "source": _lines(words)}
        if block:
            end = block.end()
            code = block["code"].strip()
            if code.splitlines()[-1].startswith("runner.run("):
                code += ";"  # its exit code is not to be shown as the cell's value
            yield {
                "cell_type": "code",
                "metadata": {"tags": block["tags"].split()} if block["tags"] else {},
                "source": _lines(code),
                "execution_count": None,
                "outputs": [],
            }


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _quoted(requirement: str, extra: str) -> str:
    """The requirement for a `%pip` line, with the extra that the store's client needs."""
    if any(not character.isprintable() or character in "\"'$`\\" for character in requirement):
        msg = f"--install received {requirement!r}: expected what pip installs, without quotes,"
        raise SpecError(f"{msg} variables or line breaks, such as keras-runner==0.1.0 or a URL")
    named = re.fullmatch(r"([\w.-]+)(?:\[([^\]]*)\])?(.*)", requirement)
    if extra and "://" in requirement:
        requirement = f"{PACKAGE}{extra} @ {requirement}"
    elif extra and named:
        extras = ",".join(filter(None, (named[2], extra.strip("[]"))))
        requirement = f"{named[1]}[{extras}]{named[3]}"
    return f'"{requirement}"'


def _requirement() -> str:
    """Where this package came from, so that the notebook gets the same one."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        say(f"this {PACKAGE} is not installed: say with --install where the notebook gets it from")
        return PACKAGE
    origin = json.loads(package.read_text("direct_url.json") or "{}")  # as PEP 610 says
    url, info = str(origin.get("url", "")), origin.get("vcs_info") or {}
    if info.get("vcs") and not url.startswith("file:"):
        return f"{info['vcs']}+{mask(url)}@{info.get('commit_id', 'HEAD')}"
    if url.startswith("https:"):
        return mask(url)
    if url:
        say(
            f"this {PACKAGE} was installed from a folder, which the notebook cannot reach: it"
            f" installs {PACKAGE}=={package.version}; --install names another place"
        )
    return f"{PACKAGE}=={package.version}"
