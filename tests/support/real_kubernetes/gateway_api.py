"""The Gateway API for a cluster: its CRDs, and the statuses that a Gateway's controller writes."""

import json
from functools import partial

import yaml

from real_kubernetes.binaries import module_directory
from real_kubernetes.kubectl import Kubectl, Object
from waiting import eventually

MODULE = "sigs.k8s.io/gateway-api"
CRDS = ("gatewayclasses", "gateways", "httproutes", "referencegrants")
HTTP_ROUTES = "httproutes.gateway.networking.k8s.io"
CONTROLLER = "example.com/gateway"


def crds() -> list[Object]:
    """Return the CRDs of a Gateway with routes for HTTP, from the module of the standard channel. Raises ClusterError."""
    folder = module_directory("gateway-api", MODULE) / "config" / "crd" / "standard"
    return [yaml.safe_load((folder / f"gateway.networking.k8s.io_{name}.yaml").read_text()) for name in CRDS]


def apply_crds(kubectl: Kubectl) -> None:
    """Install the CRDs. Raises ClusterError."""
    kubectl.apply(*crds())
    eventually(partial(kubectl.succeeds, "get", HTTP_ROUTES, "--all-namespaces"), f"{HTTP_ROUTES} are served")


def remove_crds(kubectl: Kubectl) -> None:
    """Delete the CRDs, and so all their objects."""
    names = [f"{name}.gateway.networking.k8s.io" for name in CRDS]
    kubectl("delete", "crd", "--ignore-not-found", *names)


def answer(kubectl: Kubectl, namespace: str, name: str, *, accepted: bool, reason: str, message: str = "") -> None:
    """Write a status like the controller of the first Gateway that a route names."""
    route = kubectl.get("-n", namespace, HTTP_ROUTES, name)
    condition = {
        "status": str(accepted),
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": route["metadata"]["generation"],
    }
    conditions = [{"type": type_, **condition} for type_ in ("Accepted", "ResolvedRefs")]
    parent = {"parentRef": route["spec"]["parentRefs"][0], "controllerName": CONTROLLER, "conditions": conditions}
    patch = json.dumps({"status": {"parents": [parent]}})
    kubectl("-n", namespace, "patch", HTTP_ROUTES, name, "--subresource=status", "--type=merge", "-p", patch)
