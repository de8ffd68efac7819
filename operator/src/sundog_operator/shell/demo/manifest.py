"""The demo's manifest: one file that the demo edits as a user would."""

from pathlib import Path
from typing import Any, Final

import yaml

from sundog_operator.ports import MODEL_DEPLOYMENT
from sundog_operator.shell.manifests import MANIFEST_DIR_PLACEHOLDER

MODELS_FOLDER: Final = "models"
DEPLOYMENT_NAME: Final = "digits"
NAMESPACE: Final = "default"
TIMED_WEIGHT_PERCENT: Final = 25
TIMED_STEP_S: Final = 5
MANUAL_WEIGHT_PERCENT: Final = 50


def make_manifest(model: str) -> dict[str, Any]:
    """Return a ModelDeployment for a model in the folder `models` beside the manifest. Its rollout has two canary steps."""
    return {
        "apiVersion": MODEL_DEPLOYMENT.api_version,
        "kind": MODEL_DEPLOYMENT.kind,
        "metadata": {"name": DEPLOYMENT_NAME, "namespace": NAMESPACE},
        "spec": {
            "model": {"uri": f"file://{MANIFEST_DIR_PLACEHOLDER}/{MODELS_FOLDER}/{model}", "entrypoint": "net:Net"},
            "resources": {"cpu": "500m", "memory": "512Mi"},
            "rollout": {
                "steps": [
                    {"weight": TIMED_WEIGHT_PERCENT, "gate": "time", "minDuration": f"{TIMED_STEP_S}s"},
                    {"weight": MANUAL_WEIGHT_PERCENT, "gate": "manual"},
                ]
            },
        },
    }


def write_manifest(path: Path, model: str) -> None:
    """Write the manifest for a model. The replacement is atomic: a reader sees the old or the new text."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(yaml.safe_dump(make_manifest(model), sort_keys=False))
    draft.replace(path)
