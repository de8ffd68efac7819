"""Every pod of an installation passes OpenShift's `restricted-v2`: those that the chart renders, and those that the operator makes.

The rules are written down here as OpenShift documents this security context constraint; OpenShift itself was not run.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from charting import Object, objects, service_account, values
from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.installation import Installation, parse_installation
from sundog_operator.core import revisions
from sundog_operator.core.edge import deployment as edge_pods
from sundog_operator.core.edge import feedback_store
from sundog_operator.core.ray import pods as ray_pods
from sundog_operator.core.ray import valkey
from sundog_operator.core.ray.valkey import ValkeyServer
from sundog_operator.core.revisions import Revision

CASE = "namespaced"
"""The value set in which users and groups are the cluster's affair."""
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
GIVEN_OUT = ("runAsUser", "seLinuxOptions")
"""What each namespace has a range of, so a pod that asks for its own is refused."""
CAPABILITIES = {"NET_BIND_SERVICE"}
MEMBER = {
    "apiVersion": "v1",
    "kind": "ModelDeployment",
    "metadata": {"name": "digits", "namespace": "vision", "uid": "m"},
}


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


def rendered() -> dict[str, Object]:
    """The pods of the chart, by name."""
    made = [obj for obj in objects(values(CASE)) if obj["kind"] in {"Pod", "Deployment"}]
    specs = ((obj, obj["spec"] if obj["kind"] == "Pod" else obj["spec"]["template"]["spec"]) for obj in made)
    return {f"{obj['kind']} {obj['metadata']['name']}": spec for obj, spec in specs}


def installation(case: str = CASE) -> Installation:
    return parse_installation(service_account.installation(values(case)), "the chart's file")


def made(given: Installation) -> dict[str, Object]:
    """The pods that the operator makes or has made by KubeRay."""
    spec = ModelDeploymentSpec.from_json(
        {
            "model": {"uri": "pvc://models/digits", "credentials": {"secretName": "registry"}},
            "resources": {"gpu": {"count": 1}},
        }
    )
    content = revisions.content_of(spec)
    revision = Revision(1, revisions.content_hash(content), content)
    ray = ray_pods.make_ray_cluster("vision", "ray", [MEMBER], given.runtime_image, given)
    ray["metadata"]["uid"] = "r"
    group = ray_pods.make_worker_group("digits", revision, (1, 1), given.runtime_image, given, timedelta(seconds=1))
    edge = edge_pods.make_deployment("vision", [MEMBER], given, feedback=True, drain_s=30)
    fault_tolerance = given.ray.gcs_fault_tolerance
    server = ValkeyServer(fault_tolerance.image, fault_tolerance.storage)
    of_ray = valkey.make_stateful_set(valkey.make_cluster_store(ray), server, given.ray.pods, None)
    of_edges = valkey.make_stateful_set(
        feedback_store.make_namespace_store("vision", [MEMBER]),
        feedback_store.make_server(given),
        given.edge.pods,
        None,
    )
    head = ray["spec"]["headGroupSpec"]["template"]["spec"]
    # KubeRay adds the container of the autoscaler, with what these options say.
    autoscaler = {"name": "autoscaler", **ray["spec"]["autoscalerOptions"]}
    return {
        "head": {**head, "containers": [*head["containers"], autoscaler]},
        "worker": group["template"]["spec"],
        "edge": edge["spec"]["template"]["spec"],
        "Ray's store": of_ray["spec"]["template"]["spec"],
        "the edges' store": of_edges["spec"]["template"]["spec"],
    }


@pytest.mark.parametrize("name", sorted(rendered()))
def test_what_the_chart_renders_is_taken(name: str) -> None:
    assert refusals(rendered()[name]) == []


@pytest.mark.parametrize("name", sorted(made(installation())))
def test_what_the_operator_makes_is_taken(name: str) -> None:
    assert refusals(made(installation())[name]) == []


@pytest.mark.parametrize("name", ["edge", "Ray's store", "the edges' store"])
def test_a_fixed_user_would_be_refused(name: str) -> None:
    found = refusals(made(installation("smallest"))[name])
    assert "runAsUser is given out by the namespace" in found
    assert "fsGroup is given out by the namespace" in found


GOOD = made(installation())["edge"]


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
