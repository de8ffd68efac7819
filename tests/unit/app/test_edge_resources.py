"""The edge of a namespace in a cluster: the order of its creation, foreign objects, and the messages about it."""

import base64
import json
from typing import Any

import pytest

from doubles.cluster import NAME, NAMESPACE, Cluster, model_deployment
from sundog_operator.api.installation import Installation, NetworkPolicySettings
from sundog_operator.app.controller import Controller
from sundog_operator.app.queue.keys import Key, edge_key
from sundog_operator.app.reconcile_edge import RESYNC_S, UNCONFIRMED_RESYNC_S, reconcile_edge
from sundog_operator.core.edge import network_policies
from sundog_operator.core.kubernetes import names
from sundog_operator.core.revisions import owner_reference
from sundog_operator.errors import Conflict, DependencyError, Forbidden, Invalid, NotServed, SundogError
from sundog_operator.ports import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    HTTP_ROUTE,
    KINDS,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    RAY_CLUSTER,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
    Object,
    Ref,
    ref_of,
)

SHARED = (CONFIG_MAP, SECRET, SERVICE_ACCOUNT, ROLE, ROLE_BINDING, POD_DISRUPTION_BUDGET, SERVICE, DEPLOYMENT)
POLICIES = NetworkPolicySettings(enabled=True, operator_namespace="sundog-system")
ENDPOINT = {"auth": {"apiKeys": {"secretName": "keys"}}}


@pytest.fixture
async def cluster() -> Cluster:
    """ModelDeployments whose ConfigMap comes from local mode, then in an installation in a cluster."""
    cluster = Cluster()
    await cluster.apply(endpoint=ENDPOINT)
    await cluster.kube.apply(model_deployment(name="other"))
    await cluster.settle(20)
    await cluster.kube.delete(Ref(DEPLOYMENT, NAMESPACE, names.EDGE))
    await cluster.kube.delete(Ref(CONFIG_MAP, NAMESPACE, names.EDGE))
    await cluster.kube.delete(Ref(POD, NAMESPACE, f"{names.EDGE}-0"))
    cluster.install(Installation())
    return cluster


async def reconcile(cluster: Cluster) -> float | None:
    return await reconcile_edge(cluster.world, edge_key(NAMESPACE))


async def reconcile_with_token(cluster: Cluster) -> None:
    """Make the edge and its pods, which need the token of Ray."""
    await cluster.put_secret(names.RAY, token="t")
    await reconcile(cluster)


async def composed(cluster: Cluster) -> dict[str, dict[str, str]]:
    stored = await cluster.read(Ref(SECRET, NAMESPACE, names.EDGE))
    return {name: json.loads(base64.b64decode(text)) for name, text in stored.get("data", {}).items()}


async def exists(cluster: Cluster, kind: Kind, name: str = names.EDGE) -> bool:
    return await cluster.kube.get(Ref(kind, NAMESPACE, name)) is not None


async def test_everything_is_made_and_made_once(cluster: Cluster) -> None:
    await reconcile_with_token(cluster)
    assert [kind.kind for kind in SHARED if not await exists(cluster, kind)] == []
    assert await exists(cluster, SERVICE, NAME)
    assert await exists(cluster, SERVICE, "other")
    assert await cluster.writes_of(reconcile(cluster)) == []


async def test_pods_wait_for_the_token_of_ray(cluster: Cluster) -> None:
    assert await reconcile(cluster) == UNCONFIRMED_RESYNC_S
    assert not await exists(cluster, DEPLOYMENT)
    assert await exists(cluster, CONFIG_MAP)
    await cluster.put_secret(names.RAY, token="t")
    assert await reconcile(cluster) != UNCONFIRMED_RESYNC_S
    assert await exists(cluster, DEPLOYMENT)


async def test_pods_outlive_an_autoscaler_that_sets_no_replicas_and_back(cluster: Cluster) -> None:
    """At zero a request may be at an edge for longer. Pods that could wait for it are not replaced when a replica is back."""

    async def grace_s() -> int:
        stored = await cluster.read(Ref(DEPLOYMENT, NAMESPACE, names.EDGE))
        return int(stored["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])

    await cluster.put_secret(names.RAY, token="t")
    found = []
    for replicas in (1, 0, 2):
        await cluster.apply(endpoint=ENDPOINT, replicas=replicas)
        await reconcile(cluster)
        found.append(await grace_s())
    assert found == [160, 280, 280]
    for timeout in ("1h", "30s"):
        await cluster.apply(endpoint={**ENDPOINT, "requestTimeout": timeout}, replicas=2)
        await reconcile(cluster)
        found.append(await grace_s())
    assert found[3] > 3600
    assert found[4] == 160
    await cluster.apply(endpoint=ENDPOINT, replicas=0)
    await reconcile(cluster)
    assert await grace_s() == 280
    await cluster.apply(endpoint=ENDPOINT, replicas=1)
    # What replaces the pods anyway shortens their time again.
    cluster.install(Installation(edge_image="edge:2"))
    await reconcile(cluster)
    assert await grace_s() == 160


async def test_a_secret_is_there_before_it_is_named_and_goes_after_its_name(cluster: Cluster) -> None:
    await cluster.put_secret("keys", ann="a")
    await cluster.put_secret("next", ann="b")
    await cluster.put_secret("unnamed", ann="c")
    await reconcile(cluster)
    assert [write.ref.kind for write in cluster.kube.writes if write.ref.name == names.EDGE][-7:][:2] == [
        SECRET,
        CONFIG_MAP,
    ]
    assert await composed(cluster) == {"keys": {"ann": base64.b64encode(b"a").decode()}}
    await cluster.apply(endpoint={"auth": {"apiKeys": {"secretName": "next"}}})
    await reconcile(cluster)
    assert set(await composed(cluster)) == {"keys", "next"}, "edges that are late still have the one that they need"
    await reconcile(cluster)
    assert set(await composed(cluster)) == {"next"}


async def test_a_secret_that_changes_or_goes_changes_in_the_copy(cluster: Cluster) -> None:
    await reconcile(cluster)
    assert await composed(cluster) == {}
    await cluster.put_secret("keys", ann="a")
    await reconcile(cluster)
    await cluster.put_secret("keys", ann="b")
    await reconcile(cluster)
    assert await composed(cluster) == {"keys": {"ann": base64.b64encode(b"b").decode()}}
    await cluster.kube.delete(Ref(SECRET, NAMESPACE, "keys"))
    await reconcile(cluster)
    assert await composed(cluster) == {}


async def test_who_uses_a_secret_and_the_edge_are_woken_by_it(cluster: Cluster) -> None:
    operator = Controller(cluster.world)
    await operator.enqueue_secret_users(NAMESPACE, "keys")
    assert {await operator.queue.take() for _ in range(operator.queue.depth)} == {
        Key("modeldeployment", NAMESPACE, NAME),
        edge_key(NAMESPACE),
    }
    await operator.enqueue_secret_users(NAMESPACE, "unnamed")
    assert operator.queue.depth == 0


@pytest.mark.parametrize("kind", [SECRET, SERVICE_ACCOUNT, ROLE, ROLE_BINDING, POD_DISRUPTION_BUDGET, SERVICE])
async def test_what_is_somebody_elses_is_never_touched(cluster: Cluster, kind: Kind) -> None:
    await cluster.put_secret(names.RAY, token="t")
    meta = {"name": names.EDGE, "namespace": NAMESPACE, "labels": {"app": "theirs"}}
    theirs = await cluster.kube.create({"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta})
    await reconcile(cluster)
    assert await cluster.kube.get(Ref(kind, NAMESPACE, names.EDGE)) == theirs
    assert not await exists(cluster, DEPLOYMENT)


@pytest.mark.parametrize("kind", [SECRET, SERVICE_ACCOUNT, ROLE_BINDING, POD_DISRUPTION_BUDGET, SERVICE, DEPLOYMENT])
async def test_an_object_with_a_changed_label_is_reported_and_stops_no_traffic(cluster: Cluster, kind: Kind) -> None:
    await reconcile_with_token(cluster)
    ref = Ref(kind, NAMESPACE, names.EDGE)
    stored = await cluster.read(ref)
    stored["metadata"]["labels"][names.LABEL_MANAGED_BY] = "theirs"
    theirs = await cluster.kube.replace(stored)
    await cluster.apply(endpoint={**ENDPOINT, "requestTimeout": "7s"})
    assert await reconcile(cluster) == RESYNC_S
    config_map = await cluster.read(Ref(CONFIG_MAP, NAMESPACE, names.EDGE))
    (digits, _) = json.loads(config_map["data"]["split.json"])["services"]
    assert digits["requestTimeoutSeconds"] == 7
    assert await cluster.kube.get(ref) == theirs
    await cluster.round()
    assert await cluster.condition("SpecAccepted") == ("False", "NotOwned")


async def test_a_service_of_somebody_else_is_reported_and_the_others_get_theirs(cluster: Cluster) -> None:
    await cluster.put_secret(names.RAY, token="t")
    meta = {"name": NAME, "namespace": NAMESPACE}
    theirs = await cluster.kube.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {}})
    await reconcile(cluster)
    assert await cluster.kube.get(Ref(SERVICE, NAMESPACE, NAME)) == theirs
    assert await exists(cluster, SERVICE, "other")
    await cluster.round()
    assert await cluster.condition("SpecAccepted") == ("False", "NotOwned")
    assert await cluster.condition("SpecAccepted", "other") == ("True", "Accepted")
    assert (await cluster.message("SpecAccepted")).startswith(f"Service {NAME}: exists and was not made by Sundog")


async def test_a_service_has_port_443_while_its_endpoint_has_tls(cluster: Cluster) -> None:
    async def ports() -> list[int]:
        stored = await cluster.read(Ref(SERVICE, NAMESPACE, NAME))
        return [port["port"] for port in stored["spec"]["ports"]]

    await reconcile(cluster)
    assert await ports() == [80, 9000]
    await cluster.apply(endpoint={"tls": {"secretName": "cert"}})
    await reconcile(cluster)
    assert await ports() == [80, 443, 9000]
    await cluster.apply()
    await reconcile(cluster)
    assert await ports() == [80, 9000]


async def test_a_service_keeps_what_others_have_set_of_it(cluster: Cluster) -> None:
    await reconcile(cluster)
    ref = Ref(SERVICE, NAMESPACE, NAME)
    stored = await cluster.read(ref)
    stored["metadata"]["labels"]["team"] = "vision"
    stored["spec"] |= {"type": "LoadBalancer"}
    stored["spec"]["ports"][0]["nodePort"] = 30080
    stored["spec"]["ports"].append({"name": "metrics", "port": 9090, "targetPort": 9090})
    await cluster.kube.replace(stored)
    await cluster.apply(endpoint={"tls": {"secretName": "cert"}})
    await reconcile(cluster)
    renewed = await cluster.read(ref)
    assert renewed["metadata"]["labels"] == stored["metadata"]["labels"]
    assert renewed["spec"]["type"] == "LoadBalancer"
    assert [(port["port"], port.get("nodePort")) for port in renewed["spec"]["ports"]] == [
        (80, 30080),
        (443, None),
        (9000, None),
        (9090, None),
    ]
    await reconcile(cluster)
    assert await cluster.kube.get(ref) == renewed, "nothing is left to write"
    theirs = {"name": "grpc", "port": 9000, "targetPort": "http"}
    await cluster.kube.replace(
        {**renewed, "spec": {**renewed["spec"], "ports": [*stored["spec"]["ports"][:1], theirs]}}
    )
    await reconcile(cluster)
    assert [port["name"] for port in (await cluster.read(ref))["spec"]["ports"]] == ["http", "https", "grpc"]


async def test_a_service_made_by_others_a_moment_ago_stays(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = {"name": NAME, "namespace": NAMESPACE}
    theirs = await cluster.kube.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {}})

    async def before_that(ref: Ref) -> None: ...

    with monkeypatch.context() as earlier:
        earlier.setattr(cluster.kube, "labels", before_that)
        with pytest.raises(Conflict):
            await reconcile(cluster)
    assert await cluster.kube.get(Ref(SERVICE, NAMESPACE, NAME)) == theirs
    await reconcile(cluster)
    assert await cluster.kube.get(Ref(SERVICE, NAMESPACE, NAME)) == theirs


async def test_nothing_is_left_after_the_last_modeldeployment(cluster: Cluster) -> None:
    await reconcile_with_token(cluster)
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, "other"))
    assert not await exists(cluster, SERVICE, "other")
    assert [kind.kind for kind in SHARED if not await exists(cluster, kind)] == []
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    left = [
        obj
        for kind in set(KINDS) - {POD}
        for obj in await cluster.kube.list(kind, NAMESPACE, {names.LABEL_NAME: names.EDGE})
    ]
    assert left == []
    assert await exists(cluster, SECRET, names.RAY), "what is not ours stays"


async def test_network_policies_come_and_go_with_the_installations_word(cluster: Cluster) -> None:
    cluster.install(Installation(network_policies=POLICIES))
    await reconcile(cluster)
    made = [policy["metadata"]["name"] for policy in await cluster.kube.list(NETWORK_POLICY, NAMESPACE)]
    assert made == ["sundog-edge", "sundog-ray", "sundog-ray-heads", "sundog-ray-workers", "sundog-valkey"]
    meta = {"name": "theirs", "namespace": NAMESPACE}
    await cluster.kube.create({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta})
    cluster.install(Installation())
    await reconcile(cluster)
    left = [policy["metadata"]["name"] for policy in await cluster.kube.list(NETWORK_POLICY, NAMESPACE)]
    assert left == ["theirs"]


@pytest.mark.parametrize("name", [names.RAY, names.EDGE, names.VALKEY])
async def test_network_policies_stay_until_the_last_pod_of_the_namespace_has_ended(cluster: Cluster, name: str) -> None:
    cluster.install(Installation(network_policies=POLICIES))
    (owner,) = [obj for obj in await cluster.kube.list(MODEL_DEPLOYMENT, NAMESPACE) if obj["metadata"]["name"] == NAME]
    for policy in network_policies.make_policies(NAMESPACE, POLICIES):
        policy["metadata"]["ownerReferences"] = [owner_reference(owner, controller=False)]
        await cluster.kube.apply(policy)
    await reconcile(cluster)
    made = await cluster.kube.list(NETWORK_POLICY, NAMESPACE)
    assert not any(obj["metadata"].get("ownerReferences") for obj in made), "an earlier release gave them owners"
    chart = {**names.labels("sundog-operator"), names.LABEL_MANAGED_BY: "Helm"}
    pods = [{"name": "ending", "labels": names.labels(name)}, {"name": "operator", "labels": chart}]
    for meta in pods:
        await cluster.kube.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": NAMESPACE, **meta}})
    for deployment in (NAME, "other"):
        await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, deployment))
    for obj in await cluster.kube.list(RAY_CLUSTER, NAMESPACE):
        assert await reconcile(cluster) == RESYNC_S, "a RayCluster may still make a pod"
        await cluster.kube.delete(ref_of(obj))
    assert await reconcile(cluster) == RESYNC_S
    assert len(await cluster.kube.list(NETWORK_POLICY, NAMESPACE)) == 5
    await cluster.kube.delete(Ref(POD, NAMESPACE, "ending"))
    assert await reconcile(cluster) is None
    assert await cluster.kube.list(NETWORK_POLICY, NAMESPACE) == []


async def test_the_edge_answers_for_the_full_names_of_its_own_cluster(cluster: Cluster) -> None:
    cluster.install(Installation(cluster_domain="k8s.example"))
    await cluster.kube.apply(model_deployment(name="other", endpoint={"host": f"{NAME}.{NAMESPACE}.svc.k8s.example"}))
    await reconcile(cluster)
    stored = await cluster.read(Ref(CONFIG_MAP, NAMESPACE, names.EDGE))
    found = {service["name"]: service["hosts"] for service in json.loads(stored["data"]["split.json"])["services"]}
    assert found == {
        name: [f"{name}.{NAMESPACE}.svc", f"{name}.{NAMESPACE}.svc.k8s.example", f"{name}.{NAMESPACE}"]
        for name in (NAME, "other")
    }, "a name of another's is not to be had"


GATEWAY = {"gateway": {"name": "public", "namespace": "infra"}}
ROUTE = Ref(HTTP_ROUTE, NAMESPACE, NAME)


async def routed(cluster: Cluster, **endpoint: Any) -> Object:
    """Return the route after one pass with that endpoint."""
    await cluster.apply(endpoint={**GATEWAY, **endpoint})
    await reconcile(cluster)
    return await cluster.read(ROUTE)


async def answered(cluster: Cluster, status: str, reason: str = "Fine") -> None:
    """The status that a Gateway's controller would write."""
    generation = (await cluster.read(ROUTE))["metadata"]["generation"]
    condition = {"status": status, "reason": reason, "message": "", "observedGeneration": generation}
    conditions = [{"type": type_, **condition} for type_ in ("Accepted", "ResolvedRefs")]
    parent = {"parentRef": GATEWAY["gateway"], "controllerName": "example.com/gateway", "conditions": conditions}
    await cluster.set_status(ROUTE, {"parents": [parent]})


async def test_a_route_is_made_once_and_follows_the_endpoint(cluster: Cluster) -> None:
    await cluster.put_secret(names.RAY, token="t")
    route = await routed(cluster, host="digits.example.com", gateway={**GATEWAY["gateway"], "sectionName": "https"})
    assert route["spec"]["hostnames"] == ["digits.example.com"]
    assert await cluster.writes_of(reconcile(cluster)) == []
    assert not await exists(cluster, HTTP_ROUTE, "other")
    route = await routed(cluster, requestTimeout="1m")
    assert "sectionName" not in route["spec"]["parentRefs"][0]
    assert route["spec"]["rules"][0]["timeouts"] == {"request": "1m10s"}
    assert f"{NAME}.{NAMESPACE}.svc" in route["spec"]["hostnames"]


async def test_a_route_goes_with_the_field_and_with_its_modeldeployment(cluster: Cluster) -> None:
    await cluster.put_secret(names.RAY, token="t")
    await routed(cluster)
    await cluster.apply()
    await reconcile(cluster)
    assert await cluster.kube.get(ROUTE) is None
    await routed(cluster)
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    assert await cluster.kube.get(ROUTE) is None


async def test_a_route_stays_as_it_is_while_the_spec_is_refused(cluster: Cluster) -> None:
    await cluster.put_secret(names.RAY, token="t")
    route = await routed(cluster)
    await cluster.round()
    condition = await cluster.condition("RouteAccepted")
    await cluster.apply(baseline={"uri": "file:///models/v0"})
    await reconcile(cluster)
    await cluster.round()
    assert await cluster.condition("SpecAccepted") == ("False", "NotYetSupported")
    assert await cluster.kube.get(ROUTE) == route
    assert await cluster.condition("RouteAccepted") == condition


async def test_a_route_of_somebody_else_is_reported_and_left_alone(cluster: Cluster) -> None:
    await cluster.put_secret(names.RAY, token="t")
    head = {"apiVersion": HTTP_ROUTE.api_version, "kind": HTTP_ROUTE.kind}
    theirs = await cluster.kube.create({**head, "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {}})
    assert await routed(cluster) == theirs
    await cluster.round()
    assert await cluster.condition("RouteAccepted") == ("False", "NotOwned")
    assert await cluster.condition("SpecAccepted") == ("True", "Accepted")
    await cluster.apply()
    await reconcile(cluster)
    await cluster.round()
    assert await cluster.kube.get(ROUTE) == theirs
    assert await cluster.condition("RouteAccepted") == ("Absent", "")


async def test_the_answer_of_the_gateway_is_reported_and_takes_nothing_away(cluster: Cluster) -> None:
    await cluster.put_secret(names.RAY, token="t")
    await routed(cluster)
    await cluster.until_serves(1)
    assert await cluster.condition("RouteAccepted") == ("Unknown", "NotAnswered")
    await answered(cluster, "False", "NotAllowedByListeners")
    await cluster.round()
    assert await cluster.condition("RouteAccepted") == ("False", "NotAllowedByListeners")
    assert await cluster.condition("Ready") == ("True", "Serving")
    message = await cluster.message("Ready")
    assert (
        message
        == "revision 1 serves; NotAllowedByListeners: Gateway infra/public: NotAllowedByListeners (example.com/gateway)"
    )
    await answered(cluster, "True")
    await cluster.round()
    assert await cluster.condition("RouteAccepted") == ("True", "Accepted")


async def test_without_the_gateway_api_everything_else_is_made_and_the_reason_reported(cluster: Cluster) -> None:
    await cluster.put_secret(names.RAY, token="t")
    cluster.kube.faults = lambda _, ref: NotServed("no httproutes") if ref.kind == HTTP_ROUTE else None
    await cluster.apply(endpoint=GATEWAY)
    await reconcile(cluster)
    assert await exists(cluster, DEPLOYMENT)
    assert await exists(cluster, SERVICE, NAME)
    await cluster.until_serves(1)
    assert await cluster.condition("RouteAccepted") == ("False", "GatewayAPIMissing")
    cluster.kube.faults = lambda *_: None
    await reconcile(cluster)
    await answered(cluster, "True")
    await cluster.round()
    assert await cluster.condition("RouteAccepted") == ("True", "Accepted")


async def test_a_route_that_is_refused_keeps_no_other_from_being_written(cluster: Cluster) -> None:
    await cluster.put_secret(names.RAY, token="t")
    cluster.kube.faults = lambda verb, ref: DependencyError("no") if (verb, ref) == ("apply", ROUTE) else None
    await cluster.apply(endpoint=GATEWAY)
    await cluster.kube.apply(model_deployment(name="other", endpoint=GATEWAY))
    with pytest.raises(DependencyError, match="no"):
        await reconcile(cluster)
    assert await exists(cluster, HTTP_ROUTE, "other")
    assert await exists(cluster, DEPLOYMENT)
    await cluster.round()
    assert await cluster.condition("RouteAccepted") == ("Unknown", "NotWritten")


@pytest.mark.parametrize("refusal", [Forbidden("exceeded quota"), Invalid("Service", ["exceeded quota"])])
async def test_a_refused_service_holds_up_no_other_and_no_route(cluster: Cluster, refusal: SundogError) -> None:
    await cluster.put_secret(names.RAY, token="t")
    service = Ref(SERVICE, NAMESPACE, NAME)
    cluster.kube.faults = lambda verb, ref: refusal if (verb, ref) == ("create", service) else None
    await cluster.kube.apply(model_deployment(name="other", endpoint=GATEWAY))
    for _ in range(2):
        with pytest.raises(type(refusal), match="exceeded quota"):
            await reconcile(cluster)
    (event,) = [each for each in await cluster.kube.list(EVENT, NAMESPACE) if each["reason"] == "ServiceRefused"]
    assert event["regarding"]["name"] == NAME
    assert f"so the address may not work: {refusal}" in event["note"]
    assert not await exists(cluster, SERVICE, NAME)
    assert await exists(cluster, SERVICE, "other")
    assert await exists(cluster, HTTP_ROUTE, "other")


async def test_a_route_waits_for_the_pods_of_the_edge(cluster: Cluster) -> None:
    await cluster.apply(endpoint=GATEWAY)
    assert await reconcile(cluster) == UNCONFIRMED_RESYNC_S
    assert not await exists(cluster, HTTP_ROUTE, NAME)
