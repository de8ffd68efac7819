"""Every pod of an installation passes OpenShift's `restricted-v2`: those that the chart renders, and those that the operator makes.

The rules are written down here as OpenShift documents this security context constraint; OpenShift itself was not run.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from charting.installed_pods import installation, made, rendered

CASE = "namespaced"
"""The value set in which users and groups are the cluster's affair."""
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
GIVEN_OUT = ("runAsUser", "seLinuxOptions")
"""What each namespace has a range of, so a pod that asks for its own is refused."""
CAPABILITIES = {"NET_BIND_SERVICE"}


def refusals(pod: Mapping[str, Any]) -> list[str]:
    """Why `restricted-v2` would refuse a pod, by its spec."""
    context = pod.get("securityContext") or {}
    found = [f"{field} is asked for" for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    found += [f"{field} is given out by the namespace" for field in (*GIVEN_OUT, "fsGroup") if field in context]
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("the seccomp profile is not RuntimeDefault")
    for volume in pod.get("volumes", ()):
        found += [f"volume {volume['name']} is a {kind}" for kind in volume.keys() - {"name"} - VOLUMES]
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        own = container.get("securityContext") or {}
        found += [f"{container['name']}: {why}" for why in _of_container({**context, **own}, container)]
    return found


def _of_container(context: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    capabilities = context.get("capabilities") or {}
    yield from (f"{field} is given out by the namespace" for field in GIVEN_OUT if field in context)
    if context.get("runAsNonRoot") is not True:
        yield "it may run as root"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "it may gain privileges"
    if context.get("privileged"):
        yield "it is privileged"
    if capabilities.get("drop") != ["ALL"]:
        yield "it does not drop all capabilities"
    if not set(capabilities.get("add", ())) <= CAPABILITIES:
        yield "it adds capabilities"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "it takes a port of the node"


@pytest.mark.parametrize("name", sorted(rendered(CASE)))
def test_what_the_chart_renders_is_taken(name: str) -> None:
    assert refusals(rendered(CASE)[name]) == []


@pytest.mark.parametrize("name", sorted(made(installation(CASE))))
def test_what_the_operator_makes_is_taken(name: str) -> None:
    assert refusals(made(installation(CASE))[name]) == []


@pytest.mark.parametrize("name", ["edge", "Ray's store", "store of outcomes"])
def test_a_fixed_user_would_be_refused(name: str) -> None:
    found = refusals(made(installation("smallest"))[name])
    assert "runAsUser is given out by the namespace" in found
    assert "fsGroup is given out by the namespace" in found


GOOD = made(installation(CASE))["edge"]


@pytest.mark.parametrize(
    "changes",
    [
        {"hostNetwork": True},
        {"securityContext": {**GOOD["securityContext"], "seccompProfile": {"type": "Unconfined"}}},
        {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}},
        {"volumes": [{"name": "node", "hostPath": {"path": "/"}}]},
        {"containers": [{"name": "bare"}]},
        *(
            {
                "containers": [
                    {**GOOD["containers"][0], "securityContext": {**GOOD["containers"][0]["securityContext"], **own}}
                ]
            }
            for own in (
                {"runAsUser": 1000},
                {"runAsNonRoot": False},
                {"privileged": True},
                {"allowPrivilegeEscalation": True},
                {"capabilities": {"drop": ["NET_RAW"]}},
                {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}},
            )
        ),
        {"containers": [{**GOOD["containers"][0], "ports": [{"containerPort": 80, "hostPort": 80}]}]},
    ],
)
def test_each_rule_is_looked_at(changes: dict[str, Any]) -> None:
    assert refusals(GOOD) == []
    assert refusals({**GOOD, **changes})
