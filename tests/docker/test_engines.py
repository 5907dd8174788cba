"""The files for Kubernetes, SkyPilot and Slurm are what these accept, and do what runner needs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from runner import registry
from runner.exit import Exit
from tests.harness import REPOSITORY
from tests.processes import descendants

DOCKER = REPOSITORY / "docker"
SLURM = DOCKER / "slurm.sh"
#: `make sky-schema` writes it: what SkyPilot itself checks a file against
SKYPILOT_SCHEMA = Path(__file__).parent / "skypilot.schema.json"
#: the kinds of sbatch option that the file uses (sbatch's manual)
SBATCH_OPTIONS = {
    "job-name": r"[\w-]+",
    "array": r"\d+(-\d+)?",
    "nodes": r"\d+",
    "ntasks": r"\d+",
    "cpus-per-task": r"\d+",
    "mem": r"\d+[KMGT]",
    "gres": r"gpu(:\w+)?:\d+",
    "time": r"(\d+-)?\d+:\d\d:\d\d",
    "signal": r"B:TERM@\d+",
    "requeue": r"",
    "open-mode": r"append|truncate",
    "output": r"[\w%.-]+",
}


def load(name: str) -> Any:
    return yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))


# ---------------------------------------------------------------------- Kubernetes


@pytest.mark.parametrize("version", ["1.31", "1.37"])  # podFailurePolicy is stable since 1.31
@pytest.mark.parametrize("name", ["kubernetes.yaml", "kubernetes-deployment.yaml"])
def test_kubernetes_accepts_the_file(name: str, version: str) -> None:
    """Kubernetes' own schema, strictly: a field that it does not know is a mistake."""
    kubernetes_validate.validate(load(name), version, strict=True)


def test_the_deployments_pods_are_the_jobs_but_wait_for_more() -> None:
    """They have a label of their own, so that neither counts the other's as its own."""
    job, deployment = load("kubernetes.yaml"), load("kubernetes-deployment.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert labels != job["spec"]["template"]["metadata"]["labels"]
    pods = [one["spec"]["template"]["spec"] for one in (job, deployment)]
    for pod in pods:
        pod.pop("restartPolicy", None)
        del pod["topologySpreadConstraints"][0]["labelSelector"]
        pod["containers"][0].pop("command", None)
    assert pods[0]["containers"][0].pop("args") == ["work", "--until-empty"]
    assert pods[1]["containers"][0].pop("args") == ["work"]
    assert pods[0] == pods[1]


def test_kubernetes_starts_a_worker_again_whenever_it_was_stopped() -> None:
    """A disruption and 75 are ignored, which comes before anything that counts or ends the job."""
    job = load("kubernetes.yaml")["spec"]
    rules = job["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == rules[1]["action"] == "Ignore"
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert rules[1]["onExitCodes"]["values"] == [Exit.PREEMPTED]
    fatal = [rule["onExitCodes"]["values"] for rule in rules if rule["action"] == "FailJob"]
    assert fatal == [[Exit.USAGE]]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # the policy works with no other
    (container,) = pod["containers"]
    assert {rule["onExitCodes"]["containerName"] for rule in rules[1:]} == {container["name"]}
    grace = {one["name"]: one.get("value") for one in container["env"]}["RUNNER_GRACE_SECONDS"]
    assert int(grace) == pod["terminationGracePeriodSeconds"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_kubernetes_mounts_programs_where_the_image_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ConfigMap's files are links to links; without one the folder is empty."""
    pod = load("kubernetes.yaml")["spec"]["template"]["spec"]
    (volume,) = (one for one in pod["volumes"] if "configMap" in one)
    assert volume["configMap"]["optional"] is True
    mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
    folder = Path(mounts[volume["name"]])
    assert folder.name == "programs"
    assert f"RUNNER_CODE={folder.parent} " in (DOCKER / "Dockerfile").read_text()
    (tmp_path / "programs/..1").mkdir(parents=True)
    (tmp_path / "programs/..data").symlink_to("..1")
    (tmp_path / "programs/..1/houses.py").write_text("def program(): ...\n")
    (tmp_path / "programs/houses.py").symlink_to("..data/houses.py")
    monkeypatch.setenv("RUNNER_CODE", str(tmp_path))
    assert "houses" in registry.names("programs")
    assert registry.get("programs", "houses").__name__ == "program"


# ---------------------------------------------------------------------- SkyPilot


def test_skypilot_accepts_the_task() -> None:
    """SkyPilot's own schemas of a task and of its resources."""
    schemas, task = json.loads(SKYPILOT_SCHEMA.read_text()), load("skypilot.yaml")
    jsonschema.validate(task, schemas["task"])
    jsonschema.validate(task["resources"], schemas["resources"])
    known = set(recovery(schemas["resources"])["properties"]) | {"max_restarts_on_errors"}
    assert set(task["resources"]["job_recovery"]) <= known


def recovery(schema: dict[str, Any]) -> dict[str, Any]:
    choices: list[dict[str, Any]] = schema["properties"]["job_recovery"]["anyOf"]
    return next(choice for choice in choices if choice["type"] == "object")


def test_skypilot_recovers_a_worker_that_was_stopped() -> None:
    """On 75 and after a preemption, however often."""
    resources = load("skypilot.yaml")["resources"]
    assert resources["use_spot"] is True
    assert resources["job_recovery"]["recover_on_exit_codes"] == [Exit.PREEMPTED]


def make_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def of_a_job(programs: Path, **more: str) -> dict[str, str]:
    """Return the environment of a job of Slurm's that finds these programs."""
    path = f"{programs}:{os.environ['PATH']}"
    return {"PATH": path, "RUNNER_STORE": "/store", "SLURM_JOB_ID": "17", **more}


def test_skypilot_and_slurm_pass_ones_own_code_on(tmp_path: Path) -> None:
    """The worker gets RUNNER_CODE; of SkyPilot's task it is empty where none is named."""
    assert load("skypilot.yaml")["envs"]["RUNNER_CODE"] == ""
    for command in (["bash", "-c", load("skypilot.yaml")["run"]], ["bash", str(SLURM)]):
        runner = tmp_path / "runner-venv/bin/runner"
        make_program(runner, '#!/bin/sh\necho "$1 $RUNNER_CODE" >> "$HOME/seen"\n')
        mine = {"HOME": str(tmp_path), "RUNNER_CODE": "./study", "SKYPILOT_TASK_ID": "sky-1"}
        subprocess.run(command, check=True, env=of_a_job(runner.parent, **mine))
    assert (tmp_path / "seen").read_text() == "work ./study\n" * 2


@pytest.mark.parametrize(("code", "shown"), [(0, 0), (75, 75), (1, 1), (4, 0), (5, 0), (6, 6)])
def test_skypilot_sees_the_exit_code(code: int, shown: int, tmp_path: Path) -> None:
    """But for those that say that this worker is not needed."""
    runner = tmp_path / "runner-venv/bin/runner"
    make_program(runner, f"#!/bin/sh\nexit {code}\n")
    done = subprocess.run(
        ["bash", "-c", load("skypilot.yaml")["run"]],
        env={**os.environ, "HOME": str(tmp_path), "SKYPILOT_TASK_ID": "sky-1"},
    )
    assert done.returncode == shown


def test_skypilot_installs_packages_of_ones_own(tmp_path: Path) -> None:
    """Beside runner, with what it needs on a GPU; none where none are named."""
    make_program(tmp_path / "python3", '#!/bin/sh\necho "$@" >> "$HOME/asked"\n')
    task = load("skypilot.yaml")
    for packages in (task["envs"]["PACKAGES"], "./mine git+https://x/y.git"):
        subprocess.run(
            ["bash", "-c", task["setup"]],
            check=True,
            env={
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "PACKAGES": packages,
            },
        )
    asked = [line for line in (tmp_path / "asked").read_text().splitlines() if "cuda" in line]
    assert [line.partition(".[cuda,s3]")[2] for line in asked] == [
        "",
        " ./mine git+https://x/y.git",
    ]


# ---------------------------------------------------------------------- systemd

APART = ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
#: a user's service manager of its own, which sees no other and leaves nothing behind
MANAGER = """
mount -t tmpfs tmpfs /run && mkdir -p -m 700 /run/systemd/system /run/user
export XDG_RUNTIME_DIR=/run/user
systemd=$(command -v /usr/lib/systemd/systemd /lib/systemd/systemd | head -n 1)
"$systemd" --user --log-target=null & manager=$!
trap 'kill $manager; wait $manager' EXIT
until systemctl --user is-system-running > /dev/null 2>&1; do sleep 0.1; done
"""
#: ends as the file `exit` says, or saves when it is asked to
WORKER = """#!/bin/sh
echo "$* $RUNNER_GRACE_SECONDS" >> "$HOME/starts"
trap 'echo saved >> "$HOME/starts"; exit 75' TERM
until [ -e "$HOME/exit" ]; do sleep 0.05; done
code=$(cat "$HOME/exit"); rm "$HOME/exit"; exit "$code"
"""
LIFE = """
starts() { grep -c work "$HOME/starts"; }
until_starts() { until [ "$(starts)" = "$1" ] && [ ! -e "$HOME/exit" ]; do sleep 0.05; done; }
state() { systemctl --user show runner -p ActiveState -p Result --value | sort | xargs; }
down() { until [ "$(systemctl --user is-active runner)" != active ]; do sleep 0.05; done; }
systemctl --user start runner; until_starts 1
kill -9 "$(systemctl --user show runner -p MainPID --value)"; until_starts 2
echo 75 > "$HOME/exit"; until_starts 3
echo 6 > "$HOME/exit"; until_starts 4
systemctl --user stop runner; echo "stopped: $(state), $(tail -n 1 "$HOME/starts")"
systemctl --user start runner; until_starts 5
echo 0 > "$HOME/exit"; down; sleep 0.5; echo "drained: $(state), $(starts)"
systemctl --user start runner; until_starts 6
echo 2 > "$HOME/exit"; down; sleep 0.5; echo "a wrong setting: $(state), $(starts)"
"""


def systemd_runs() -> bool:
    alone = [*APART, "true"]  # asks for root
    return bool(shutil.which("systemctl")) and subprocess.call(alone, stderr=DEVNULL) == 0


@pytest.mark.skipif(not systemd_runs(), reason="only where systemd is, and root")
def test_systemd_keeps_a_worker(tmp_path: Path) -> None:
    """Killed, stopped with 75, storage away: again. Stopped by hand, drained, a mistake: not."""
    units = tmp_path / ".config/systemd/user"
    (units / "runner.service.d").mkdir(parents=True)
    shutil.copy(DOCKER / "runner.service", units)
    (units / "runner.service.d/soon.conf").write_text("[Service]\nRestartSec=50ms\n")
    make_program(tmp_path / "runner/.venv/bin/runner", WORKER)
    done = subprocess.run(
        [*APART, "bash", "-c", MANAGER + LIFE],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == [
        "stopped: inactive success, saved",
        "drained: inactive success, 5",
        "a wrong setting: exit-code failed, 6",
    ], done.stderr
    assert (tmp_path / "starts").read_text().splitlines()[0] == "work 120"


# ---------------------------------------------------------------------- Slurm


def test_slurm_script_is_sound() -> None:
    """For bash, for shellcheck, and its options are sbatch's."""
    subprocess.run(["bash", "-n", SLURM], check=True)
    # this environment's: a distribution's older one finds other faults
    subprocess.run([Path(sys.executable).parent / "shellcheck", SLURM], check=True)
    assert os.access(SLURM, os.X_OK)
    options = sbatch_options()
    for name, value in options.items():
        assert name in SBATCH_OPTIONS, f"--{name}"
        assert re.fullmatch(SBATCH_OPTIONS[name], value), f"--{name}={value}"
    assert "requeue" in options
    grace = options["signal"].partition("@")[2]
    assert f"RUNNER_GRACE_SECONDS={grace}" in SLURM.read_text()


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="only where Slurm is")
def test_sbatch_accepts_the_script() -> None:
    subprocess.run(["sbatch", "--test-only", "--export=ALL,RUNNER_STORE=/tmp/x", SLURM], check=True)


def sbatch_options() -> dict[str, str]:
    """Those before the first command, where sbatch reads them."""
    found = {}
    for line in SLURM.read_text().splitlines():
        if line.startswith("#SBATCH"):
            name, _, value = line.removeprefix("#SBATCH --").partition("=")
            found[name] = value
        elif line and not line.startswith("#"):
            break
    return found


class Slurm:
    """Slurm's commands and a `runner`, as far as the script sees them."""

    RUNNER = """#!/usr/bin/env bash
cd "$FAKE"
if [[ $2 == --drain ]]; then echo "$3" >> drains; touch drained; exit 0; fi
trap 'echo TERM >> signals; sleep 0.5; exit 75' TERM
touch began
for _ in $(seq 200); do
  [[ -e drained ]] && { echo drained >> signals; exit 0; }
  [[ -e exit ]] && exit "$(cat exit)"
  sleep 0.05
done
"""
    COMMANDS = (("runner", RUNNER), ("scontrol", '#!/bin/sh\necho "$@" >> "$FAKE/requeued"\n'),
                ("squeue", '#!/bin/sh\ncat "$FAKE/state"\n'))  # fmt: skip

    def __init__(self, folder: Path, state: str = "RUNNING") -> None:
        self.folder = folder
        for name, text in self.COMMANDS:
            make_program(folder / "bin" / name, text)
        (folder / "state").write_text(f"{state}\n")
        environment = of_a_job(folder / "bin", FAKE=str(folder))
        self.process = subprocess.Popen(["bash", SLURM], start_new_session=True, env=environment)
        end = time.monotonic() + 60
        while not (folder / "began").exists():
            assert time.monotonic() < end
            time.sleep(0.02)

    def worker(self) -> int:
        return next(
            pid
            for pid in descendants(self.process.pid)
            if b"runner\0work" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )

    def left(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def ended(self) -> int:
        return self.process.wait(timeout=60)


def test_slurm_signals_the_shell_alone(tmp_path: Path) -> None:
    """At the time limit: the worker is asked to save, and the job comes back."""
    slurm = Slurm(tmp_path)
    worker = slurm.worker()
    slurm.process.send_signal(signal.SIGTERM)
    assert slurm.ended() == 0
    assert [text.rpartition(":")[2] for text in slurm.left("drains")] == [str(worker)]
    assert slurm.left("signals") == ["drained"]
    assert slurm.left("requeued") == ["requeue 17"]


def test_slurm_signals_all_processes(tmp_path: Path) -> None:
    """The worker gets one signal, not two, which would end it with nothing saved."""
    slurm = Slurm(tmp_path)
    os.kill(slurm.worker(), signal.SIGTERM)
    slurm.process.send_signal(signal.SIGTERM)
    assert slurm.ended() == 75
    assert slurm.left("signals") == ["TERM"]
    assert slurm.left("requeued") == ["requeue 17"]


def test_slurm_lets_a_cancelled_job_end(tmp_path: Path) -> None:
    """Whoever cancels means it."""
    slurm = Slurm(tmp_path, state="COMPLETING")
    slurm.process.send_signal(signal.SIGTERM)
    slurm.ended()
    assert slurm.left("requeued") == []


@pytest.mark.parametrize(("code", "shown", "again"), [(0, 0, 0), (75, 75, 1), (1, 1, 0), (4, 0, 0)])
def test_slurm_sees_the_exit_code(code: int, shown: int, again: int, tmp_path: Path) -> None:
    """75 means again; 4 that others have what is left."""
    slurm = Slurm(tmp_path)
    (tmp_path / "exit").write_text(str(code))
    assert slurm.ended() == shown
    assert len(slurm.left("requeued")) == again
