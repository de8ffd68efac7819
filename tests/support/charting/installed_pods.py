"""Every pod of an installation: those that the chart renders, and those that the operator makes or has KubeRay make."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

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

MEMBER = {
    "apiVersion": "v1",
    "kind": "ModelDeployment",
    "metadata": {"name": "digits", "namespace": "vision", "uid": "m"},
}


def rendered(case: str) -> dict[str, Object]:
    """Return the specs of the chart's pods for a set of values, by kind and name."""
    made = [obj for obj in objects(values(case)) if obj["kind"] in {"Pod", "Deployment"}]
    specs = ((obj, obj["spec"] if obj["kind"] == "Pod" else obj["spec"]["template"]["spec"]) for obj in made)
    return {f"{obj['kind']} {obj['metadata']['name']}": spec for obj, spec in specs}


def installation(case: str) -> Installation:
    """Return the settings that the chart gives the operator for a set of values."""
    return parse_installation(service_account.installation(values(case)), "the chart's file")


@dataclass(frozen=True)
class Planned:
    """What the operator creates that has pods.

    Attributes:
        cluster: the RayCluster, with a worker group of its own for a model and one that models share.
        workloads: its Deployments and StatefulSets, by the names of their pods in the documentation.
    """

    cluster: Object
    workloads: dict[str, Object]


def planned(given: Installation, namespace: str = "vision") -> Planned:
    """Return the operator's objects with pods, for a model on a GPU from a claim."""
    spec = ModelDeploymentSpec.from_json(
        {
            "model": {"uri": "pvc://models/digits", "credentials": {"secretName": "registry"}},
            "resources": {"gpu": {"count": 1}},
        }
    )
    shared_spec = ModelDeploymentSpec.from_json({"model": {"uri": "https://models.example.com/digits.tar.gz"}})
    content = revisions.content_of(spec)
    revision = Revision(1, revisions.content_hash(content), content)
    image, second = given.runtime_image, timedelta(seconds=1)
    ray = ray_pods.make_ray_cluster(namespace, "ray", [MEMBER], image, given)
    ray["spec"]["workerGroupSpecs"] = [
        ray_pods.make_worker_group("digits", revision, (1, 1), image, given, second),
        ray_pods.make_shared_group([shared_spec], [1], image, given, second),
    ]
    edge = edge_pods.make_deployment(namespace, [MEMBER], given, feedback=True, drain_s=30)
    fault_tolerance = given.ray.gcs_fault_tolerance
    server = ValkeyServer(fault_tolerance.image, fault_tolerance.storage)
    owner = {**ray, "metadata": {**ray["metadata"], "uid": "r"}}
    of_ray = valkey.make_stateful_set(valkey.make_cluster_store(owner), server, given.ray.pods, None)
    of_edges = valkey.make_stateful_set(
        feedback_store.make_namespace_store(namespace, [MEMBER]),
        feedback_store.make_server(given),
        given.edge.pods,
        None,
    )
    return Planned(ray, {"edge": edge, "Ray's store": of_ray, "store of outcomes": of_edges})


def made(given: Installation) -> dict[str, Object]:
    """Return the specs of the pods that the operator makes or has made, by name. KubeRay adds to its own what is not here."""
    wanted = planned(given)
    ray: dict[str, Any] = wanted.cluster["spec"]
    head = ray["headGroupSpec"]["template"]["spec"]
    worker, shared = (group["template"]["spec"] for group in ray["workerGroupSpecs"])
    # KubeRay adds the container of the autoscaler, with what these options say.
    autoscaler = {"name": "autoscaler", **ray["autoscalerOptions"]}
    with_autoscaler = {**head, "containers": [*head["containers"], autoscaler]}
    others = {name: obj["spec"]["template"]["spec"] for name, obj in wanted.workloads.items()}
    return {"head": with_autoscaler, "worker": worker, "shared worker": shared, **others}
