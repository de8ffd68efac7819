"""Rows of the translation of `resources.gpu`: what a spec asks for, by the name of its golden file."""

from datetime import timedelta
from typing import Any, Final

from sundog_operator.api import Gpu, ModelDeploymentSpec
from sundog_operator.api.installation import parse_installation
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import device_claims
from sundog_operator.core.ray import pods, serve_config
from sundog_operator.core.ray.serve_config import ReplicaScale
from sundog_operator.core.revisions import Revision

ROWS: Final[dict[str, dict[str, Any]]] = {
    "exclusive": {"count": 2},
    "types": {"count": 1, "type": ["h100", "l4"]},
    "memory": {"count": 1, "memory": "40Gi"},
    "types-and-memory": {"count": 1, "type": ["a100-80gb", "h100"], "memory": "70Gi"},
    "mig": {"count": 1, "sharing": {"mode": "mig", "profile": "1g.10gb"}},
    "mig-media": {"count": 1, "type": ["a100-80gb"], "sharing": {"mode": "mig", "profile": "1g.10gb.me"}},
    "fraction": {"count": 1, "sharing": {"mode": "fraction", "fraction": "0.5"}},
    "fraction-of-a-third": {"count": 1, "memory": "20Gi", "sharing": {"mode": "fraction", "fraction": "0.333333"}},
    "fraction-above-half": {"count": 1, "sharing": {"mode": "fraction", "fraction": "0.7"}},
    "time-sliced": {"count": 1, "sharing": {"mode": "timeSliced"}},
    "time-sliced-type": {"count": 1, "type": ["l4"], "memory": "20Gi", "sharing": {"mode": "timeSliced"}},
    "amd": {"count": 1, "vendor": "amd"},
    "gaudi": {"count": 2, "vendor": "gaudi"},
    "intel": {"count": 1, "vendor": "intel"},
    "neuron": {"count": 2, "vendor": "neuron"},
    "dra": {"count": 2, "allocation": "dra"},
    "dra-types": {"count": 1, "type": ["h100", "a100-80gb"], "memory": "70Gi", "allocation": "dra"},
    "dra-mig": {"count": 1, "sharing": {"mode": "mig", "profile": "1g.10gb"}, "allocation": "dra"},
    "dra-fraction": {"count": 1, "sharing": {"mode": "fraction", "fraction": "0.5"}, "allocation": "dra"},
    "nodes": {"count": 2, "topology": {"nodes": 2}},
    "nodes-gaudi": {"count": 1, "vendor": "gaudi", "topology": {"nodes": 3}},
    "nodes-dra": {"count": 2, "allocation": "dra", "topology": {"nodes": 2}},
    "karpenter-types": {"count": 1, "type": ["h100", "a10g", "l4"]},
    "karpenter-a100": {"count": 1, "type": ["a100-80gb", "a100-40gb"]},
    "karpenter-memory": {"count": 1, "memory": "20Gi"},
    "eks-type": {"count": 1, "type": ["l4"]},
    "gke-memory": {"count": 1, "memory": "70Gi"},
    "aks-types": {"count": 1, "type": ["h100", "a100-80gb"]},
    "gpu-operator-types": {"count": 1, "type": ["NVIDIA-A10", "rtx-pro-6000"], "memory": "20Gi"},
    "mixed-types": {"count": 1, "type": ["h100", "l4"]},
    "amd-memory": {"count": 1, "vendor": "amd", "type": ["AMD-Instinct-MI300X"], "memory": "100Gi"},
    "gaudi-memory": {"count": 1, "vendor": "gaudi", "memory": "90Gi"},
    "queue": {"count": 1},
    "spot-preferred": {"count": 1},
    "spot-preferred-types": {"count": 1, "type": ["h100", "a100-80gb", "l4"]},
    "spot-required": {"count": 1, "type": ["h100", "l4"]},
}
SCHEDULING: Final[dict[str, dict[str, Any]]] = {
    "karpenter-types": {"spot": "prefer"},
    "aks-types": {"spot": "require"},
    "queue": {"queue": "team-a"},
    "spot-preferred": {"spot": "prefer"},
    "spot-preferred-types": {"spot": "prefer"},
    "spot-required": {"spot": "require"},
}
"""`spec.scheduling` of the rows that have one."""
PROFILES: Final[dict[str, str]] = {
    **dict.fromkeys(("karpenter-types", "karpenter-a100", "karpenter-memory"), "karpenter"),
    "eks-type": "eks",
    "gke-memory": "gke",
    "aks-types": "aks",
    **dict.fromkeys(("gpu-operator-types", "amd-memory", "gaudi-memory"), "gpu-operator"),
    "mixed-types": "gpu-operator, karpenter",
}
"""`installation.gpu.profiles` of the rows that have some. With the others they are unknown."""
IMAGE: Final = "example.com/runtime:1"


def make_row(row: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the worker group and the Serve application of a row."""
    resources = {"cpu": "1500m", "memory": "1Gi", "gpu": ROWS[row]}
    model = {"uri": "file:///models/v1", **({"format": "python"} if "topology" in ROWS[row] else {})}
    asked = {"model": model, "resources": resources, "scheduling": SCHEDULING.get(row, {})}
    spec = ModelDeploymentSpec.from_json(asked)
    content = revisions.content_of(spec)
    revision = Revision(7, revisions.content_hash(content), content)
    profiles = f"gpu: {{profiles: [{PROFILES.get(row, '')}]}}"
    installation = parse_installation(f"runtimeImage: {IMAGE}\n{profiles}", "test")
    group = pods.make_worker_group("digits", revision, (1, 3), IMAGE, installation, timedelta(seconds=30))
    return group, serve_config.make_application("vision", "digits", revision, spec, ReplicaScale(3, 3), in_pods=True)


def make_claim_template(row: str) -> dict[str, Any] | None:
    """Return the ResourceClaimTemplate of a row; None if its pods claim no devices."""
    gpu = Gpu.from_json(ROWS[row])
    owner = {"apiVersion": "apps/v1", "kind": "ControllerRevision", "name": "digits-r7", "uid": "u"}
    is_claimed = gpu.allocation == "dra"
    return device_claims.make_claim_template("vision", "digits-r7", owner, gpu, {}) if is_claimed else None
