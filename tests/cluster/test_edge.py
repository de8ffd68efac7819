"""The edge of a namespace on a real cluster: its objects, its pods, and traffic from pods through the Service of a ModelDeployment.

Ray is a stand-in that speaks Serve's REST API; edges, Services, the API server and all that moves between them are real.
"""

import asyncio
import base64
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

import fake_ray_head
import pod_traffic
from charting import ROOT, service_account, values
from real_kubernetes.checkout import pod_spec, pod_template
from real_kubernetes.cluster import Cluster
from real_kubernetes.images import BASE
from real_serving import has_store
from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.edges import HttpEdges
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.ray_serve import parse_serve_state
from sundog_operator.adapters.webhooks import AddressPolicy, HttpWebhooks
from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.api.installation import parse_installation
from sundog_operator.app.controller import RECONCILERS
from sundog_operator.app.dependencies import Dependencies, OperatorSettings
from sundog_operator.app.queue.keys import Key, edge_key
from sundog_operator.app.reconcile_ray_cluster import make_applications
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import ReplicaStart
from sundog_operator.core.planner import desired_state
from sundog_operator.errors import Conflict, DependencyError
from sundog_operator.ports import (
    CONTROLLER_REVISION,
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    POD,
    RAY_CLUSTER,
    SECRET,
    SERVICE,
    Ref,
)
from waiting import PATIENCE_S

pytestmark = [pytest.mark.cluster]

NAME = "digits"
HEAD = "stand-in"
Json = dict[str, Any]


class StandInServe:
    """`ports.Serve` that finds the stand-in at its pod's address, whatever name the dashboard has for pods."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._url = f"http://{address}:{fake_ray_head.DASHBOARD_PORT}/api/serve/applications/"

    async def read(self, *_: Any) -> Any:
        async with self._session.get(self._url) as response:
            return parse_serve_state(await response.json())

    async def start(self, *_: Any) -> ReplicaStart:
        return ReplicaStart()

    async def play(self, applications: list[Json]) -> None:
        async with self._session.put(self._url, json={"applications": applications}) as response:
            assert response.status == 200


class Namespace:
    """A namespace with a stand-in for Ray, and the operator's reconcilers run by hand.

    `operator` acts as the chart's account, `kube` as everybody else.
    """

    def __init__(
        self, cluster: Cluster, name: str, kube: KubernetesClient, operator: Dependencies, serve: StandInServe
    ) -> None:
        self.cluster = cluster
        self.name = name
        self.kube = kube
        self.operator = operator
        self.serve = serve
        self.operator_away = False

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl("-n", self.name, *arguments)

    async def apply(self, uri: str = "file:///models/v1", name: str = NAME, **spec: Any) -> None:
        steps = [{"weight": 25, "gate": "manual"}, {"weight": 50, "gate": "manual"}]
        await self.kube.apply(
            {
                "apiVersion": "serving.sundog.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": name, "namespace": self.name},
                "spec": {"model": {"uri": uri, "entrypoint": "net:Net"}, "rollout": {"steps": steps}, **spec},
            }
        )

    async def status(self, name: str = NAME) -> ModelDeploymentStatus:
        stored = await self.kube.get(Ref(MODEL_DEPLOYMENT, self.name, name))
        return ModelDeploymentStatus.parse((stored or {}).get("status"))

    async def condition(self, type_: str, name: str = NAME) -> tuple[str, str, str]:
        found = [c for c in (await self.status(name)).conditions if c.type == type_]
        return (found[0].status, found[0].reason, found[0].message) if found else ("Absent", "", "")

    async def round(self) -> None:
        """One pass of every key, unless the operator is away; what Serve should run follows from the statuses."""
        if self.operator_away:
            return
        deployments = await self.kube.list(MODEL_DEPLOYMENT, self.name)
        keys = [Key("modeldeployment", self.name, obj["metadata"]["name"]) for obj in deployments]
        for key in (*keys, edge_key(self.name)):
            with contextlib.suppress(Conflict, DependencyError):
                await RECONCILERS[key.kind](self.operator, key)
        await self._play_ray(await self.kube.list(MODEL_DEPLOYMENT, self.name))

    async def _play_ray(self, deployments: list[Json]) -> None:
        owned = revisions.group_by_owner(
            await self.kube.views(CONTROLLER_REVISION, self.name, revisions.parse_stored_revision)
        )
        serve = await self.serve.read()
        applications: list[Json] = []
        for obj in deployments:
            for cluster in desired_state.needed_clusters(ModelDeploymentStatus.parse(obj.get("status"))):
                await self._cluster(cluster)
                known = owned.get(obj["metadata"]["uid"], ())
                applications += make_applications(obj, known, serve, cluster, self.operator.settings.installation)
        await self.serve.play(applications)

    async def _cluster(self, name: str) -> None:
        """What KubeRay would have made, which leaves alone what another controller manages."""
        ref = Ref(RAY_CLUSTER, self.name, name)
        if await self.kube.get(ref) is not None:
            return
        head = await self.kube.get(Ref(POD, self.name, HEAD))
        assert head is not None
        template = {"spec": {"containers": [{"name": "ray-head", "image": BASE}]}}
        group = {"rayStartParams": {}, "template": template}
        stored = await self.kube.apply(
            {
                "apiVersion": "ray.io/v1",
                "kind": "RayCluster",
                "metadata": {"name": name, "namespace": self.name, "labels": names.labels("sundog-ray")},
                "spec": {"managedBy": "kueue.x-k8s.io/multikueue", "headGroupSpec": group},
            }
        )
        ports = [{"name": str(port), "port": port} for port in (fake_ray_head.DASHBOARD_PORT, fake_ray_head.SERVE_PORT)]
        await self.kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": f"{name}-head-svc", "namespace": self.name},
                "spec": {"clusterIP": "None", "selector": {"app": HEAD}, "ports": ports},
            }
        )
        ready = {"type": "HeadPodReady", "status": "True", "reason": "HeadPodRunningAndReady"}
        condition = {**ready, "lastTransitionTime": "2026-01-01T00:00:00Z", "message": ""}
        address = head["status"]["podIP"]
        status = {"conditions": [condition], "head": {"podIP": address, "serviceIP": address}}
        await self.kube.patch_status(ref, status, resource_version=stored["metadata"]["resourceVersion"])

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str, seconds: float = PATIENCE_S) -> Any:
        """Rounds until a condition holds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await self.round()
            if found := await condition():
                return found
            await asyncio.sleep(0.3)
        told = [self.kubectl("get", "pods,mdep", "-o", "wide"), self.kubectl("get", "mdep", "-o", "yaml")]
        raise AssertionError("\n".join([f"not within {seconds} s: {what}", *told]))

    async def serves(self, revision: int, name: str = NAME) -> None:
        async def settled() -> bool:
            status = await self.status(name)
            stable = status.stable is not None and status.stable.revision == revision
            return stable and (await self.condition("TrafficSynced", name))[0] == "True" and not status.retiring

        await self.until(settled, f"revision {revision} of {name} serves")

    async def edges(self) -> list[Json]:
        found = await self.kube.list(POD, self.name, {names.LABEL_NAME: names.EDGE})
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    async def ready_edges(self, count: int = 2) -> list[Json]:
        async def ready() -> list[Json]:
            found = [pod for pod in await self.edges() if _is_ready(pod)]
            return found if len(found) == count else []

        return await self.until(ready, f"{count} ready edges")

    async def rolled_edges(self, before: Collection[str]) -> list[Json]:
        """Two ready edges, none of which is one of those."""

        async def rolled() -> list[Json]:
            found = [pod for pod in await self.edges() if _is_ready(pod)]
            return found if len(found) == 2 and not {pod["metadata"]["uid"] for pod in found} & {*before} else []

        return await self.until(rolled, "other edges")

    async def knows_the_store(self, pod: Json) -> bool:
        """Whether the agent of an edge was given the key and the store, which no other container sees."""
        name = pod["metadata"]["name"]

        def sees(container: str) -> bool:
            command = ("test", "-s", "/var/run/secrets/sundog-feedback/signing-key")
            done = self.cluster.kubectl.run("-n", self.name, "exec", name, "-c", container, "--", *command)
            return done.returncode == 0

        assert not await asyncio.to_thread(sees, "haproxy")
        return await asyncio.to_thread(sees, "agent")

    async def store_answers(self, pod: Json) -> bool:
        """Whether the store answers the agent of an edge, with the password that it was given."""
        script = f"""
import asyncio, pathlib
from sundog_edge.feedback.open_store import open_store
password = pathlib.Path("/var/run/secrets/sundog-feedback/password")
store = open_store("redis://{names.EDGE_STORE}:6379", "{self.name}", password)
print("id", asyncio.run(store.read([])).id)
"""
        command = ("exec", pod["metadata"]["name"], "-c", "agent", "--", "python", "-c", script)
        done = await asyncio.to_thread(self.cluster.kubectl.run, "-n", self.name, *command)
        return done.stdout.startswith("id ")

    async def has_no_store(self) -> bool:
        kinds = "statefulsets,services,secrets,pods"
        found = self.cluster.kubectl.get("-n", self.name, kinds, "-l", f"{names.LABEL_NAME}={names.EDGE_STORE}")
        return not found["items"]

    @contextlib.asynccontextmanager
    async def traffic(self, url: str, clients: int = 8) -> AsyncIterator["PodTraffic"]:
        """Clients in a pod of their own while the block runs."""
        name = f"client-{secrets.token_hex(3)}"
        spec = pod_spec("python", pod_traffic.__file__, url, str(clients))
        spec |= {"restartPolicy": "Never", "terminationGracePeriodSeconds": 40}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": self.name}, "spec": spec}
        await self.kube.create(pod)
        made = PodTraffic(self, name)
        await made.more(50)
        try:
            yield made
            await made.more(100)
        finally:
            await made.end()


class PodTraffic:
    """The clients in one pod; `answers`, `applications` and `failures` once they have ended."""

    def __init__(self, namespace: Namespace, pod: str) -> None:
        self._namespace = namespace
        self._pod = pod
        self.answers: Mapping[str, int] = {}
        self.applications: Mapping[str, int] = {}
        self.failures: list[str] = []

    def _last(self) -> Json:
        done = self._namespace.cluster.kubectl.run("-n", self._namespace.name, "logs", self._pod, "--tail=1")
        return dict(json.loads(done.stdout)) if done.stdout.startswith("{") else {}

    async def more(self, requests: int) -> None:
        before = self._last().get("sent", 0)

        async def sent() -> bool:
            return self._last().get("sent", 0) >= before + requests

        await self._namespace.until(sent, f"{requests} requests more")

    async def end(self) -> None:
        self._namespace.kubectl("exec", self._pod, "--", "kill", "-TERM", "1")

        async def ended() -> bool:
            return "answers" in self._last()

        await self._namespace.until(ended, "the clients have ended")
        last = self._last()
        self.answers, self.applications, self.failures = last["answers"], last["applications"], last["failures"]
        self._namespace.kubectl("delete", "pod", self._pod, "--wait=false", "--grace-period=1")


def _is_ready(pod: Json) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def installation() -> str:
    """As an administrator would write it; the pods run this checkout."""
    pods = {**pod_template(), "securityContext": {"runAsUser": 65532, "runAsNonRoot": True}}
    edge = {"replicas": 2, "pods": pods, "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}}
    # No claim: the tests' node makes no volumes.
    store = {"image": BASE, "memory": "128Mi", "storage": {"size": ""}}
    given = {"runtimeImage": "local/runtime", "edgeImage": BASE, "edge": edge, "feedback": {"store": store}}
    return json.dumps(given)


@pytest.fixture(scope="module")
def operators_kubeconfig(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With it one is the chart's own account, under a name of these tests."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    given = {**values("smallest"), "fullnameOverride": "edge-tests"}
    service_account.install(cluster.kubectl, given)
    yield service_account.kubeconfig(cluster.kubectl, tmp_path_factory.mktemp("account") / "kubeconfig", "edge-tests")
    service_account.remove(cluster.kubectl, given)


@pytest.fixture
async def namespace(cluster: Cluster, operators_kubeconfig: Path) -> AsyncIterator[Namespace]:
    name = f"edge-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    token = {"token": base64.b64encode(b"no one asks for it").decode()}
    meta = {"name": names.RAY, "namespace": name, "labels": names.labels(names.RAY)}
    head = {"name": HEAD, "namespace": name, "labels": {"app": HEAD}}
    # The stand-in tells its own address as that of its replicas.
    spec = pod_spec("sh", "-c", f'exec python {fake_ray_head.__file__} "$POD_IP"')
    spec["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": fake_ray_head.SERVE_PORT}, "periodSeconds": 1}
    spec["containers"][0]["env"].append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    cluster.kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": token},
        {"apiVersion": "v1", "kind": "Pod", "metadata": head, "spec": spec},
    )
    cluster.kubectl.wait("-n", name, "--for=condition=Ready", f"pod/{HEAD}")
    address = cluster.kubectl("-n", name, "get", "pod", HEAD, "-o", "jsonpath={.status.podIP}")
    kube = await KubernetesClient.connect(cluster.kubeconfig)
    operators = await KubernetesClient.connect(operators_kubeconfig)
    settings = OperatorSettings.of(parse_installation(installation(), "test"), "test")
    try:
        async with aiohttp.ClientSession() as session:
            serve = StandInServe(session, address)
            operator = Dependencies(
                operators, serve, HttpEdges(session), HttpWebhooks(AddressPolicy()), SystemClock(), settings
            )
            yield Namespace(cluster, name, kube, operator, serve)
    finally:
        await operators.close()
        await kube.close()
        cluster.kubectl("delete", "namespace", name, "--wait=false")
        # Draining edges have nobody left to wait for.
        cluster.kubectl.run("-n", name, "delete", "pods", "--all", "--grace-period=1", "--wait=false")


async def test_pods_ask_by_the_name_of_the_service_and_lose_no_request_when_an_edge_goes(namespace: Namespace) -> None:
    await namespace.apply(replicas=2)
    await namespace.serves(1)
    edges = await namespace.ready_edges()
    assert (await namespace.status()).url == f"http://{NAME}.{namespace.name}.svc"
    async with namespace.traffic(f"http://{NAME}.{namespace.name}.svc/") as traffic:
        namespace.kubectl("delete", "pod", edges[0]["metadata"]["name"], "--wait=false")
        await traffic.more(300)
        await namespace.ready_edges()
    assert traffic.answers.keys() == {"200"}, traffic.failures
    assert traffic.applications.keys() == {"digits-r1"}


async def test_a_rollout_moves_the_traffic_of_all_edges_and_loses_nothing(namespace: Namespace) -> None:
    await namespace.apply()
    await namespace.serves(1)
    await namespace.ready_edges()
    async with namespace.traffic(f"http://{NAME}.{namespace.name}.svc/", clients=4) as traffic:
        await namespace.apply("file:///models/v2")

        async def shifted() -> bool:
            status = await namespace.status()
            return status.candidate is not None and status.candidate.weight == 25

        await namespace.until(shifted, "a quarter for the canary")
        await traffic.more(200)
        await namespace.kube.annotate(
            Ref(MODEL_DEPLOYMENT, namespace.name, NAME),
            {names.ANNOTATION_COMMAND: "promote revision=2 id=full full=true"},
        )
        await namespace.serves(2)
        await traffic.more(100)
    assert traffic.answers.keys() == {"200"}, traffic.failures
    assert traffic.applications["digits-r1"] > 50
    assert traffic.applications["digits-r2"] > 50


async def test_a_secret_that_changes_is_in_force_without_a_pod_of_ours_changing(namespace: Namespace) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": namespace.name}}
    await namespace.kube.apply({**secret, "stringData": {"ann": "the-first-key-of-ann"}})
    await namespace.apply(endpoint={"auth": {"apiKeys": {"secretName": "keys"}}})
    await namespace.serves(1)
    edges = [pod["metadata"]["uid"] for pod in await namespace.ready_edges()]

    async def admitted(key: str) -> set[int]:
        return {await ask(pod, namespace, {"x-api-key": key}) for pod in await namespace.edges()}

    async def is_in_force(key: str) -> bool:
        return await admitted(key) == {200}

    await namespace.until(lambda: is_in_force("the-first-key-of-ann"), "the first key")
    assert await admitted("no-key-of-anybody-here") == {401}
    await namespace.kube.apply({**secret, "stringData": {"ann": "the-second-key-of-ann"}})
    await namespace.until(lambda: is_in_force("the-second-key-of-ann"), "the second key")
    assert await admitted("the-first-key-of-ann") == {401}
    assert [pod["metadata"]["uid"] for pod in await namespace.ready_edges()] == edges


async def ask(pod: Json, namespace: Namespace, headers: Mapping[str, str]) -> int:
    url = f"http://{pod['status']['podIP']}:8080/{NAME}/"
    async with aiohttp.ClientSession() as session, session.get(url, headers=dict(headers)) as response:
        return response.status


async def test_edges_serve_on_while_the_api_server_refuses_them_and_their_agents_die(namespace: Namespace) -> None:
    if namespace.cluster.instance is None:
        pytest.skip("the cluster is somebody else's, and its processes may be on other machines")
    await namespace.apply(replicas=2)
    await namespace.serves(1)
    edges = await namespace.ready_edges()
    async with namespace.traffic(f"http://{NAME}.{namespace.name}.svc/") as traffic:
        namespace.operator_away = True
        namespace.kubectl("delete", "rolebinding", names.EDGE)
        for pod in edges:
            await _kill_agent(namespace, pod)
            await traffic.more(100)
        reports = await namespace.operator.edges.read(edges)
        assert [report.evidence["document"]["generation"] > 0 for report in reports if report.evidence] == [True, True]
        namespace.operator_away = False
        await namespace.apply(replicas=2, endpoint={"requestTimeout": "17s"})

        async def followed() -> bool:
            wanted = namespace.cluster.kubectl.get("-n", namespace.name, "cm", names.EDGE)["data"]["split.json"]
            found = await namespace.operator.edges.read(edges)
            generations = {(report.evidence or {}).get("document", {}).get("generation") for report in found}
            return '"requestTimeoutSeconds": 17.0' in wanted and generations == {json.loads(wanted)["generation"]}

        await namespace.until(followed, "the edges follow again")
    assert traffic.answers.keys() == {"200"}, traffic.failures


async def _kill_agent(namespace: Namespace, pod: Json) -> None:
    """The agent of one pod is gone in an instant, and another one runs in its place."""
    name = pod["metadata"]["name"]
    mine = [f"--namespace={namespace.name}", f"--edge-name={name}"]
    for process in psutil.process_iter(["cmdline"]):
        if all(part in (process.info["cmdline"] or ()) for part in mine):
            process.kill()
            break
    else:
        raise AssertionError(f"no process on this machine has {mine}")

    async def restarted() -> bool:
        found = await namespace.kube.get(Ref(POD, namespace.name, name))
        assert found is not None
        counts = {each["name"]: each["restartCount"] for each in found["status"]["containerStatuses"]}
        return counts == {"haproxy": 0, "agent": 1} and _is_ready(found)

    await namespace.until(restarted, f"another agent in {name}")


async def test_a_service_of_somebody_else_is_left_alone_and_reported(namespace: Namespace) -> None:
    spec = {"selector": {"app": "theirs"}, "ports": [{"port": 1234}]}
    meta = {"name": NAME, "namespace": namespace.name}
    theirs = await namespace.kube.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    await namespace.apply()

    async def told() -> bool:
        return (await namespace.condition("SpecAccepted"))[:2] == ("False", "NotOwned")

    await namespace.until(told, "NotOwned")
    assert f"Service {NAME}" in (await namespace.condition("SpecAccepted"))[2]
    found = await namespace.kube.get(Ref(SERVICE, namespace.name, NAME))
    assert found is not None
    assert found["metadata"]["resourceVersion"] == theirs["metadata"]["resourceVersion"]


@pytest.mark.skipif(not has_store(), reason="the machine has neither valkey-server nor redis-server")
async def test_a_store_of_outcomes_comes_and_goes_with_an_experiment_and_no_request_is_lost(
    namespace: Namespace,
) -> None:
    await namespace.apply()
    await namespace.serves(1)
    before = {pod["metadata"]["uid"] for pod in await namespace.ready_edges()}
    async with namespace.traffic(f"http://{NAME}.{namespace.name}.svc/", clients=4) as traffic:
        await namespace.kube.apply(experiment(namespace.name))
        rolled = await namespace.rolled_edges(before)
        assert {await namespace.knows_the_store(pod) for pod in rolled} == {True}
        await namespace.until(lambda: namespace.store_answers(rolled[0]), "a store that answers")
        await namespace.kube.delete(Ref(EXPERIMENT, namespace.name, "wide-or-narrow"))
        again = await namespace.rolled_edges({pod["metadata"]["uid"] for pod in rolled})
        assert {await namespace.knows_the_store(pod) for pod in again} == {False}
        await namespace.until(namespace.has_no_store, "no store")
    assert traffic.answers.keys() == {"200"}, traffic.failures


def experiment(namespace: str) -> Json:
    success = [{"name": "conversion", "feedback": "converted"}]
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "wide-or-narrow", "namespace": namespace},
        "spec": {"modelDeployment": NAME, "arms": [{"name": "wide"}], "metrics": {"success": success}},
    }


async def test_nothing_is_written_when_nothing_changes_and_nothing_is_left_after_the_last(namespace: Namespace) -> None:
    await namespace.apply()
    await namespace.apply(name="other")
    await namespace.serves(1)
    await namespace.serves(1, "other")
    await namespace.ready_edges()
    kinds = "cm,secret,sa,role,rolebinding,deploy,pdb,svc,networkpolicy"

    def versions() -> dict[str, str]:
        found = namespace.cluster.kubectl.get("-n", namespace.name, kinds, "-l", f"{names.LABEL_NAME}={names.EDGE}")
        return {
            # A status of others is no write of ours, and moves no generation.
            f"{o['kind']} {o['metadata']['name']}": str(
                o["metadata"].get("generation", o["metadata"]["resourceVersion"])
            )
            for o in found["items"]
        }

    before = versions()
    for _ in range(3):
        await namespace.round()
    assert versions() == before
    assert {"Service digits", "Service other", "Service sundog-edge", "Secret sundog-edge"} <= before.keys()
    namespace.kubectl("delete", "mdep", "other")

    async def gone() -> bool:
        return "Service other" not in versions()

    await namespace.until(gone, "the other's Service is gone")
    assert await namespace.kube.get(Ref(SECRET, namespace.name, names.EDGE)) is not None
    namespace.kubectl("delete", "mdep", NAME)

    async def empty() -> bool:
        return versions() == {}

    await namespace.until(empty, "everything is collected")
