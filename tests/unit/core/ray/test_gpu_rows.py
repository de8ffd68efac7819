"""Each row of the translation of `resources.gpu`: to the pod, to Ray's worker group, and to the replica in Serve."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gpu_rows import ROWS
from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.installation import parse_installation
from sundog_operator.core import revisions
from sundog_operator.core.ray import pods, serve_config
from sundog_operator.core.ray.serve_config import ReplicaScale
from sundog_operator.core.revisions import Revision

GOLDEN = Path(__file__).parents[1] / "golden"
IMAGE = "example.com/runtime:1"


def translation(gpu: dict[str, Any]) -> dict[str, Any]:
    """Return what differs by the accelerators of a spec."""
    spec = ModelDeploymentSpec.from_json(
        {
            "model": {"uri": "file:///models/v1"},
            "resources": {"cpu": "1500m", "memory": "1Gi", "gpu": gpu},
        }
    )
    content = revisions.content_of(spec)
    made = Revision(7, revisions.content_hash(content), content)
    installation = parse_installation(f"runtimeImage: {IMAGE}", "test")
    group = pods.make_worker_group("digits", made, (1, 3), IMAGE, installation, timedelta(seconds=30))
    pod = group["template"]["spec"]
    application = serve_config.make_application("vision", "digits", made, spec, ReplicaScale(3, 3), in_pods=True)
    return {
        "pod": {
            "resources": pod["containers"][0]["resources"],
            **{key: pod[key] for key in ("affinity", "tolerations") if key in pod},
        },
        "workerGroup": {key: group[key] for key in ("labels", "minReplicas", "maxReplicas", "resources")},
        "replica": {
            "args.gpu": application["args"]["gpu"],
            "ray_actor_options": application["deployments"][0]["ray_actor_options"],
        },
    }


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_translated_as_its_golden_file_has_it(row: str) -> None:
    golden = json.loads((GOLDEN / f"gpu-{row}.json").read_text(encoding="utf-8"))
    assert translation(ROWS[row]) == golden


def test_every_golden_file_has_a_row() -> None:
    assert {path.stem for path in GOLDEN.glob("gpu-*.json")} == {f"gpu-{row}" for row in ROWS}
