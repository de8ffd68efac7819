"""The operator lives a whole life as the chart's own account: it is refused nothing, and holds no right that it does not use.

The API server is real and writes down every request; KubeRay, Serve and the edges are stood in for, so that no pod has to run.
"""

import pytest

from charting import account, values
from charting.life import CANARY, KEYS, MDEP, RECREATE, TEAM, TIMED, Life, beginning, model_deployment
from real_kubernetes import audit, gateway_api
from real_kubernetes.audit import Right
from real_kubernetes.cluster import Cluster
from real_kubernetes.kubectl import Kubectl

# Held for what no stand-in and no real request shows.
NOT_ASKED_FOR = {
    Right("update", "modeldeployments/finalizers.serving.sundog.dev"): "asked for by admission, not by a request",
    Right("update", "rayclusters/finalizers.ray.io"): "likewise",
    Right(
        "list", "secrets"
    ): "of `sundog-edge` alone: each edge is granted it, and nobody can grant what he does not hold",
    Right("watch", "secrets"): "likewise",
    Right("delete", "pods"): "for an edge that stays behind an abort for a minute; stand-ins never do",
    # Of the shared objects of a namespace, whose owners change.
    **{
        Right("delete", resource): "asked for by admission, not by a request"
        for resource in (
            *(
                "configmaps",
                "secrets",
                "serviceaccounts",
                "services",
                "deployments.apps",
                "poddisruptionbudgets.policy",
            ),
            *(
                "roles.rbac.authorization.k8s.io",
                "rolebindings.rbac.authorization.k8s.io",
                "networkpolicies.networking.k8s.io",
            ),
        )
    },
}
HISTORY = 13


@pytest.fixture(scope="module")
def used(api_server: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[set[audit.Use], set[audit.Use]]:
    """What the account did in a whole life, and what it was refused."""
    if api_server.instance is None:
        pytest.skip("only the API server of these tests writes down what accounts do")
    gateway_api.apply_crds(api_server.kubectl)
    with beginning(api_server, tmp_path_factory.mktemp("rights")) as life:
        live(api_server.kubectl, life)
    log, name = audit.log(api_server.instance), account.ACCOUNT
    return audit.uses(log, name), audit.refusals(log, name)


def live(kubectl: Kubectl, life: Life) -> None:
    """From the first version to the last."""
    kubectl("-n", TEAM, "create", "secret", "generic", "keys", "--from-literal=ann=0123456789abcdef0123456789abcdef")
    life.apply(1, **CANARY, **KEYS)
    life.until_serves(1)
    life.apply(2, **CANARY, **KEYS)
    life.until_weight(25)
    life.command("abort revision=2 id=a")
    life.until(lambda: life.condition("Stalled") == ("True", "Aborted"), "an end of the canary")
    more_rollouts_than_are_kept(life)
    another_image(kubectl, life)
    a_neighbour(kubectl, life)
    a_gateway(kubectl, life)
    kubectl("-n", TEAM, "delete", MDEP, "--all")
    life.until(lambda: not kubectl.get("-n", TEAM, "controllerrevisions")["items"], "nothing of it left")


def more_rollouts_than_are_kept(life: Life) -> None:
    for version in range(3, 3 + HISTORY):
        life.apply(version, **TIMED, **KEYS)
        life.until_serves(version)


def another_image(kubectl: Kubectl, life: Life) -> None:
    """A RayCluster for the image; that of the old one goes with its last revision."""
    life.apply(1, **RECREATE, runtime={"image": "registry.example.com/another:1"})
    life.until_serves(1)
    life.until(lambda: len(kubectl.get("-n", TEAM, "rayclusters")["items"]) == 1, "one RayCluster")


def a_neighbour(kubectl: Kubectl, life: Life) -> None:
    """Another ModelDeployment on the same edge, from a claim, with a GPU that no node has."""
    claim = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
    meta = {"name": "models", "namespace": TEAM}
    kubectl.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": claim})
    neighbour = model_deployment(1, "letters", **RECREATE, resources={"gpu": {"count": 1}})
    neighbour["spec"]["model"]["uri"] = "pvc://models/letters/v1"
    kubectl.apply(neighbour)
    life.until(lambda: life.condition("CapacityAvailable", "letters")[0] == "False", "no GPU")
    uid = kubectl.get("-n", TEAM, MDEP, "letters")["metadata"]["uid"]
    for kind in ("secret", "configmap", "role", "deployment", "service"):
        life.until(lambda kind=kind: uid in owners(kubectl, kind), f"{kind} sundog-edge owned by both")


def a_gateway(kubectl: Kubectl, life: Life) -> None:
    """A route that comes, and goes with the field."""
    life.apply(1, **RECREATE, endpoint={"gateway": {"name": "public"}})
    life.until(lambda: kubectl.succeeds("-n", TEAM, "get", gateway_api.HTTP_ROUTES, "digits"), "a route")
    life.apply(1, **RECREATE)
    life.until(lambda: not kubectl.get("-n", TEAM, gateway_api.HTTP_ROUTES)["items"], "no route")


def owners(kubectl: Kubectl, kind: str) -> set[str]:
    found = kubectl.get("-n", TEAM, kind, "sundog-edge")
    return {reference["uid"] for reference in found["metadata"]["ownerReferences"]}


def test_the_operator_is_refused_nothing(used: tuple[set[audit.Use], set[audit.Use]]) -> None:
    assert sorted(map(str, used[1])) == []


def test_no_right_is_granted_that_is_not_used(used: tuple[set[audit.Use], set[audit.Use]]) -> None:
    asked_for = {use.right for use in used[0]}
    granted = account.granted(values("smallest"))
    # Who may list may read: whether an object is asked for, too, is up to what was in memory.
    readable = {Right("get", right.resource) for right in granted if right.verb == "list"}
    unused = granted - asked_for - NOT_ASKED_FOR.keys() - readable
    assert sorted(map(str, unused)) == []


def test_no_exception_is_out_of_date(used: tuple[set[audit.Use], set[audit.Use]]) -> None:
    asked_for = {use.right for use in used[0]}
    assert not asked_for & NOT_ASKED_FOR.keys()
    assert NOT_ASKED_FOR.keys() <= account.granted(values("smallest"))
