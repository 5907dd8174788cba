"""SkyPilot's own word on docker/skypilot.yaml, and its schemas for the tests (`make sky-schema`).

SkyPilot is half a gigabyte with what it needs: it has an environment of its own, and the tests
have the schemas.
"""

import json
from pathlib import Path

import sky  # type: ignore[import-not-found]
import yaml
from sky.utils import schemas  # type: ignore[import-not-found]

HERE = Path(__file__).parent
TASK = HERE.parent.parent / "docker" / "skypilot.yaml"

if __name__ == "__main__":
    config = yaml.safe_load(TASK.read_text(encoding="utf-8"))
    task = sky.Task.from_yaml_config(config, env_overrides=[("RUNNER_STORE", "gs://bucket/runs")])
    print(task)
    found = {
        "skypilot": sky.__version__,
        "task": schemas.get_task_schema(),
        "resources": schemas.get_resources_schema(),
    }
    text = json.dumps(found, indent=1, sort_keys=True)
    (HERE / "skypilot.schema.json").write_text(text + "\n", encoding="utf-8")
