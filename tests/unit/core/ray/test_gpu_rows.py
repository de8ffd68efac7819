"""Each row of the translation of `resources.gpu`: to the pod, to Ray's worker group, and to the replica in Serve."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpu_rows import ROWS, make_claim_template, make_row
from sundog_operator.core.kubernetes import kueue

PLACEMENT = ("affinity", "tolerations", "schedulingGates", "resourceClaims")
GOLDEN = Path(__file__).parents[1] / "golden"


def translation(row: str) -> dict[str, Any]:
    """Return what differs by the accelerators of a spec."""
    group, application = make_row(row)
    template = make_claim_template(row)
    pod, labels = group["template"]["spec"], group["template"]["metadata"]["labels"]
    queue = {key: value for key, value in labels.items() if key == kueue.QUEUE_LABEL}
    args, (deployment,) = application["args"], application["deployments"]
    return {
        "pod": {
            "resources": pod["containers"][0]["resources"],
            **{key: pod[key] for key in PLACEMENT if key in pod},
            **({"labels": queue} if queue else {}),
        },
        "workerGroup": {key: group[key] for key in ("labels", "minReplicas", "maxReplicas", "resources")},
        "replica": {
            **({"args.gpu": args["gpu"]} if "gpu" in args else {}),
            "ray_actor_options": deployment["ray_actor_options"],
            **{key: value for key, value in deployment.items() if key.startswith("placement_group_")},
        },
        **({"claimTemplate": template} if template is not None else {}),
    }


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_translated_as_its_golden_file_has_it(row: str) -> None:
    golden = json.loads((GOLDEN / f"gpu-{row}.json").read_text(encoding="utf-8"))
    assert translation(row) == golden


def test_every_golden_file_has_a_row() -> None:
    assert {path.stem for path in GOLDEN.glob("gpu-*.json")} == {f"gpu-{row}" for row in ROWS}
