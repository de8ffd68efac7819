"""The store of a namespace's edges exists from the first Experiment with outcome metrics until the last one."""

import base64
from collections.abc import Sequence
from typing import Any

import pytest

from doubles.cluster import NAMESPACE, Cluster, model_deployment
from sundog_operator.api.installation import parse_installation
from sundog_operator.app import edge_store
from sundog_operator.app.controller import RECONCILERS
from sundog_operator.app.queue.keys import Key, edge_key, keys_for
from sundog_operator.app.reconcile_edge import reconcile_edge
from sundog_operator.core.edge import deployment as edge_deployment
from sundog_operator.core.kubernetes import names
from sundog_operator.errors import DependencyError
from sundog_operator.ports import (
    DEPLOYMENT,
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    Kind,
    Object,
    Ref,
    ref_of,
)

STORE = (SECRET, SERVICE, STATEFUL_SET)
WALLED = "networkPolicies: {enabled: true, operatorNamespace: sundog-system}"
EXTERNAL = "feedback: {store: {external: {address: 'redis.example.com:6379', passwordSecretName: redis}}}"
OUTCOMES = {"success": [{"name": "conversion", "feedback": "converted"}]}
EXPERIMENT_REF = Ref(EXPERIMENT, NAMESPACE, "wide-or-narrow")


@pytest.fixture
async def cluster() -> Cluster:
    """ModelDeployments with an edge in an installation in a cluster."""
    cluster = Cluster()
    await cluster.apply()
    await cluster.kube.apply(model_deployment(name="other"))
    await cluster.settle(20)
    await cluster.kube.delete(Ref(DEPLOYMENT, NAMESPACE, names.EDGE))
    installed(cluster)
    await cluster.put_secret(names.RAY, token="t")
    return cluster


def installed(cluster: Cluster, text: str = "") -> None:
    cluster.install(parse_installation(text, "test"))


async def put_pod(cluster: Cluster, name: str) -> Object:
    meta = {"name": f"{name}-0", "namespace": NAMESPACE, "labels": names.labels(name)}
    return await cluster.kube.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta})


async def experiment(cluster: Cluster, name: str = "wide-or-narrow", **metrics: Any) -> Object:
    return await cluster.kube.apply(
        {
            "apiVersion": EXPERIMENT.api_version,
            "kind": EXPERIMENT.kind,
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"modelDeployment": "digits", "arms": [{"name": "wide"}], "metrics": metrics},
        }
    )


async def reconcile(cluster: Cluster, passes: int = 1) -> None:
    for _ in range(passes):
        await reconcile_edge(cluster.world, edge_key(NAMESPACE))


async def with_outcomes(cluster: Cluster) -> None:
    """An Experiment has outcome metrics, and the edge was reconciled."""
    await experiment(cluster, **OUTCOMES)
    await reconcile(cluster)


async def stored(cluster: Cluster, kind: Kind, name: str = names.EDGE_STORE) -> Object | None:
    return await cluster.kube.get(Ref(kind, NAMESPACE, name))


async def there(cluster: Cluster, kinds: Sequence[Kind] = (*STORE, NETWORK_POLICY)) -> list[str]:
    return [kind.kind for kind in kinds if await stored(cluster, kind) is not None]


async def takes_feedback(cluster: Cluster) -> bool:
    deployment = await stored(cluster, DEPLOYMENT, names.EDGE)
    assert deployment is not None
    return edge_deployment.has_feedback_store(deployment)


async def test_without_such_an_experiment_there_is_no_store(cluster: Cluster) -> None:
    await reconcile(cluster)
    await experiment(cluster, guardrails=[{"metric": "errorRate"}])
    await reconcile(cluster)
    assert await there(cluster) == []
    assert not await takes_feedback(cluster)


async def test_it_is_made_once_before_the_edges_are_given_it(cluster: Cluster) -> None:
    await reconcile(cluster)
    await experiment(cluster, **OUTCOMES)
    made = [(write.ref.kind.kind, write.ref.name) for write in await cluster.writes_of(reconcile(cluster))]
    assert made == [
        ("Secret", "sundog-edge-store"),
        ("Service", "sundog-edge-store"),
        ("StatefulSet", "sundog-edge-store"),
        ("Deployment", "sundog-edge"),
    ]
    assert await takes_feedback(cluster)
    assert await cluster.writes_of(reconcile(cluster, 3)) == []


async def test_rollouts_that_wait_for_outcomes_have_a_store_before_they_begin(cluster: Cluster) -> None:
    kept = {"name": "kept", "feedback": "accepted"}
    await cluster.apply(rollout={"guardrails": [kept]})
    await reconcile(cluster)
    assert await there(cluster, STORE) == ["Secret", "Service", "StatefulSet"]
    assert await takes_feedback(cluster)
    await cluster.apply(rollout={"guardrails": [{"metric": "errorRate"}]})
    await reconcile(cluster)
    assert await there(cluster) == []
    assert not await takes_feedback(cluster)


async def test_the_store_goes_with_the_last_experiment_after_the_edges_left_it(cluster: Cluster) -> None:
    await experiment(cluster, **OUTCOMES)
    await experiment(cluster, "another", secondary=OUTCOMES["success"])
    await reconcile(cluster)
    await cluster.kube.delete(EXPERIMENT_REF)
    await reconcile(cluster)
    assert await there(cluster, STORE) == ["Secret", "Service", "StatefulSet"]
    await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, "another"))
    changed = [write.ref.kind.kind for write in await cluster.writes_of(reconcile(cluster))]
    assert changed == ["Deployment", "Secret", "Service", "StatefulSet"]
    assert await there(cluster) == []
    assert not await takes_feedback(cluster)
    assert await cluster.writes_of(reconcile(cluster)) == []


async def test_what_a_death_in_between_left_goes_in_the_next_pass(cluster: Cluster) -> None:
    await with_outcomes(cluster)
    await cluster.kube.delete(EXPERIMENT_REF)
    for _ in range(4):
        died = DependencyError("died")
        left = [1]

        def dies(verb: str, _: Ref, died: DependencyError = died, left: list[int] = left) -> DependencyError | None:
            if verb in ("apply", "delete"):
                left[0] -= 1
            return died if left[0] < 0 else None

        cluster.kube.faults = dies
        try:
            await reconcile(cluster)
        except DependencyError:
            continue
    cluster.kube.faults = lambda *_: None
    await reconcile(cluster)
    assert await there(cluster) == []


async def test_key_and_password_are_made_once_and_only_owners_follow(cluster: Cluster) -> None:
    await with_outcomes(cluster)
    first = await stored(cluster, SECRET)
    assert first is not None
    assert {len(base64.b64decode(value)) for value in first["data"].values()} == {64}
    assert first["data"]["password"] != first["data"]["signing-key"]
    third = await cluster.kube.apply(model_deployment(name="third"))
    await cluster.settle(20)
    await reconcile(cluster)
    for kind in STORE:
        obj = await stored(cluster, kind)
        assert obj is not None
        assert third["metadata"]["uid"] in {owner["uid"] for owner in obj["metadata"]["ownerReferences"]}, kind.kind
        if kind == SECRET:
            assert obj["data"] == first["data"]


async def test_nothing_of_it_is_left_after_the_last_modeldeployment(cluster: Cluster) -> None:
    await with_outcomes(cluster)
    for name in ("digits", "other"):
        await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, name))
    assert await there(cluster) == []


@pytest.mark.parametrize("kind", [*STORE, NETWORK_POLICY])
async def test_a_foreign_object_stays_and_keeps_no_edge_from_serving(cluster: Cluster, kind: Kind) -> None:
    meta = {"name": names.EDGE_STORE, "namespace": NAMESPACE, "labels": {"app": "theirs"}}
    spec = {"template": {"spec": {}}} if kind == STATEFUL_SET else {}
    theirs = await cluster.kube.create(
        {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, "spec": spec}
    )
    await experiment(cluster, **OUTCOMES)
    await reconcile(cluster, 2)
    assert await stored(cluster, kind) == theirs
    assert await there(cluster) == [kind.kind]
    assert not await takes_feedback(cluster)
    installation = cluster.world.settings.installation
    assert installation is not None
    assert await edge_store.find_store_problem(cluster.world, NAMESPACE, installation) == (
        "NotOwned",
        f"{kind.kind} sundog-edge-store: exists and was not made by Sundog; rename or delete it",
    )
    await cluster.kube.delete(EXPERIMENT_REF)
    await reconcile(cluster)
    assert await stored(cluster, kind) == theirs


async def test_what_somebody_put_in_its_place_stays_when_it_goes(cluster: Cluster) -> None:
    await with_outcomes(cluster)
    await cluster.kube.delete(Ref(SECRET, NAMESPACE, names.EDGE_STORE))
    await cluster.put_secret(names.EDGE_STORE, password="theirs")
    await reconcile(cluster)
    assert not await takes_feedback(cluster)
    await cluster.kube.delete(EXPERIMENT_REF)
    await reconcile(cluster)
    assert await there(cluster) == ["Secret"]


async def test_a_store_of_somebody_else_is_used_once_its_password_is_there(cluster: Cluster) -> None:
    installed(cluster, EXTERNAL)
    installation = cluster.world.settings.installation
    assert installation is not None
    await with_outcomes(cluster)
    assert not await takes_feedback(cluster)
    problem = await edge_store.find_store_problem(cluster.world, NAMESPACE, installation)
    assert problem == ("SecretNotFound", "Secret redis of the outcome store: does not exist; create it")
    await cluster.put_secret("redis", user="u")
    await reconcile(cluster)
    assert not await takes_feedback(cluster)
    problem = await edge_store.find_store_problem(cluster.world, NAMESPACE, installation)
    assert problem == ("SecretIncomplete", "Secret redis of the outcome store: has no key password; add it")
    await cluster.put_secret("redis", password="p")
    await reconcile(cluster)
    assert await takes_feedback(cluster)
    assert await edge_store.find_store_problem(cluster.world, NAMESPACE, installation) is None
    with_user = parse_installation(EXTERNAL.replace("redis}}}", "redis, usernameFromSecret: true}}}"), "test")
    problem = await edge_store.find_store_problem(cluster.world, NAMESPACE, with_user)
    assert problem == ("SecretIncomplete", "Secret redis of the outcome store: has no key username; add it")
    assert await there(cluster) == ["Secret"]
    await cluster.kube.delete(EXPERIMENT_REF)
    await reconcile(cluster)
    assert await there(cluster) == []
    assert await stored(cluster, SECRET, "redis") is not None


async def test_its_network_policy_follows_the_installations_word(cluster: Cluster) -> None:
    installed(cluster, WALLED)
    await with_outcomes(cluster)
    assert await there(cluster, [NETWORK_POLICY]) == ["NetworkPolicy"]
    installed(cluster)
    await reconcile(cluster)
    assert await there(cluster, [NETWORK_POLICY]) == []
    installed(cluster, WALLED)
    await reconcile(cluster)
    pod = await put_pod(cluster, names.EDGE_STORE)
    await cluster.kube.delete(EXPERIMENT_REF)
    await reconcile(cluster, 2)
    assert await there(cluster) == ["NetworkPolicy"], "its pod is still ending"
    assert edge_key(NAMESPACE) in keys_for(pod)
    await cluster.kube.delete(ref_of(pod))
    await reconcile(cluster)
    assert await there(cluster) == []


async def test_the_edge_is_woken_by_experiments_and_by_what_becomes_of_the_store(cluster: Cluster) -> None:
    made = await experiment(cluster, **OUTCOMES)
    assert edge_key(NAMESPACE) in keys_for(made)
    await reconcile(cluster)
    for kind in (SERVICE, STATEFUL_SET):
        obj = await stored(cluster, kind)
        assert obj is not None
        assert keys_for(obj) == [edge_key(NAMESPACE)]


async def test_an_experiment_says_why_no_outcome_is_kept(cluster: Cluster) -> None:
    meta = {"name": names.EDGE_STORE, "namespace": NAMESPACE}
    await cluster.kube.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {}})
    await experiment(cluster, **OUTCOMES)

    async def data_quality() -> tuple[str, str, str]:
        await RECONCILERS["modeldeployment"](cluster.world, Key("modeldeployment", NAMESPACE, "digits"))
        obj = await cluster.read(EXPERIMENT_REF)
        (found,) = [each for each in obj["status"]["conditions"] if each["type"] == "DataQuality"]
        return found["status"], found["reason"], found["message"]

    whose = "Service sundog-edge-store: exists and was not made by Sundog; rename or delete it"
    assert await data_quality() == ("False", "NotOwned", f"outcomes are not stored: {whose}")
    await cluster.kube.delete(Ref(SERVICE, NAMESPACE, names.EDGE_STORE))
    assert (await data_quality())[:2] == ("Unknown", "NotEvaluated")
