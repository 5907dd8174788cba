"""What the driver says of this machine's cards, without TensorFlow."""

from pathlib import Path

import pytest

from runner.engine.requirements import Machine
from runner.machine import hardware

SMI = """#!/bin/sh
echo "0, GPU-aaa, NVIDIA L4, 23034"
echo "1, GPU-bbb, Tesla T4, 15360"
echo "2, GPU-ccc, Broken, [N/A]"
"""


@pytest.fixture
def _cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(SMI)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.usefixtures("_cards")
@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["NVIDIA L4", "Tesla T4"]),
        ("", []),
        ("-1", []),
        ("1", ["Tesla T4"]),
        ("0,1", ["NVIDIA L4", "Tesla T4"]),
        ("GPU-bb", ["Tesla T4"]),
    ],
)
def test_only_cards_that_this_process_may_use_count(visible: str | None, names: list[str]) -> None:
    """A card that CUDA_VISIBLE_DEVICES hides is no reason to take a job that needs one."""
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert [card.name for card in hardware.gpus(environment)] == names


@pytest.mark.usefixtures("_cards")
def test_memory_is_compared_as_it_is_sold() -> None:
    """16 GB on the box are 15,360 MiB in the driver."""
    here = Machine(gpus=hardware.gpus({"CUDA_VISIBLE_DEVICES": "1"}))
    assert here.lacks({"gpu_memory_gb": 16}) == ""
    assert here.lacks({"gpu_memory_gb": 24}).endswith("the largest here has 16.1 GB")
    assert Machine().lacks({"gpu_memory_gb": 1}).endswith("none here")


def test_a_machine_without_the_driver_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert hardware.gpus({}) == ()
