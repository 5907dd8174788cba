"""What the image is, before anything is trained in it."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from tests.docker.engine import Engine, Image
from tests.harness import REPOSITORY

pytestmark = pytest.mark.docker


def test_the_image_says_what_it_is(engine: Engine, built: str) -> None:
    """Labels, an exec entrypoint under tini, a user that is a number and not root."""
    config = engine.inspect(built)["Config"]
    label = "org.opencontainers.image."
    assert config["Labels"][f"{label}version"] == "1.2.3"
    assert config["Labels"][f"{label}revision"] == "0123abc"
    assert config["Labels"][f"{label}licenses"] == "Apache-2.0"
    assert config["Entrypoint"] == ["tini", "--", "runner"]
    assert config["User"] == "10001:0"


@pytest.mark.parametrize("user", ["10001:0", "4321", "0"])
def test_any_user_works_on_a_read_only_root(image: Image, user: str) -> None:
    """The store is usable, fresh volumes too, for whoever runs it."""
    options = [f"--user={user}"]
    assert "BAD" not in image.ok("doctor", options=options)
    for folder in ("/store", "/cache"):
        probe = ["--rm", "--read-only", "--cap-drop=ALL", "--network=none", "--entrypoint=touch"]
        image.engine.ok("run", *probe, *options, image.tag, f"{folder}/written")


def test_nobody_may_change_the_program(image: Image) -> None:
    """Also where the root is not read-only."""
    for user in ("10001:0", "4321"):
        find = ["--rm", "--cap-drop=ALL", "--network=none", f"--user={user}", "--entrypoint=find"]
        places = ["/app", "/opt", "/usr", "/etc"]
        writable = ["!", "-readable", "-prune", "-o", "-writable", "!", "-type", "l", "-print"]
        assert image.engine.ok("run", *find, image.tag, *places, *writable) == ""


def test_nothing_but_the_program_is_in_it(image: Image) -> None:
    """The specs, and the package in its place: no tests, no history, no secrets of the builder."""
    find = ["--rm", "--network=none", "--user=0", "--entrypoint=find", image.tag]
    specs = image.engine.ok("run", *find, "/app", "-type", "f").split()
    assert set(specs) == {f"/app/jobs/{path.name}" for path in REPOSITORY.glob("jobs/*.json")}
    stray = ["-name", ".git", "-o", "-name", "*.env", "-o", "-name", "keras_runner*.whl"]
    assert image.engine.ok("run", *find, "/", "-xdev", *stray) == ""


def test_a_change_of_code_leaves_the_packages_alone(
    engine: Engine, built: str, tmp_path: Path
) -> None:
    """Only the last layer, our own wheel's, is built anew: seconds, and few bytes."""
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns(".git", ".venv*", "*cache*", "tests", "build", "dist")
    shutil.copytree(REPOSITORY, clone, ignore=ignored)
    with (clone / "runner/exit.py").open("a") as file:
        file.write(f"# changed {time.time_ns()}\n")
    seconds = engine.build("runner-test:changed", context=clone)
    try:
        before = engine.inspect(built)["RootFS"]["Layers"]
        after = engine.inspect("runner-test:changed")["RootFS"]["Layers"]
        assert len(before) == len(after)
        assert before[:-1] == after[:-1], "more than the last layer was built anew"
        assert before != after
        print(f"a change of code: built in {seconds:.1f} s")
        assert seconds < 120, "20 s on a quiet machine"
    finally:
        engine.docker("image", "rm", "runner-test:changed")


def test_a_package_and_data_of_ones_own(image: Image, tmp_path: Path) -> None:
    """As docker/README.md says: the package on top of the image, the data mounted at /data."""
    mine, data = tmp_path / "mine", tmp_path / "data"
    mine.mkdir()
    data.mkdir()
    (mine / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\n'
        '[project.entry-points."runner.models"]\nodd = "odd"\n'
        '[tool.setuptools]\npy-modules = ["odd"]\n'
    )
    (mine / "odd.py").write_text(
        "def build(*, input_shape, classes):\n"
        "    import keras\n"
        "    x = keras.Input(input_shape)\n"
        "    y = keras.layers.Dense(classes, 'softmax')(keras.layers.Flatten()(x))\n"
        "    return keras.Model(x, y)\n"
    )
    y = np.arange(64) % 2
    x = np.broadcast_to(y[:, None, None, None] * 255, (64, 8, 8, 1)).astype("uint8")
    np.savez(data / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    job = {
        "name": "mine",
        "data": {"name": "npz", "path": "/data/x.npz"},
        "model": {"name": "odd"},
        "training": {"epochs": 1, "batch_size": 16},
    }
    (data / "job.json").write_text(json.dumps(job))
    engine = image.engine
    network = () if engine.has_bridge() else ("--network=host",)
    own = (
        "--tag=runner-test:mine",
        "--file=docker/own.Dockerfile",
        f"--build-arg=BASE={image.tag}",
    )
    engine.ok("build", *own, *network, str(mine))
    try:
        found = Image(engine, "runner-test:mine", image.store)
        assert engine.inspect(found.tag)["Config"]["User"] == "10001:0"
        mounted = [f"--volume={data}:/data:ro"]
        assert found.ok("submit", "/data/job.json", options=mounted) == "mine\n"
        assert "succeeded" in found.ok("status", "mine")
    finally:
        engine.docker("image", "rm", "--force", "runner-test:mine")


PROGRAM = """
import keras
import numpy as np
import runner


def program() -> runner.Program:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((16, 2), "float32"), np.ones((16, 1), "float32")
    return runner.Program(model=model, fit={"x": runner.Batches(x, y, batch_size=8, seed=1)})
"""


def test_programs_of_ones_own(image: Image, tmp_path: Path) -> None:
    """As docker/README.md says: the folder mounted at /code, or an image with it."""
    study = tmp_path / "study"
    (study / "programs").mkdir(parents=True)
    (study / "programs/flat.py").write_text(PROGRAM)
    (study / "requirements.txt").write_text("numpy\n")
    for name in ("mounted", "copied"):
        job = {"name": name, "program": {"name": "flat"}, "training": {"epochs": 1}}
        (study / f"{name}.json").write_text(json.dumps(job))
    mounted = [f"--volume={study}:/code:ro"]
    assert image.ok("submit", "/code/mounted.json", options=mounted) == "mounted\n"
    engine, network = image.engine, () if image.engine.has_bridge() else ("--network=host",)
    own = ("--tag=runner-test:study", "--file=docker/code.Dockerfile")
    engine.ok("build", *own, f"--build-arg=BASE={image.tag}", *network, str(study))
    try:
        found = Image(engine, "runner-test:study", image.store)
        assert engine.inspect(found.tag)["Config"]["User"] == "10001:0"
        assert found.ok("submit", "/study/copied.json") == "copied\n"
        for name in ("mounted", "copied"):
            assert "succeeded" in found.ok("status", name)
    finally:
        engine.docker("image", "rm", "--force", "runner-test:study")
