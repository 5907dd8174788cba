"""What TensorFlow prints at its import is left out; what its loggers say later is heard."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, gc, logging, sys
from runner.training.quiet import import_keras

atexit.register(lambda: print("left alone:", gc.get_freeze_count() > 100_000, file=sys.stderr))
import_keras()
print("imported", file=sys.stderr)
logging.getLogger("tensorflow").warning("traced again")
from absl import logging as absl
absl.warning("Failed to load jax profiler: %s", "what grain tells")
absl.warning("from absl")
"""


NETWORKS = """
from runner.training.quiet import import_keras

import_keras()
import keras, numpy, tensorflow as tf
for _ in range(6):  # of six jobs, each asked once by its evaluation
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    network.compile()
    network.predict_on_batch(numpy.zeros((1, 2)))
own = tf.function(lambda number: number)
for number in range(5):
    own(number)
"""


def said_by(program: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    environment = {**clean, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stderr


def test_the_import_is_quiet_and_what_is_logged_later_is_heard() -> None:
    """And at the end Python does not look through all that was imported, which takes seconds."""
    said = said_by(PROGRAM)
    first, *later = said.splitlines()
    assert first == "imported", said
    assert "Logging error" not in said
    words = [line.split(":")[-1].split("] ")[-1].strip() for line in later]
    assert words == ["traced again", "from absl", "True"]


@pytest.mark.slow
def test_networks_of_several_jobs_are_no_retracing_of_one_and_real_retracing_is_heard() -> None:
    warned = [line for line in said_by(NETWORKS).splitlines() if "retracing" in line]
    assert len(warned) == 1, warned
    assert "<lambda>" in warned[0]


@pytest.mark.slow
def test_a_cards_memory_is_taken_as_it_is_needed() -> None:
    """TensorFlow and JAX take nearly all of it by themselves, whoever else works on that card."""
    names = ("TF_FORCE_GPU_ALLOW_GROWTH", "XLA_PYTHON_CLIENT_PREALLOCATE")
    program = f"{PROGRAM}\nimport os\nprint(*(os.environ[name] for name in {names}))"
    clean = {key: value for key, value in os.environ.items() if key not in names}
    environment = {**clean, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["true", "false"]
