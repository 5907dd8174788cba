"""What each device gets: its share of every batch, and of a checkpoint of more or fewer devices."""

import subprocess
import sys

import numpy as np
import pytest

from runner.training.state.variables import _spread
from tests.training.killing import environment

MANY = ["@0", "@1", "@2", "@3"]


def test_each_replica_goes_on_with_its_own_and_a_new_one_with_the_first() -> None:
    """What Keras saves of a model on several devices is the first one's."""
    saved = {name: np.full(2, number, "float32") for number, name in enumerate(MANY)}
    fewer = _spread(saved, ["@0", "@1"], is_sum=False)
    assert {name: one.tolist() for name, one in fewer.items()} == {"@0": [0, 0], "@1": [1, 1]}
    assert _spread(saved, [""], is_sum=False)[""].tolist() == [0, 0]
    more = _spread({"@1": saved["@3"], "@0": saved["@2"]}, MANY, is_sum=False)
    assert [more[name][0] for name in MANY] == [2, 3, 2, 2]


def test_the_sum_of_a_metric_stays_the_same() -> None:
    """Of any number of devices, to the last bit where the numbers are whole."""
    saved = {name: np.array([2**40 + number]) for number, name in enumerate(MANY)}
    for here in ([""], ["@0", "@1"], [*MANY, "@4"]):
        found = _spread(saved, here, is_sum=True)
        assert sum(found[name][0] for name in here) == 4 * 2**40 + 6
        assert {one.dtype for one in found.values()} == {np.dtype("int64")}


SHARES = """
import numpy as np, tensorflow as tf
from runner import Batches
from runner.training.backends import tensorflow as backend
backend.fix(threads=1, deterministic=True)
with backend.distributed(4) as strategy:
    pass
x = np.arange(25)
def of(dataset):
    shares = [strategy.experimental_local_results(one)
              for one in strategy.experimental_distribute_dataset(dataset)]
    return [[part.numpy().tolist() for part in one] for one in shares]
def flat(shares):
    return [sum(one, []) for one in shares]
plain = tf.data.Dataset.from_tensor_slices(x).batch(9)
assert of(plain)[0] == [[0, 1], [2, 3], [4, 5], [6, 7, 8]], of(plain)[0]
assert flat(of(plain)) == [x[:9].tolist(), x[9:18].tolist(), x[18:].tolist()]
batches = Batches(np.arange(19), batch_size=8, seed=1)
batches.least = 4
whole = [one.tolist() for (one,) in batches.numpy_batches(0)]
found = of(batches.get_tf_dataset().map(lambda one: one))
assert flat(found)[:2] == whole[:2]
assert [len(part) for part in found[2]] == [1, 1, 1, 1]
assert flat(found)[2] == whole[2] + whole[2][:1], (found, whole)
"""


@pytest.mark.slow
def test_every_device_gets_an_example_of_every_batch() -> None:
    """TensorFlow by itself divides 9 among 4 as 3, 3, 3, 0: a BatchNormalization makes NaN of 0."""
    pytest.importorskip("tensorflow")
    done = subprocess.run(
        [sys.executable, "-c", SHARES],
        env={**environment(), "RUNNER_CPU_DEVICES": "4", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
