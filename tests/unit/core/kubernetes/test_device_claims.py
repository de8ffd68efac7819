"""Selectors of claims to devices."""

from typing import Any

import pytest

from sundog_operator.api import Gpu
from sundog_operator.core.kubernetes import accelerators, device_claims, device_types, node_affinity, spot
from sundog_operator.core.kubernetes.node_profiles import NodeLabels


def request(aliases: device_types.TypeAliases | None = None, **gpu: Any) -> dict[str, Any]:
    """Return the one request of a template."""
    asked = Gpu.from_json({"count": 1, "allocation": "dra", **gpu})
    made = device_claims.make_claim_template("vision", "digits-r1", {"uid": "u"}, asked, aliases or {})
    (found,) = made["spec"]["spec"]["devices"]["requests"]
    return dict(found)


def test_without_wishes_any_whole_device_is_claimed() -> None:
    exactly = {"deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": 2}
    assert request(count=2) == {"name": "gpu", "exactly": exactly}


def test_a_type_that_is_named_twice_is_one_alternative() -> None:
    assert request(type=["h100", "h100"]) == request(type=["h100"])
    assert [each["name"] for each in request(type=["h100", "l4", "h100"])["firstAvailable"]] == ["h100", "l4"]


def test_an_alternative_has_a_dns_label_for_its_name_whatever_spelling_the_type_has() -> None:
    found = request(type=["NVIDIA-L4", "Tesla_T4.x"])["firstAvailable"]
    assert [each["name"] for each in found] == ["nvidia-l4", "tesla-t4-x"]
    assert "in ['nvidia-l4']" in found[0]["selectors"][0]["cel"]["expression"]


def test_an_alias_is_quoted() -> None:
    aliases = {"h100": {"nvidia.com/gpu.product": ["it's \\ one"]}}
    (selector,) = request(aliases, type=["h100"])["exactly"]["selectors"]
    assert selector["cel"]["expression"].endswith(", 'it\\'s \\\\ one']")


@pytest.mark.parametrize(
    "sharing", [{}, {"mode": "mig", "profile": "1g.10gb"}, {"mode": "fraction", "fraction": "0.5"}]
)
def test_a_claim_needs_no_labels_of_nodes_and_no_device_plugin(sharing: dict[str, str]) -> None:
    gpu = Gpu.from_json({"count": 1, "allocation": "dra", "type": ["h100", "l4"], "sharing": sharing})
    demand = node_affinity.NodeDemand(gpu, "never", {}, NodeLabels())
    (term,) = node_affinity.make_node_terms(demand)
    assert {each["key"] for each in term["matchExpressions"]} == set(spot.SPOT_LABELS)
    assert accelerators.device_tolerations(gpu) == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    devices = accelerators.replica_devices(gpu)
    assert devices is not None
    # Ray counts each device once: by the resources of the worker group, and by `num_gpus` of the replica.
    assert devices.ray_name == "GPU"
    assert accelerators.actor_options(devices) == {"num_gpus": 0.5 if sharing.get("fraction") else 1}
