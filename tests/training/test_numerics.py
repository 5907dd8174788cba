"""The fingerprint of the numerics holds every setting that decides over bits."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from runner.training import numerics


def fingerprint_in(program: str = "", **environment: str) -> dict[str, Any]:
    """The fingerprint of a process of its own."""
    code = (
        f"import json, keras, tensorflow as tf\n{program}\n"
        "from runner.training import numerics\nprint(json.dumps(numerics.fingerprint()))"
    )
    settings = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_every_setting_that_is_no_default_is_said() -> None:
    plain = fingerprint_in()
    changed = fingerprint_in(
        "tf.config.optimizer.set_jit(True)\n"
        "tf.config.optimizer.set_experimental_options({'auto_mixed_precision': True})\n"
        "tf.config.run_functions_eagerly(True)\n"
        "keras.config.set_floatx('float64')\n"
        "keras.config.set_epsilon(1e-5)\n"
        "keras.config.set_image_data_format('channels_first')\n",
        TF_XLA_FLAGS="--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
        XLA_FLAGS="--xla_cpu_enable_fast_math=true --xla_dump_to=/tmp/nothing",
        TF_NUM_INTRAOP_THREADS="1",
        DNNL_MAX_CPU_ISA="AVX2",
        TF_ONEDNN_ASSUME_FROZEN_WEIGHTS="1",
        TF_ENABLE_AUTO_MIXED_PRECISION="1",
        OMP_NUM_THREADS="1",
    )
    plain["threads"] = 4
    assert numerics.differences(plain, changed) == [
        "DNNL_MAX_CPU_ISA none -> AVX2",
        "TF_ENABLE_AUTO_MIXED_PRECISION none -> 1",
        "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS none -> 1",
        "TF_XLA_FLAGS none -> --tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
        "XLA_FLAGS none -> --xla_cpu_enable_fast_math=true",
        "eager_functions none -> True",
        "epsilon none -> 1e-05",
        "floatx none -> float64",
        "image_data_format none -> channels_first",
        "jit none -> autoclustering",
        "optimizer_options none -> auto_mixed_precision=True",
        "threads 4 -> 1",
    ]


@pytest.mark.slow
def test_defaults_are_left_out_as_checkpoints_of_earlier_versions_lack_them() -> None:
    """Else each of them would be said to have had other numerics."""
    known = {"backend", "keras", "cpu", "tensorflow", "threads", "deterministic", "onednn"}
    assert fingerprint_in().keys() == known | {"accelerators"}


def test_what_a_program_dumps_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.training.backends.tensorflow_settings import not_default

    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp/x --xla_dump_hlo_as_text")
    assert not_default(gpu=False) == {}


def test_what_only_a_gpu_heeds_is_said_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.training.backends.tensorflow_settings import not_default

    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert not_default(gpu=False) == {}
    assert not_default(gpu=True) == {"NVIDIA_TF32_OVERRIDE": "0"}
