"""HAProxy and agent as a kubelet would keep them. The processes are stand-ins; supervision, ports and files are real."""

import asyncio
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.local.edge import LocalEdge
from sundog_operator.adapters.local.ports_allocation import allocate_port
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.ports import CONFIG_MAP, DEPLOYMENT, POD, Object, Ref
from waiting import patience

STANDIN = (sys.executable, str(Path(__file__).with_name("standin_edge.py")))
NAME = "sundog-edge"


def deployment(namespace: str) -> Object:
    labels = {"app.kubernetes.io/name": NAME}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "haproxy"}]}},
        },
    }


def config_map(namespace: str, generation: int, *services: Object) -> Object:
    data = {"split.json": orjson.dumps({"version": 1, "generation": generation, "services": services}).decode()}
    meta = {"name": NAME, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


@dataclass
class Cluster:
    """The objects of one edge, and what its processes answer."""

    kube: MemoryKubernetes
    namespace: str = "vision"

    @property
    def deployment(self) -> Ref:
        return Ref(DEPLOYMENT, self.namespace, NAME)

    @property
    def pod_ref(self) -> Ref:
        return Ref(POD, self.namespace, f"{NAME}-0")

    async def create(self) -> None:
        await self.kube.create(deployment(self.namespace))
        await self.kube.create(config_map(self.namespace, 1))

    async def pod(self) -> Object:
        return await self.kube.get(self.pod_ref) or {}

    async def condition(self) -> dict[str, str]:
        conditions = (await self.pod()).get("status", {}).get("conditions", [{}])
        return dict(conditions[0])

    async def waiting(self, container: str) -> dict[str, str]:
        """Why a container does not run; nothing where it does."""
        statuses = (await self.pod()).get("status", {}).get("containerStatuses", ())
        return next((dict(each["state"].get("waiting", {})) for each in statuses if each["name"] == container), {})

    async def ready(self) -> Object | None:
        found = await self.kube.get(self.deployment) or {}
        if found.get("status", {}).get("readyReplicas") != 1 or (await self.condition()).get("status") != "True":
            return None
        return await self.pod()

    async def not_ready(self) -> dict[str, str] | None:
        condition = await self.condition()
        return condition if condition.get("status") == "False" else None

    async def ports(self) -> dict[str, int]:
        containers = (await self.pod())["spec"]["containers"]
        return {port["name"]: port["containerPort"] for container in containers for port in container["ports"]}

    async def answer(self, port: str, path: str = "/") -> str:
        """What a process answers: by default its pid. Empty when it does not."""
        return await asyncio.to_thread(_get, f"http://127.0.0.1:{(await self.ports())[port]}{path}")

    async def pids(self) -> tuple[int, int]:
        return int(await self.answer("http")), int(await self.answer("agent"))


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=patience(5)) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.fixture
def cluster(kube: MemoryKubernetes) -> Cluster:
    return Cluster(kube)


@pytest.fixture
def make_edge(kube: MemoryKubernetes, state_dir: Path, clock: SystemClock) -> Callable[..., LocalEdge]:
    def make(http_port: int = 0) -> LocalEdge:
        return LocalEdge(kube, state_dir, clock, http_port=http_port, https_port=0, cli=STANDIN)

    return make


async def test_an_edge_becomes_ready_follows_its_document_and_outlives_its_deployment_until_the_next_start(
    local: Any, cluster: Cluster, make_edge: Callable[..., LocalEdge], state_dir: Path
) -> None:
    await cluster.kube.create(deployment(cluster.namespace))
    edge, port = make_edge(wanted := allocate_port()), wanted
    async with local.running(edge):

        async def waits_for_config() -> bool:
            found = await cluster.kube.get(cluster.deployment) or {}
            return any(c["reason"] == "NoConfig" for c in found.get("status", {}).get("conditions", ()))

        await local.comes_true(waits_for_config, "NoConfig")
        await cluster.kube.create(config_map(cluster.namespace, 1))
        pod = await local.comes_true(cluster.ready, "readiness")
        assert (await cluster.ports())["http"] == port
        assert pod["metadata"]["labels"] == {"app.kubernetes.io/name": NAME}
        assert pod["status"]["podIP"] == "127.0.0.1"
        assert orjson.loads(await cluster.answer("agent", "/split"))["generation"] == 1

        await cluster.kube.apply(config_map(cluster.namespace, 2, {"name": "digits"}))

        async def second_document() -> bool:
            return bool(orjson.loads(await cluster.answer("agent", "/split"))["generation"] == 2)

        await local.comes_true(second_document, "the second document in the file")
        ports, pids = await cluster.ports(), await cluster.pids()
        await cluster.kube.delete(cluster.deployment)
        await cluster.kube.delete(Ref(CONFIG_MAP, cluster.namespace, NAME))
        url = f"http://127.0.0.1:{ports['agent']}/split"

        async def without_services() -> bool:
            return orjson.loads(await asyncio.to_thread(_get, url))["services"] == []

        await local.comes_true(without_services, "a document without services")
        assert await cluster.kube.get(cluster.pod_ref) is None
        # The namespace's next model is served at the same ports, by the same processes.
        await cluster.create()
        await local.comes_true(cluster.ready, "readiness again")
        assert (await cluster.ports(), await cluster.pids()) == (ports, pids)
        await cluster.kube.delete(cluster.deployment)
    async with local.running(make_edge()):

        async def gone() -> bool:
            return not await asyncio.to_thread(lambda: [*(state_dir / "edge").iterdir()])

        await local.comes_true(gone, "the end of the edge at the next start")
    assert local.running_in(state_dir) == []
    assert await cluster.kube.get(cluster.pod_ref) is None
    assert [*(state_dir / "processes").iterdir()] == []


@pytest.mark.parametrize("victim", ["http", "agent"])
async def test_either_process_is_restarted_alone_on_its_port(
    victim: str, local: Any, cluster: Cluster, make_edge: Callable[..., LocalEdge]
) -> None:
    await cluster.create()
    edge = make_edge()
    try:
        async with local.running(edge):
            await local.comes_true(cluster.ready, "readiness")
            ports, before = await cluster.ports(), await cluster.pids()
            index = ["http", "agent"].index(victim)
            os.kill(before[index], signal.SIGKILL)

            async def restarted() -> bool:
                return await cluster.answer(victim) not in {"", str(before[index])}

            await local.comes_true(restarted, "a new process")
            await local.comes_true(cluster.ready, "readiness")
            after = await cluster.pids()
            assert after[1 - index] == before[1 - index]
            assert await cluster.ports() == ports
    finally:
        await edge.stop_all()


async def test_the_key_and_the_store_of_outcomes_outlive_the_agent_and_the_store_goes_with_the_edge(
    local: Any, cluster: Cluster, make_edge: Callable[..., LocalEdge], state_dir: Path
) -> None:
    await cluster.create()
    edge = make_edge()
    async with local.running(edge):
        await local.comes_true(cluster.ready, "readiness")
        key = (state_dir / "signing-key").read_text()
        assert await cluster.answer("agent", "/kept") == f"{key}\nstarted\n"
    await edge.stop_all()
    again = make_edge()
    async with local.running(again):
        await local.comes_true(cluster.ready, "readiness of the next start")
        assert await cluster.answer("agent", "/kept") == f"{key}\nstarted\nstarted\n"
        assert [path.name for path in (state_dir / "edge").glob("*/outcomes.sqlite")] == ["outcomes.sqlite"]
        await cluster.kube.delete(cluster.deployment)
    async with local.running(make_edge()):

        async def gone() -> bool:
            return not [*(state_dir / "edge").iterdir()]

        await local.comes_true(gone, "the end of the edge")
    assert (state_dir / "signing-key").read_text() == key


async def test_a_process_that_keeps_ending_is_reported_with_its_last_words(
    local: Any, cluster: Cluster, make_edge: Callable[..., LocalEdge], state_dir: Path
) -> None:
    await cluster.create()
    edge = make_edge()
    try:
        async with local.running(edge):
            await local.comes_true(cluster.ready, "readiness")
            haproxy, agent = await cluster.pids()
            (state_dir / "edge/0/state/fail-agent").touch()
            os.kill(agent, signal.SIGKILL)

            async def said() -> dict[str, str] | None:
                condition = await cluster.condition()
                return condition if "status 3" in condition.get("message", "") else None

            condition = await local.comes_true(said, "the agent's end")
            log = state_dir / "logs/edge-0-agent.log"
            assert condition["reason"] == "ProcessExited"
            assert condition["message"] == f"the agent ended with status 3; {log} ends with: left on device"
            assert await cluster.answer("http") == str(haproxy)
            (state_dir / "edge/0/state/fail-agent").unlink()
            await local.comes_true(cluster.ready, "readiness")
    finally:
        await edge.stop_all()


@pytest.mark.parametrize("port", ["http", "agent"])
async def test_a_process_that_did_its_work_is_started_at_once_however_often_it_is_killed(
    local: Any, cluster: Cluster, make_edge: Callable[..., LocalEdge], port: str
) -> None:
    await cluster.create()
    edge = make_edge()
    told = set()

    async def ready_again() -> Object | None:
        told.add((await cluster.condition()).get("reason"))
        return await cluster.ready()

    try:
        async with local.running(edge):
            for _ in range(5):
                await local.comes_true(ready_again, "readiness")
                os.kill(pid := int(await cluster.answer(port)), signal.SIGKILL)
                await local.comes_true(cluster.not_ready, f"the end of {pid}")
            await local.comes_true(ready_again, "readiness")
    finally:
        await edge.stop_all()
    assert "ProcessExited" not in told, "it waited before a start"


async def test_two_namespaces_have_an_edge_each_and_only_the_first_gets_the_preferred_port(
    local: Any, kube: MemoryKubernetes, make_edge: Callable[..., LocalEdge]
) -> None:
    one, two = Cluster(kube, "one"), Cluster(kube, "two")
    await one.create()
    edge = make_edge(wanted := allocate_port())
    try:
        async with local.running(edge):
            await local.comes_true(one.ready, "readiness of one")
            await two.create()
            await local.comes_true(two.ready, "readiness of two")
            assert (await one.ports())["http"] == wanted
            assert len({*(await one.ports()).values(), *(await two.ports()).values()}) == 6
            assert len({*await one.pids(), *await two.pids()}) == 4
    finally:
        await edge.stop_all()


async def test_secrets_that_the_document_names_are_files_as_long_as_it_does(
    local: Any, cluster: Cluster, make_edge: Callable[..., LocalEdge], state_dir: Path
) -> None:
    service: Object = {"name": "digits", "tls": "cert", "auth": {"apiKeys": "keys"}}
    await cluster.kube.create(deployment(cluster.namespace))
    await cluster.kube.create(config_map(cluster.namespace, 1, service))
    folder = state_dir / "edge" / "0" / "secrets"

    def files() -> dict[str, str]:
        return {str(path.relative_to(folder)): path.read_text() for path in folder.glob("[!.]*/*")}

    def hold(wanted: dict[str, str]) -> Callable[[], Any]:
        async def held() -> bool:
            try:
                return await asyncio.to_thread(files) == wanted
            except FileNotFoundError:  # removed between the listing and the reading
                return False

        return held

    async def put(name: str, **content: str) -> None:
        meta = {"name": name, "namespace": cluster.namespace}
        await cluster.kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": content})

    edge = make_edge()
    try:
        async with local.running(edge):
            await local.comes_true(cluster.ready, "readiness, whatever is missing")
            await put("keys", ann="one", bob="two")
            await put("other", ann="one")
            await local.comes_true(hold({"keys/ann": "one", "keys/bob": "two"}), "the files of the Secret")
            await put("keys", ann="three")
            await local.comes_true(hold({"keys/ann": "three"}), "the new key alone")
            pids = await cluster.pids()
            await cluster.kube.apply(config_map(cluster.namespace, 2))
            await local.comes_true(hold({}), "no files of a Secret that nobody names")
            assert await cluster.pids() == pids
    finally:
        await edge.stop_all()


async def test_a_pod_of_an_earlier_version_is_replaced(
    local: Any, cluster: Cluster, make_edge: Callable[..., LocalEdge]
) -> None:
    """It lacks a port that its processes are to listen on now."""
    await cluster.create()
    edge = make_edge()
    try:
        async with local.running(edge):
            await local.comes_true(cluster.ready, "readiness")
            before, pids = await cluster.pod(), await cluster.pids()
            ports = [{"name": "http", "containerPort": (await cluster.ports())["http"]}]
            await cluster.kube.update(
                cluster.pod_ref, lambda pod: {**pod, "spec": {"containers": [{"name": "haproxy", "ports": ports}]}}
            )

            async def replaced() -> bool:
                pod = await cluster.ready()
                return pod is not None and pod["metadata"]["uid"] != before["metadata"]["uid"]

            await local.comes_true(replaced, "another pod")
            assert set(pids).isdisjoint(await cluster.pids())
            assert (await cluster.pod())["spec"] == before["spec"]
    finally:
        await edge.stop_all()


async def test_a_pod_that_was_deleted_is_started_anew(
    local: Any, cluster: Cluster, make_edge: Callable[..., LocalEdge]
) -> None:
    await cluster.create()
    edge = make_edge()
    try:
        async with local.running(edge):
            old = await local.comes_true(cluster.ready, "readiness")
            before = await cluster.pids()
            await cluster.kube.delete(cluster.pod_ref)

            async def renewed() -> bool:
                pod = await cluster.ready()
                return pod is not None and pod["metadata"]["uid"] != old["metadata"]["uid"]

            await local.comes_true(renewed, "a new pod")
            assert not {*before} & {*await cluster.pids()}
    finally:
        await edge.stop_all()


async def test_a_start_takes_another_port_in_place_of_one_that_somebody_took(
    local: Any, cluster: Cluster, make_edge: Callable[..., LocalEdge]
) -> None:
    await cluster.create()
    async with local.running(edge := make_edge()):
        await local.comes_true(cluster.ready, "readiness")
    await edge.stop_all()
    port = (await cluster.ports())["http"]
    edge = make_edge()
    try:
        with socket.create_server(("127.0.0.1", port)):
            async with local.running(edge):

                async def moved() -> bool:
                    return bool(await cluster.ready()) and (await cluster.ports())["http"] != port

                await local.comes_true(moved, "readiness at another port")
    finally:
        await edge.stop_all()


async def test_processes_outlive_a_killed_controller_and_the_next_one_adopts_them(
    local: Any, state_dir: Path, clock: SystemClock
) -> None:
    """The controller runs in a process of its own, which is killed as a crash would."""
    objects = state_dir / "objects.db"
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from sundog_operator.adapters.clock import SystemClock\n"
        "from sundog_operator.adapters.local.edge import LocalEdge\n"
        "from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes\n"
        "state, *cli = sys.argv[1:]\n"
        "kube = MemoryKubernetes.open(Path(state) / 'objects.db', SystemClock())\n"
        "asyncio.run(LocalEdge(kube, Path(state), SystemClock(), http_port=0, https_port=0, cli=tuple(cli)).run())\n"
    )
    kube = MemoryKubernetes.open(objects, clock)
    await Cluster(kube).create()
    kube.close()
    first = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(state_dir), *STANDIN)
    try:

        async def answers() -> dict[str, int] | None:
            facts = await asyncio.to_thread(_facts, state_dir)
            urls = [f"http://127.0.0.1:{facts.get(part, 0)}/" for part in ("haproxyPort", "agentPort")]
            return facts if all([await asyncio.to_thread(_get, url) for url in urls]) else None

        await local.comes_true(answers, "both processes")
    finally:
        first.kill()
        await first.wait()
    kube = MemoryKubernetes.open(objects, clock)
    cluster = Cluster(kube)
    before = await cluster.pids()
    edge = LocalEdge(kube, state_dir, clock, http_port=0, https_port=0, cli=STANDIN)
    try:
        async with local.running(edge):
            await local.comes_true(cluster.ready, "readiness")
            assert await cluster.pids() == before
    finally:
        await edge.stop_all()
    assert local.running_in(state_dir) == []
    assert [await cluster.answer(port) for port in ("http", "agent")] == ["", ""]
    kube.close()


def _facts(state_dir: Path) -> dict[str, int]:
    try:
        facts: dict[str, int] = orjson.loads((state_dir / "edge/0/unit.json").read_bytes())["facts"]
    except OSError:
        return {}
    return facts
