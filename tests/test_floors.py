"""The architecture holds: imports go down only, and the heavy ones stay where they belong."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = Path(__file__).parent.parent / "runner"

#: from the ground up; those of one floor don't know each other
FLOORS: list[set[str]] = [
    {"errors", "exit", "quiet"},
    {"code", "environment"},
    {"registry", "store", "machine", "commit"},
    {"mistakes", "optimizers", "queue", "checkpoint"},
    {"specparts"},
    {"spec"},
    {"specfile"},
    {"models", "datasets"},
    {"training"},
    {"programs"},
    {"evaluation"},
    {"report"},
    {"mirrors"},
    {"engine"},
    {"cli", "__init__"},
    {"__main__"},
]
FLOOR_OF = {part: number for number, parts in enumerate(FLOORS) for part in parts}

#: heavy packages and the only places that may import them, at module level or inside a function
ZONES = {
    "pydantic": ("spec.py", "specparts.py", "mistakes.py"),
    "tensorflow": ("programs/", "models/", "datasets/", "training/", "evaluation/"),
    "keras": ("programs/", "models/", "datasets/", "training/", "evaluation/"),
    "jax": ("training/backends/jax.py",),
    "jaxlib": ("training/backends/jax.py",),
    "ray": ("engine/ray.py",),
    "onnxruntime": ("evaluation/readback.py",),
    "ai_edge_litert": ("evaluation/readback.py",),
    "mlflow": ("mirrors/mlflow.py",),
    "wandb": ("mirrors/wandb.py",),
    "matplotlib": ("report/pictures.py",),
    "jinja2": ("report/page.py",),
    "PIL": ("report/examples.py", "datasets/folder.py"),
    "sklearn": ("evaluation/metrics.py", "datasets/digits.py", "programs/"),
    "apprise": ("engine/messages.py",),
    "gcsfs": (),
    "s3fs": (),
    "pickle": (),
    "dill": (),
    "cloudpickle": (),
}

#: what promises nothing from one version to the next, and the only files that may import it
PRIVATE = (
    "keras.src",
    "tensorflow.python",
    "tensorflow.core",
    "jax._src",
    "jaxlib",
    "ray._private",
)
PRIVATE_IN = {
    "training/private.py",
    "training/data/pipelines.py",
    "training/backends/tensorflow.py",
}

#: what `runner status` has no time for
HEAVY = {"tensorflow", "keras", "pydantic", "gcsfs", "s3fs", "fsspec", "numpy", "sklearn"}
HEAVY |= {"matplotlib", "jinja2", "PIL"}

#: what `runner` has code for, but does not bring: the extras, and a notebook's own
BROUGHT_BY_USERS = {"ray", "jax", "jaxlib", "IPython", "grain", "onnxruntime", "ai_edge_litert"}
BROUGHT_BY_USERS |= {"apprise", "mlflow", "wandb"}


@cache
def modules() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_that_run(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported, also inside functions, but for `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(ast.Module([node], []))
        else:
            yield from imports_that_run(node)


def part_of(dotted: str) -> str | None:
    """The floor's part that `runner.part.…` names."""
    pieces = dotted.split(".")
    return pieces[1] if pieces[0] == "runner" and len(pieces) > 1 else None


def test_every_part_has_a_floor() -> None:
    """A new module or folder must say where it stands."""
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix != ".md"}
    assert parts - {"__pycache__", "py.typed"} <= FLOOR_OF.keys()


def test_imports_go_down_only() -> None:
    """No module imports its neighbour on the floor, or anything above it."""
    wrong = []
    for name, tree in modules():
        own = name.split("/")[0].removesuffix(".py")
        for dotted in imports(tree):
            other = part_of(dotted)
            if other is None or other == own:
                continue
            assert other in FLOOR_OF, f"{name} imports {dotted}, which has no floor"
            if FLOOR_OF[other] >= FLOOR_OF[own] and own != "__init__":
                wrong.append(f"{name} imports {dotted}")
    assert not wrong


@pytest.mark.parametrize("part", sorted(FLOOR_OF))
def test_no_modules_import_each_other(part: str) -> None:
    """Within a package too there are floors; an import inside a function counts like any other."""
    trees = {
        f"runner/{name}".removesuffix(".py").removesuffix("/__init__").replace("/", "."): tree
        for name, tree in modules()
        if name.split("/")[0] == part
    }
    below = {
        module: {
            found if found in trees else found.rpartition(".")[0]
            for found in imports_that_run(tree)
        }
        & trees.keys() - {module}
        for module, tree in trees.items()
    }
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        pytest.fail(f"they import each other: {' <- '.join(error.args[1])}")


def test_private_modules_are_imported_in_few_files() -> None:
    """What other packages may change without a word is used where its page names it."""
    found = {
        f"{name} imports {dotted}"
        for name, tree in modules()
        for dotted in imports(tree)
        if any(f"{dotted}.".startswith(f"{private}.") for private in PRIVATE)
        and name not in PRIVATE_IN
    }
    assert not found


def test_heavy_packages_stay_in_their_zones() -> None:
    """TensorFlow where training happens, pydantic in the spec, pickle nowhere."""
    wrong = []
    for name, tree in modules():
        for dotted in imports(tree):
            zone = ZONES.get(dotted.split(".")[0])
            if zone is not None and not name.startswith(zone or ("-",)):
                wrong.append(f"{name} imports {dotted}")
    assert not wrong


def test_whatever_is_imported_comes_with_an_installation() -> None:
    """After `make run` every command works: no package is to be installed besides."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    todo, brought = [Requirement(one) for one in project["project"]["dependencies"]], set()
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        if name not in brought and (one.marker is None or one.marker.evaluate({"extra": ""})):
            brought.add(name)
            todo += [Requirement(text) for text in metadata.requires(name) or []]
    sources = metadata.packages_distributions()
    imported = {dotted.split(".")[0] for _, tree in modules() for dotted in imports(tree)}
    others = imported - sys.stdlib_module_names - {"runner"} - BROUGHT_BY_USERS
    assert [
        name for name in others if not brought & {canonicalize_name(d) for d in sources[name]}
    ] == []


def test_no_code_is_made_from_text() -> None:
    """Nothing that comes from a bucket or a spec can become code."""
    wrong = []
    for name, tree in modules():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec", "compile"}:
                wrong.append(f"{name}:{node.lineno}")
    assert not wrong


@pytest.mark.parametrize("command", ["status", "logs", "cancel", "--help"])
def test_light_commands_import_nothing_heavy(command: str, tmp_path: Path) -> None:
    """`runner status` starts without TensorFlow, Keras, pydantic, gcsfs or NumPy."""
    arguments = [command] if command == "--help" else [command, "x", "--store", str(tmp_path)]
    code = (
        "import sys\n"
        "from runner.cli.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
