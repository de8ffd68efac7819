"""Dynamic Resource Allocation: the ResourceClaimTemplate of a revision's pods, for NVIDIA's driver.

Each pod gets a claim of its own from the template. A template never changes, as a revision does not. The selectors are CEL that is made of
typed fields alone: a user's expression would be evaluated by the scheduler for every pod of the cluster.
"""

from typing import Any, Final

from sundog_operator.api import Gpu
from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.accelerators import replica_devices
from sundog_operator.core.kubernetes.device_types import NVIDIA_PRODUCT, TypeAliases, find_values

CLAIM: Final = "devices"
"""Name of the claim in a pod."""
_DRIVER: Final = "gpu.nvidia.com"
_REQUEST: Final = "gpu"

Json = dict[str, Any]


def make_pod_claims(template: str) -> list[Json]:
    """Return `resourceClaims` of a pod with a claim from that template."""
    return [{"name": CLAIM, "resourceClaimTemplateName": template}]


def make_claim_template(namespace: str, name: str, owner: Json, gpu: Gpu, aliases: TypeAliases) -> Json:
    """Return the ResourceClaimTemplate for the devices of a pod.

    Earlier types are preferred: the scheduler takes the first alternative that it can allocate.

    Args:
        namespace: the namespace of the pods.
        name: the template's name.
        owner: the owner reference to the revision, with which Kubernetes deletes the template.
        gpu: devices with `allocation: dra`.
        aliases: the administrator's label values of types.
    """
    # The API server refuses two alternatives of the same name, which is a DNS label.
    alternatives: dict[str, Json] = {}
    for type_ in gpu.type or ("",):
        alternatives.setdefault(_make_label(type_), _make_request(type_, gpu, aliases))
    request = (
        {"firstAvailable": [{"name": type_, **made} for type_, made in alternatives.items()]}
        if len(alternatives) > 1
        else {"exactly": next(iter(alternatives.values()))}
    )
    labels = names.labels(names.RAY)
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": [owner]},
        "spec": {
            "metadata": {"labels": labels},
            "spec": {"devices": {"requests": [{"name": _REQUEST, **request}]}},
        },
    }


def _make_request(type_: str, gpu: Gpu, aliases: TypeAliases) -> Json:
    devices = replica_devices(gpu)
    selectors = [{"cel": {"expression": each}} for each in _make_expressions(type_, gpu, aliases)]
    return {
        "deviceClassName": devices.resource if devices is not None else "",
        "allocationMode": "ExactCount",
        "count": gpu.count,
        **({"selectors": selectors} if selectors else {}),
    }


def _make_expressions(type_: str, gpu: Gpu, aliases: TypeAliases) -> list[str]:
    """Return CEL expressions that a device must all match."""
    attributes, found = f"device.attributes['{_DRIVER}']", []
    if type_:
        # Feature discovery writes the driver's names with dashes into labels.
        names_ = dict.fromkeys(value.lower() for value in find_values(type_, NVIDIA_PRODUCT, aliases))
        products = ", ".join(map(_quote, names_))
        found.append(f"{attributes}.productName.lowerAscii().replace(' ', '-') in [{products}]")
    if gpu.sharing.profile:
        found.append(f"{attributes}.profile == {_quote(gpu.sharing.profile)}")
    if gpu.memory:
        found.append(f"device.capacity['{_DRIVER}'].memory.compareTo(quantity({_quote(gpu.memory)})) >= 0")
    return found


def _make_label(type_: str) -> str:
    return type_.lower().replace("_", "-").replace(".", "-")


def _quote(text: str) -> str:
    """Return a CEL string. An administrator's alias may have any character."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
