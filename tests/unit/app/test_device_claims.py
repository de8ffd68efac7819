"""A ModelDeployment whose pods claim devices, in memory with stand-ins for KubeRay and Ray."""

from typing import Any

import pytest

from doubles.cluster import MANUAL, NAME, NAMESPACE, Cluster
from doubles.kuberay import create_with_status
from sundog_operator.api.installation import parse_installation
from sundog_operator.app.claim_templates import ensure_claim_template
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.errors import Conflict, Forbidden, Invalid, NotServed
from sundog_operator.ports import (
    CONTROLLER_REVISION,
    POD,
    RAY_CLUSTER,
    RESOURCE_CLAIM_TEMPLATE,
    RESOURCE_QUOTA,
    Object,
    Ref,
)

INSTALLATION = parse_installation("runtimeImage: example.com/runtime:1", "test")
QUOTA = "gpu.nvidia.com.deviceclass.resource.k8s.io/devices"
CLAIMED: dict[str, Any] = {"replicas": 2, "resources": {"gpu": {"count": 2, "allocation": "dra"}}}
TEMPLATE = Ref(RESOURCE_CLAIM_TEMPLATE, NAMESPACE, f"{NAME}-r1")


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster(installation=INSTALLATION)
    assert made.kuberay is not None
    made.kuberay.node = "node"
    return made


async def test_pods_claim_devices_from_a_template_that_goes_with_the_revision(cluster: Cluster) -> None:
    await cluster.deploy(**CLAIMED)
    template = await cluster.kube.get(TEMPLATE)
    owner = await cluster.kube.get(Ref(CONTROLLER_REVISION, NAMESPACE, f"{NAME}-r1"))
    assert template is not None
    assert owner is not None
    assert revisions.owner_uids(template) == (owner["metadata"]["uid"],)
    pods = await cluster.kube.list(POD, NAMESPACE, {names.LABEL_REVISION: "1"})
    assert [pod["spec"]["resourceClaims"] for pod in pods] == [
        [{"name": "devices", "resourceClaimTemplateName": f"{NAME}-r1"}]
    ] * 2
    await cluster.settle(20)
    assert await cluster.read_condition("CapacityAvailable") == ("True", "Fits", "2 gpu.nvidia.com for each replica")
    assert (await cluster.status())["capacity"] == {"gpusRequested": 4, "gpusAllocated": 4, "mode": "surge"}


async def test_a_quota_of_claims_holds_a_canary_back(cluster: Cluster) -> None:
    await cluster.deploy(**CLAIMED)
    quota: Object = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team", "namespace": NAMESPACE}}
    await create_with_status(cluster.kube, RESOURCE_QUOTA, quota, {"hard": {QUOTA: "5"}, "used": {QUOTA: "4"}})
    await cluster.apply("file:///models/v2", **CLAIMED, rollout={**MANUAL, "capacity": "surge"})
    await cluster.settle(5)
    message = (
        "revision 2: 4 gpu.nvidia.com needed (2 × 2), 1 left by the namespace's quota. Raise the quota, or ask for less"
    )
    assert await cluster.read_condition("CapacityAvailable") == ("False", "InsufficientQuota", message)


async def test_a_cluster_without_the_api_is_named_and_other_models_go_on(cluster: Cluster) -> None:
    await cluster.deploy()
    cluster.kube.faults = lambda _, ref: (
        NotServed("no resourceclaimtemplates") if ref.kind == RESOURCE_CLAIM_TEMPLATE else None
    )
    serve = next(iter(cluster.serve_apis.by_dashboard.values()))
    serve.room[f"{NAME}-r2"] = 0
    await cluster.apply("file:///models/v2", **CLAIMED)
    await cluster.settle(5)
    status, reason, message = await cluster.read_condition("RevisionReady")
    assert (status, reason) == ("False", "DRAMissing")
    assert message == (
        "revision 2: spec.resources.gpu.allocation: dra, and the API server does not serve ResourceClaimTemplates of"
        " resource.k8s.io/v1; expected Kubernetes 1.34 or later. Set allocation: devicePlugin"
    )
    assert (await cluster.condition("Ready"))[0] == "True"


@pytest.mark.parametrize("refusal", [Forbidden("denied"), Invalid("template", ["spec: too many"])])
async def test_a_refused_template_holds_up_no_other_group(cluster: Cluster, refusal: Exception) -> None:
    cluster.kube.faults = lambda verb, ref: (
        refusal if ref.kind == RESOURCE_CLAIM_TEMPLATE and verb == "create" else None
    )
    await cluster.apply(**CLAIMED)
    await cluster.settle(5)
    (ray_cluster,) = await cluster.kube.list(RAY_CLUSTER, NAMESPACE)
    assert [each["groupName"] for each in ray_cluster["spec"]["workerGroupSpecs"]] == ["digits-r1"]
    cluster.kube.faults = lambda *_: None
    await cluster.settle(5)
    assert await cluster.kube.get(TEMPLATE) is not None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "was not made by Sundog"),
        (names.labels(names.RAY), "belongs to a deleted revision; waiting until Kubernetes"),
    ],
)
async def test_a_template_of_others_is_not_used(cluster: Cluster, labels: dict[str, str], message: str) -> None:
    await cluster.deploy(**CLAIMED)
    (stored,) = await cluster.kube.list(CONTROLLER_REVISION, NAMESPACE)
    revision = revisions.parse_controller_revision(stored)
    assert revision is not None
    await cluster.kube.delete(TEMPLATE)
    meta = {"name": TEMPLATE.name, "namespace": NAMESPACE, "labels": labels}
    kind = {"apiVersion": RESOURCE_CLAIM_TEMPLATE.api_version, "kind": RESOURCE_CLAIM_TEMPLATE.kind}
    await cluster.kube.create({**kind, "metadata": meta})
    with pytest.raises(Conflict, match=message):
        await ensure_claim_template(cluster.world, {"name": NAME, "namespace": NAMESPACE}, revision, INSTALLATION)
