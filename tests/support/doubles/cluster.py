"""A cluster in memory: API server, Ray, edges and the reconciler, on a clock that the test moves."""

import base64
import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from doubles.clock import FakeClock
from doubles.edges import FakeEdges
from doubles.exposure_logs import FakeLogs
from doubles.hooked_kubernetes import HookedKubernetes, Write
from doubles.kuberay import FakeKubeRay, FakeServes
from doubles.prometheus import FakePrometheus
from doubles.serve import FakeServe
from doubles.traffic import Answers, Traffic, Users
from doubles.webhooks import FakeWebhooks
from sundog_operator.api.installation import Installation
from sundog_operator.app.controller import RECONCILERS
from sundog_operator.app.dependencies import Dependencies, OperatorSettings
from sundog_operator.app.queue.keys import Key, edge_key
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.requeue import EVIDENCE_POLL_S
from sundog_operator.errors import Conflict, DependencyError
from sundog_operator.ports import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    POD,
    RAY_CLUSTER,
    REPLICA_SET,
    Object,
    Ref,
)
from sundog_operator.shell.local.api_server import crd_schemas

NAMESPACE = "vision"
NAME = "digits"

MANUAL = {"steps": [{"weight": 25, "gate": "manual"}, {"weight": 50, "gate": "manual"}]}
TIMED = {"steps": [{"weight": 25, "gate": "time", "minDuration": "30s"}]}


STATUS_SCHEMAS = {
    kind: {"properties": {**schema["properties"], "spec": {"x-kubernetes-preserve-unknown-fields": True}}}
    for kind, schema in crd_schemas().items()
}
"""The API server validates statuses. It accepts any spec, for tests of the operator's own admission."""


def model_deployment(uri: str = "file:///models/v1", name: str = NAME, **spec: Any) -> Object:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"model": {"uri": uri, "entrypoint": "net:Net"}, "rollout": MANUAL, **spec},
    }


def model_uri(number: int) -> str:
    """Return the URI of the model of revision `number`, in tests that apply one model after the other."""
    return f"file:///models/v{number}"


def controller_reference(obj: Object) -> Object:
    """Return the reference to a controller of other objects."""
    meta = obj["metadata"]
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
    }


class Cluster:
    """Reconciles everything in rounds; a round is one second."""

    def __init__(
        self,
        kube: HookedKubernetes | None = None,
        installation: Installation | None = None,
        schemas: Mapping[str, Any] = STATUS_SCHEMAS,
    ) -> None:
        self.clock = FakeClock()
        self.kube = kube or HookedKubernetes(self.clock, schemas=schemas)
        self.serve = FakeServe(self.clock)
        self.serve_apis = FakeServes(self.clock)
        self.kuberay = FakeKubeRay(self.kube, self.serve_apis, NAMESPACE) if installation else None
        serve = self.serve_apis if installation else self.serve
        self.edges = FakeEdges(self.kube, serve, self.clock, NAMESPACE)
        settings = OperatorSettings.of(installation, "sundog") if installation else OperatorSettings()
        self.webhooks = FakeWebhooks(self.clock)
        self.prometheus = FakePrometheus(self.clock)
        self.logs = FakeLogs()
        self.world = Dependencies(
            self.kube,
            serve,
            self.edges,
            self.webhooks,
            self.clock,
            settings,
            prometheus=self.prometheus,
            exposure_logs=self.logs,
        )
        self.after_step: Callable[[], Any] = lambda: None
        self._look_again_s = 0.0

    async def apply(self, uri: str = "file:///models/v1", **spec: Any) -> None:
        await self.kube.apply(model_deployment(uri, **spec))

    def set_traffic(self, rps: float, *answers: Answers, users: Users | None = None, seed: int = 1) -> None:
        """Let so many requests a second come; revision 1 answers like the first of `answers`, and so on."""
        traffic = Traffic(seed)
        traffic.rps = {NAME: rps}
        traffic.users = {} if users is None else {NAME: users}
        traffic.answers = {names.application(NAME, number): each for number, each in enumerate(answers, start=1)}
        self.edges.traffic = traffic

    async def deploy(self, revision: int = 1, **spec: Any) -> None:
        """Apply the model of a revision, and wait until that revision serves."""
        await self.apply(model_uri(revision), **spec)
        await self.until_serves(revision)

    async def roll_out(self, revision: int = 2, weight: int = 25, **spec: Any) -> None:
        """Apply the model of a revision, and wait until its canary has this weight in percent."""
        await self.apply(model_uri(revision), **spec)
        await self.until_weight(revision, weight)

    async def start_canary(self, weight: int = 25, **spec: Any) -> None:
        """Let revision 1 serve, then wait until the canary of revision 2 has this weight in percent."""
        await self.deploy(**spec)
        await self.settle(15)
        await self.roll_out(2, weight, **spec)

    async def promote(self, revision: int = 2) -> None:
        """Promote a canary past its other steps, and wait until it serves."""
        await self.command(f"promote revision={revision} id=promote-{revision} full=true")
        await self.until_serves(revision)

    async def command(self, text: str) -> None:
        await self.kube.annotate(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME), {"serving.sundog.dev/command": text})

    async def answer(self, command: str, rounds: int = 3) -> tuple[str, str]:
        """Return the result of a command and the reason, after some rounds."""
        await self.command(command)
        await self.settle(rounds)
        last = (await self.status())["lastCommand"]
        given = dict(part.split("=", 1) for part in command.split() if "=" in part)
        # A command without an id is named by its text.
        assert last["id"] == given.get("id", command), f"{command}: the last answer is to {last['id']}"
        return last["result"], last.get("message", "")

    async def read(self, ref: Ref) -> Object:
        """Return an object that exists."""
        stored = await self.kube.get(ref)
        assert stored is not None, f"{ref} does not exist"
        return stored

    async def get(self, name: str = NAME) -> Object:
        return await self.read(Ref(MODEL_DEPLOYMENT, NAMESPACE, name))

    async def status(self, name: str = NAME) -> dict[str, Any]:
        return (await self.get(name)).get("status") or {}

    async def condition(self, type_: str, name: str = NAME) -> tuple[str, str]:
        return (await self.read_condition(type_, name))[:2]

    async def read_condition(self, type_: str, name: str = NAME) -> tuple[str, str, str]:
        """Return status, reason and message of a condition."""
        found = [c for c in (await self.status(name)).get("conditions", ()) if c["type"] == type_]
        return (found[0]["status"], found[0]["reason"], found[0]["message"]) if found else ("Absent", "", "")

    async def message(self, type_: str, name: str = NAME) -> str:
        return (await self.read_condition(type_, name))[2]

    async def weights(self, name: str = NAME) -> dict[int, int]:
        status = await self.status(name)
        shown = [status.get("stable"), status.get("candidate")]
        return {revision["revision"]: revision["weight"] for revision in shown if revision}

    async def experiment(self, name: str) -> Object:
        return await self.read(Ref(EXPERIMENT, NAMESPACE, name))

    async def events(self) -> list[str]:
        return [event["reason"] for event in await self.kube.list(EVENT, NAMESPACE)]

    async def notes(self, reason: str) -> list[str]:
        """Return the notes of the events with this reason, in order."""
        events = [event for event in await self.kube.list(EVENT, NAMESPACE) if event["reason"] == reason]
        return [event["note"] for event in sorted(events, key=lambda event: event["eventTime"])]

    async def keys(self) -> list[Key]:
        deployments = await self.kube.list(MODEL_DEPLOYMENT, NAMESPACE)
        names = [obj["metadata"]["name"] for obj in deployments]
        clusters = {cluster for obj in deployments if (cluster := (obj.get("status") or {}).get("cluster"))}
        clusters |= {obj["metadata"]["name"] for obj in await self.kube.list(RAY_CLUSTER, NAMESPACE)}
        experiments = [obj["metadata"]["name"] for obj in await self.kube.list(EXPERIMENT, NAMESPACE)]
        return [
            *(Key("modeldeployment", NAMESPACE, name) for name in names),
            *(Key("raycluster", NAMESPACE, name) for name in sorted(clusters)),
            *(Key("experiment", NAMESPACE, name) for name in experiments),
            edge_key(NAMESPACE),
        ]

    async def round(self, seconds: float = 1.0) -> None:
        """Reconcile every key once, let the stand-ins for KubeRay and kubelet act, and move the clock."""
        asked = []
        for key in await self.keys():
            try:
                after_s = await RECONCILERS[key.kind](self.world, key)
            except (Conflict, DependencyError):
                continue
            if key.kind == "modeldeployment" and after_s is not None:
                asked.append(after_s)
            await self._check()
        self._look_again_s = min(asked, default=0.0)
        await self.webhooks.turn()
        await self.outside(self._controllers)
        await self.edges.pass_time(seconds)
        self.clock.advance(seconds)

    async def outside(self, write: Callable[[], Any]) -> None:
        """Let clients other than the operator write: they do not crash with it."""
        hook, self.kube.on_write = self.kube.on_write, lambda *_: None
        try:
            await write()
        finally:
            self.kube.on_write = hook

    async def _check(self) -> None:
        result = self.after_step()
        if result is not None:
            await result

    async def until(self, condition: Callable[[], Any], rounds: int = 200) -> None:
        """Rounds until a condition holds; fails with the state after that many."""
        for _ in range(rounds):
            if await condition():
                return
            await self.round()
        raise AssertionError(f"not reached in {rounds} rounds: {await self.status()}")

    async def go_on(self, minutes: float, until: Callable[[], Any] | None = None, seconds: float = 10.0) -> bool:
        """Let time pass until a condition holds: in rounds of so many seconds, of one while the operator wants to look again at once."""
        end = self.clock.now() + timedelta(minutes=minutes)
        while self.clock.now() < end:
            await self.round(seconds if self._look_again_s >= EVIDENCE_POLL_S else 1.0)
            if until is not None and await until():
                return True
        return until is None

    async def settle(self, rounds: int = 40, seconds: float = 1.0) -> None:
        """Run a fixed number of rounds of so many seconds each."""
        for _ in range(rounds):
            await self.round(seconds)

    async def _controllers(self) -> None:
        if self.kuberay is not None:
            await self.kuberay.act()
        for obj in await self.kube.list(RAY_CLUSTER, NAMESPACE):
            if not obj.get("status"):
                await self.set_status(
                    Ref(RAY_CLUSTER, NAMESPACE, obj["metadata"]["name"]),
                    {
                        "conditions": [{"type": "HeadPodReady", "status": "True", "reason": "HeadPodRunningAndReady"}],
                        "head": {"podIP": "10.0.0.5", "serviceIP": "10.0.0.5"},
                        "endpoints": {"dashboard": "8265", "serve": "8000"},
                    },
                )
        config_map = await self.kube.get(Ref(CONFIG_MAP, NAMESPACE, "sundog-edge"))
        labels = {"app.kubernetes.io/name": "sundog-edge"}
        is_applied = (
            self.world.settings.installation is None
            or await self.kube.get(Ref(DEPLOYMENT, NAMESPACE, "sundog-edge")) is not None
        )
        if config_map is not None and is_applied and not await self.kube.list(POD, NAMESPACE, labels):
            await self.add_edge("sundog-edge-0")

    async def edge_owners(self) -> list[Object]:
        """Return the owner references of a pod of the edge's Deployment, whose ReplicaSet is made as needed; none in local mode."""
        deployment = await self.kube.get(Ref(DEPLOYMENT, NAMESPACE, "sundog-edge"))
        if self.world.settings.installation is None or deployment is None:
            return []
        name = f"sundog-edge-{deployment['metadata']['uid']}"
        replica_set = await self.kube.get(Ref(REPLICA_SET, NAMESPACE, name))
        if replica_set is None:
            owner = controller_reference(deployment)
            meta = {"name": name, "namespace": NAMESPACE, "ownerReferences": [owner]}
            replica_set = await self.kube.create({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": meta})
        return [controller_reference(replica_set)]

    async def add_edge(self, name: str) -> None:
        labels = {"app.kubernetes.io/name": "sundog-edge"}
        owners = await self.edge_owners()
        await self.kube.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels, "ownerReferences": owners},
                "spec": {"containers": [{"name": "agent", "ports": [{"name": "agent", "containerPort": 9090}]}]},
            }
        )
        ready = [{"type": "Ready", "status": "True"}]
        await self.set_status(Ref(POD, NAMESPACE, name), {"podIP": "10.0.0.9", "conditions": ready})

    async def adopt_edges(self) -> None:
        """Give the edges of local mode, which goes on in a cluster, to the Deployment."""
        owners = await self.edge_owners()
        for pod in await self.kube.list(POD, NAMESPACE, {"app.kubernetes.io/name": "sundog-edge"}):
            await self.kube.replace({**pod, "metadata": {**pod["metadata"], "ownerReferences": owners}})

    async def lose_status(self, name: str = NAME) -> None:
        """Empty the ModelDeployment's status, as a restore from a backup does."""
        await self.set_status(Ref(MODEL_DEPLOYMENT, NAMESPACE, name), {})

    async def replace_edge(self, old: str, new: str) -> None:
        """Replace a pod as a Deployment does: the new one starts, the old one gets no more requests, reports once more, and ends."""
        ref = Ref(POD, NAMESPACE, old)
        held: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": old, "namespace": NAMESPACE}}
        await self.kube.apply({**held, "metadata": {**held["metadata"], "finalizers": ["sundog.dev/test"]}})
        await self.add_edge(new)
        await self.kube.delete(ref)
        await self.go_on(0.5)
        await self.kube.apply(held)
        assert await self.kube.get(ref) is None

    async def set_status(self, ref: Ref, status: dict[str, Any]) -> None:
        """Replace the status of an object, as somebody else than the operator does."""
        version = (await self.read(ref))["metadata"]["resourceVersion"]
        await self.kube.patch_status(ref, status, resource_version=version)

    async def put_secret(self, name: str, **keys: str) -> None:
        """Apply a Secret of a user; that of Ray has the labels of Sundog."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
        ours = {"labels": names.labels(name)} if name == names.RAY else {}
        meta = {"name": name, "namespace": NAMESPACE, **ours}
        await self.kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data})

    def install(self, installation: Installation) -> None:
        """Let the operator go on with this installation in a cluster."""
        self.world = replace(self.world, settings=OperatorSettings.of(installation, "test"))

    def serve_of(self, ray_cluster: str) -> FakeServe:
        """Return Serve of a RayCluster that KubeRay made."""
        return self.serve_apis.of(f"http://{ray_cluster}-head-svc.{NAMESPACE}.svc.cluster.local:8265")

    async def writes_during(self, rounds: int, seconds: float = 1.0, *, changed: bool = False) -> list[Ref]:
        """Let rounds pass, and return the objects that were written meanwhile; with `changed`, those that a write changed."""
        written = await self.writes_of(self.settle(rounds, seconds))
        return [write.ref for write in written if write.changed or not changed]

    async def writes_of(self, work: Awaitable[Any]) -> list[Write]:
        """Return what is written while this work is done."""
        before = len(self.kube.writes)
        await work
        return list(self.kube.writes)[before:]

    # Conditions that tests wait for.

    async def serves(self, revision: int) -> bool:
        status = await self.status()
        return (
            bool(status.get("stable"))
            and status["stable"]["revision"] == revision
            and await self.condition("Ready") == ("True", "Serving")
        )

    async def at_weight(self, revision: int, weight: int) -> bool:
        return (await self.weights()).get(revision) == weight

    async def until_serves(self, revision: int, rounds: int = 200) -> None:
        await self.until(functools.partial(self.serves, revision), rounds)

    async def until_weight(self, revision: int, weight: int, rounds: int = 200) -> None:
        await self.until(functools.partial(self.at_weight, revision, weight), rounds)
