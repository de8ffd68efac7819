"""The operator lives a whole life as the chart's own account: it is refused nothing, and holds no right that it does not use.

The API server is real and writes down every request; KubeRay, Serve and the edges are stood in for, so that no pod has to run.
"""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from charting import NAMESPACE, RELEASE, service_account, values
from charting.lifecycle import CANARY, KEYS, MDEP, RECREATE, TEAM, TIMED, Life, beginning, model_deployment
from charting.service_account import Grant
from real_kubernetes import audit, gateway_api
from real_kubernetes.audit import Right
from real_kubernetes.cluster import Cluster
from real_kubernetes.kubectl import Kubectl
from sundog_operator.core.kubernetes import names
from sundog_operator.shell.operator import LEASE_NAME

# Names that are always the same: a right that is needed for these alone is granted for these alone.
POLICIES = {names.EDGE, names.RAY, names.RAY_HEADS, names.RAY_WORKERS, names.VALKEY}
FIXED = {*POLICIES, names.EDGE_STORE, LEASE_NAME}
# Held for what no stand-in and no real request shows.
NOT_ASKED_FOR = {
    Grant(Right("update", "modeldeployments/finalizers.serving.sundog.dev")): "asked for by admission alone",
    Grant(Right("update", "rayclusters/finalizers.ray.io")): "likewise",
    Grant(Right("list", "secrets"), names.EDGE): "each edge is granted it, and nobody can grant what he does not hold",
    Grant(Right("watch", "secrets"), names.EDGE): "likewise",
    Grant(Right("list", "workloads.kueue.x-k8s.io")): "asked for only while a pod waits in a queue of Kueue",
    Grant(Right("get", "resourceclaimtemplates.resource.k8s.io")): "asked for only by models whose pods claim devices",
    Grant(Right("create", "resourceclaimtemplates.resource.k8s.io")): "likewise",
    Grant(Right("create", "leases.coordination.k8s.io")): "of one alone, but a name does not bind who makes it by POST",
    # Of the shared objects of a namespace, whose owners change.
    **{
        Grant(Right("delete", resource), name): "asked for by admission, not by a request"
        for resource, owned in {
            "configmaps": {names.EDGE},
            "secrets": {names.EDGE, names.RAY},
            "serviceaccounts": {names.EDGE},
            "services": {names.EDGE},
            "deployments.apps": {names.EDGE},
            "roles.rbac.authorization.k8s.io": {names.EDGE},
            "rolebindings.rbac.authorization.k8s.io": {names.EDGE},
        }.items()
        for name in owned
    },
}
HISTORY = 13
NODES = audit.Use(Right("list", "nodes"), "", "")


@pytest.fixture(scope="module")
def audited(api_server: Cluster) -> Cluster:
    """An API server that writes down what accounts do. Skips where it is somebody else's."""
    if api_server.instance is None:
        pytest.skip("only the API server of these tests writes down what accounts do")
    return api_server


def record(audited: Cluster, name: str) -> tuple[set[audit.Use], set[audit.Use]]:
    """What the account of the release of that name did, and what it was refused."""
    assert audited.instance is not None
    log, who = audit.log(audited.instance), f"{NAMESPACE}:{name}"
    return audit.uses(log, who), audit.refusals(log, who)


@pytest.fixture(scope="module")
def used(audited: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[set[audit.Use], set[audit.Use]]:
    """What the account did in a whole life, and what it was refused."""
    gateway_api.apply_crds(audited.kubectl)
    with beginning(audited, tmp_path_factory.mktemp("rights")) as life:
        live(audited, life)
    return record(audited, RELEASE)


def make_keys(kubectl: Kubectl) -> None:
    """The Secret that `KEYS` names."""
    kubectl("-n", TEAM, "create", "secret", "generic", "keys", "--from-literal=ann=0123456789abcdef0123456789abcdef")


def live(audited: Cluster, life: Life) -> None:
    """From the first version to the last."""
    kubectl = audited.kubectl
    make_keys(kubectl)
    life.apply(1, **CANARY, **KEYS)
    life.until_serves(1)
    life.apply(2, **CANARY, **KEYS)
    life.until_weight(25)
    life.command("abort revision=2 id=a")
    life.until(lambda: life.condition("Stalled") == ("True", "Aborted"), "an end of the canary")
    two_pods(kubectl, life)
    more_rollouts_than_are_kept(life)
    another_image(kubectl, life)
    a_port_for_tls(kubectl, life)
    outcomes_wanted(kubectl, life)
    a_neighbour(kubectl, life)
    outcomes_wanted_no_more(kubectl, life)
    a_gateway(kubectl, life)
    what_pods_refer_to(kubectl, life)
    a_head_without_its_autoscaler(kubectl, life)
    a_status_that_somebody_else_writes_too(audited, life)
    kubectl("-n", TEAM, "delete", MDEP, "--all")
    life.until(lambda: not kubectl.get("-n", TEAM, "controllerrevisions")["items"], "nothing of it left")
    # The operator deletes them after the last pod.
    selector = f"{names.LABEL_MANAGED_BY}={names.MANAGER}"
    life.until(lambda: not kubectl.get("-n", TEAM, "networkpolicies", "-l", selector)["items"], "no policy left")


def two_pods(kubectl: Kubectl, life: Life) -> None:
    """A second and a third pod, for which a disruption budget comes and changes; it goes with their revision."""

    def budgets() -> list[int]:
        found = kubectl.get("-n", TEAM, "poddisruptionbudgets", "-l", f"{names.LABEL_NAME}={names.RAY}")["items"]
        return [each["spec"]["minAvailable"] for each in found]

    for replicas in (2, 3):
        life.apply(2, **CANARY, **KEYS, replicas=replicas)
        life.until(lambda kept=replicas - 1: budgets() == [kept], f"the disruption budget of {replicas} pods")
    life.apply(3, **RECREATE, **KEYS)
    life.until_serves(3)
    life.until(lambda: not budgets(), "no disruption budget of one pod")


def more_rollouts_than_are_kept(life: Life) -> None:
    for version in range(3, 3 + HISTORY):
        life.apply(version, **TIMED, **KEYS)
        life.until_serves(version)


def another_image(kubectl: Kubectl, life: Life) -> None:
    """A RayCluster for the image; that of the old one goes with its last revision, and its store after it.

    The next of the old name may not take the store's Service over, which takes the right to delete it: it waits for the garbage collector.
    """
    life.apply(1, **RECREATE, runtime={"image": "registry.example.com/another:1"})
    life.until_serves(1)
    life.until(lambda: len(kubectl.get("-n", TEAM, "rayclusters")["items"]) == 1, "one RayCluster")
    stores = ("services", "-l", f"{names.LABEL_NAME}={names.VALKEY}")
    life.until(lambda: len(kubectl.get("-n", TEAM, *stores)["items"]) == 1, "one store")


def a_port_for_tls(kubectl: Kubectl, life: Life) -> None:
    """The Service gets a port and loses it again, whoever made it first."""

    def ports() -> list[int]:
        return [port["port"] for port in kubectl.get("-n", TEAM, "services", "digits")["spec"]["ports"]]

    as_before = {**RECREATE, "runtime": {"image": "registry.example.com/another:1"}}
    life.apply(1, **as_before, endpoint={"tls": {"secretName": "keys"}})
    life.until(lambda: ports() == [80, 443, 9000], "a port for TLS")
    life.apply(1, **as_before)
    life.until(lambda: ports() == [80, 9000], "no port for TLS")


def outcomes_wanted(kubectl: Kubectl, life: Life) -> None:
    """An Experiment with a metric of outcomes, and so a store of the edges."""
    head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "Experiment"}
    success = [{"name": "conversion", "feedback": "converted"}]
    spec = {"modelDeployment": "digits", "arms": [{"name": "wide"}], "metrics": {"success": success}}
    kubectl.apply({**head, "metadata": {"name": "wide-or-narrow", "namespace": TEAM}, "spec": spec})
    life.until(lambda: stores(kubectl) == {"Secret", "Service", "StatefulSet", "NetworkPolicy"}, "a store of the edges")


def outcomes_wanted_no_more(kubectl: Kubectl, life: Life) -> None:
    """All of the store goes, which by then two ModelDeployments own."""
    kubectl("-n", TEAM, "delete", "experiments.serving.sundog.dev", "wide-or-narrow")
    life.until(lambda: not stores(kubectl), "no store of the edges")


def stores(kubectl: Kubectl) -> set[str]:
    """The kinds of which there is an object of the edges' store."""
    kinds = "secrets,services,statefulsets,networkpolicies"
    found = kubectl.get("-n", TEAM, kinds, "-l", f"{names.LABEL_NAME}={names.EDGE_STORE}")
    return {obj["kind"] for obj in found["items"]}


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
    for kind in ("secret", "service", "statefulset"):
        life.until(
            lambda kind=kind: uid in owners(kubectl, kind, names.EDGE_STORE),
            f"{kind} of the edges' store owned by both",
        )


def a_gateway(kubectl: Kubectl, life: Life) -> None:
    """A route that comes, and goes with the field."""
    life.apply(1, **RECREATE, endpoint={"gateway": {"name": "public"}})
    life.until(lambda: kubectl.succeeds("-n", TEAM, "get", gateway_api.HTTP_ROUTES, "digits"), "a route")
    life.apply(1, **RECREATE)
    life.until(lambda: not kubectl.get("-n", TEAM, gateway_api.HTTP_ROUTES)["items"], "no route")


def what_pods_refer_to(kubectl: Kubectl, life: Life) -> None:
    """A ConfigMap in the environment, and the account that the model's source is read with."""
    kubectl("-n", TEAM, "create", "configmap", "settings", "--from-literal=level=info")
    kubectl("-n", TEAM, "create", "serviceaccount", "reader")
    model = {**model_deployment(2)["spec"]["model"], "credentials": {"serviceAccountName": "reader"}}
    env = [{"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}}]
    life.apply(2, **RECREATE, model=model, runtime={"env": env})
    life.until_serves(2)


def a_head_without_its_autoscaler(kubectl: Kubectl, life: Life) -> None:
    """The operator deletes the pod, for KubeRay to make another, and asks whether it is gone."""
    cluster = life.status()["cluster"]
    containers = [{"name": name, "image": "registry.example.com/ray:1"} for name in ("ray-head", "autoscaler")]
    labels = {**names.labels(names.RAY), "ray.io/cluster": cluster, "ray.io/node-type": "head"}
    owner = kubectl.get("-n", TEAM, "raycluster", cluster)
    reference = {"apiVersion": owner["apiVersion"], "kind": "RayCluster", "name": cluster, "controller": True}
    reference["uid"] = owner["metadata"]["uid"]
    head = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{cluster}-head-ended",
            "namespace": TEAM,
            "labels": labels,
            "ownerReferences": [reference],
        },
        "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": containers},
    }
    kubectl.apply(head)
    ended = {"name": "autoscaler", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    status = {"containerStatuses": [{**ended, "state": {"terminated": {"exitCode": 1}}}]}
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    kubectl("-n", TEAM, "patch", "pod", head["metadata"]["name"], *patch)
    life.until(lambda: not kubectl.get("-n", TEAM, "pods", "-l", "ray.io/node-type=head")["items"], "no such head")


def a_status_that_somebody_else_writes_too(audited: Cluster, life: Life) -> None:
    """The operator's write of the status comes too late, and it reads the object anew; again until that has happened."""
    asked = audit.Use(Right("get", MDEP), TEAM, "digits")
    numbers = itertools.count()

    def annotate(number: int) -> None:
        audited.kubectl("-n", TEAM, "annotate", "--overwrite", MDEP, "digits", f"example.com/note={number}")

    def is_asked() -> bool:
        with ThreadPoolExecutor() as pool:
            # A command that is rejected is told by a status.
            command = pool.submit(life.command, f"promote revision=999 id=n{next(numbers)}")
            list(pool.map(annotate, itertools.islice(numbers, 4)))
            command.result()
        return asked in record(audited, RELEASE)[0]

    life.until(is_asked, "an object that is read again")


def owners(kubectl: Kubectl, kind: str, name: str = names.EDGE) -> set[str]:
    found = kubectl.get("-n", TEAM, kind, name)
    return {reference["uid"] for reference in found["metadata"]["ownerReferences"]}


def test_the_operator_is_refused_nothing(used: tuple[set[audit.Use], set[audit.Use]]) -> None:
    assert sorted(map(str, used[1])) == []


def test_no_right_is_granted_that_is_not_used(used: tuple[set[audit.Use], set[audit.Use]]) -> None:
    unused = service_account.unused(service_account.granted(values("smallest")), used[0], FIXED)
    assert sorted(map(str, unused - NOT_ASKED_FOR.keys())) == []


def test_no_exception_is_out_of_date(used: tuple[set[audit.Use], set[audit.Use]]) -> None:
    held = service_account.granted(values("smallest"))
    assert sorted(map(str, NOT_ASKED_FOR.keys() - service_account.unused(held, used[0], FIXED))) == []


def test_secrets_are_listed_and_watched_where_the_installation_says_so(audited: Cluster, tmp_path: Path) -> None:
    with beginning(audited, tmp_path, name="watching", changes={"installation": {"watchSecrets": True}}) as life:
        life.apply(1, **RECREATE, **KEYS)
        life.until(lambda: life.condition("TrafficSynced") == ("False", "SecretNotFound"), "no Secret")
        make_keys(audited.kubectl)
        life.until_serves(1)
        life.until(lambda: life.condition("TrafficSynced")[0] == "True", "the Secret in the edge")
    uses, refusals = record(audited, "watching")
    of_secrets = {use.right.verb for use in uses if use.right.resource == "secrets" and not use.name}
    assert of_secrets >= {"list", "watch"}
    assert refusals == set()


def test_roles_in_the_watched_namespaces_alone_are_enough_to_serve(audited: Cluster, tmp_path: Path) -> None:
    kubectl = audited.kubectl
    gateway_api.apply_crds(kubectl)
    with beginning(audited, tmp_path, name="namespaced", changes={"watchNamespaces": [TEAM]}) as life:
        life.apply(1, **CANARY)
        life.until_serves(1)
        life.apply(2, **CANARY)
        life.until_weight(25)
        life.command("promote revision=2 id=p full=true")
        life.until_serves(2)
        another_image(kubectl, life)
        kubectl.apply(model_deployment(1, "letters", **RECREATE))
        life.until(lambda: life.condition("Ready", "letters")[0] == "True", "a neighbour that serves")
        a_gateway(kubectl, life)
        kubectl.apply(model_deployment(1, "pictures", **RECREATE, resources={"gpu": {"count": 1}}))
        life.until(lambda: life.condition("Ready", "pictures")[0] == "True", "a neighbour with a GPU that serves")
        kubectl("-n", TEAM, "delete", MDEP, "--all")
        life.until(lambda: not kubectl.get("-n", TEAM, "controllerrevisions")["items"], "nothing of it left")
    uses, refusals = record(audited, "namespaced")
    # No node is in a namespace: whether a GPU is free is not known, and asked once.
    assert refusals == {NODES}
    assert audited.instance is not None
    assert audit.requests(audit.log(audited.instance), f"{NAMESPACE}:namespaced").count(NODES) == 1
    everywhere = {use.right.resource for use in uses if not use.namespace}
    assert "modeldeployments.serving.sundog.dev" not in everywhere
