"""An API server, the in-memory one or a real one, and what tests of the process ask of either."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from charting import NAMESPACE, service_account, values
from fake_cluster.memory_api import MemoryApi
from fake_cluster.operator_process import OperatorProcess, running_operator
from real_kubernetes.cluster import Cluster
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.ports import LEASE, MODEL_DEPLOYMENT, Object, Ref

ACCOUNT = "process"


@dataclass
class Api:
    """An API server with a namespace of the test's own. The test is its administrator, the operators are the account of `theirs`."""

    kubeconfig: Path
    namespace: str
    folder: Path
    away: Callable[[], AbstractContextManager[None]]
    theirs: Path
    lease: Ref
    memory: MemoryApi | None = None

    def operator(
        self, identity: str, lease: str = "", beside: tuple[str, ...] = ()
    ) -> AbstractContextManager[OperatorProcess]:
        """An operator of that namespace and of others `beside` it. `lease` is another name than that of the others' Lease."""
        text = f"watchNamespaces: [{', '.join((*beside, self.namespace))}]\n"
        options = ("--namespace", self.lease.namespace, "--lease", lease or self.lease.name)
        return running_operator(self.folder, self.theirs, *options, identity=identity, installation=text)

    def ask(self, question: Callable[[KubernetesClient], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            client = await KubernetesClient.connect(self.kubeconfig, manager="test")
            try:
                return await question(client)
            finally:
                await client.close()

        return asyncio.run(run())

    def apply(self, replicas: int, name: str = "digits") -> None:
        meta = {"name": name, "namespace": self.namespace}
        spec = {"model": {"uri": "https://models.example.com/digits", "entrypoint": "net:Net"}, "replicas": replicas}
        obj = {
            "apiVersion": MODEL_DEPLOYMENT.api_version,
            "kind": MODEL_DEPLOYMENT.kind,
            "metadata": meta,
            "spec": spec,
        }
        self.ask(lambda client: client.apply(obj))

    def deployment(self, name: str = "digits") -> Object:
        found = self.ask(lambda client: client.get(Ref(MODEL_DEPLOYMENT, self.namespace, name)))
        assert found is not None
        return dict(found)

    def reconciled(self, name: str = "digits") -> bool:
        """Whether somebody looked at the newest spec."""
        obj = self.deployment(name)
        return bool((obj.get("status") or {}).get("observedGeneration") == obj["metadata"]["generation"])

    def record(self) -> Object:
        """What is in the Lease."""
        lease = self.ask(lambda client: client.get(self.lease))
        return dict(lease["spec"]) if lease else {}

    def holder(self) -> str:
        return str(self.record().get("holderIdentity", ""))


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.cluster)])
def api(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Api]:
    if request.param == "memory":
        yield from _memory(tmp_path)
    else:
        yield from _real(request.getfixturevalue("api_for_operators"), tmp_path)


@pytest.fixture
def memory_api(tmp_path: Path) -> Iterator[Api]:
    yield from _memory(tmp_path)


def _memory(folder: Path) -> Iterator[Api]:
    server = MemoryApi(folder)
    server.start()
    try:
        lease = Ref(LEASE, "vision", "sundog-operator")
        yield Api(server.kubeconfig, "vision", folder, server.away, server.kubeconfig, lease, server)
    finally:
        server.stop()


def _real(cluster: Cluster, folder: Path) -> Iterator[Api]:
    namespace = f"process-{time.monotonic_ns() % 10**9}"
    cluster.kubectl("create", "namespace", namespace)
    # Of a name of its own: what the other one does is counted elsewhere.
    given = {**values("smallest"), "watchNamespaces": [namespace], "fullnameOverride": ACCOUNT}
    service_account.install(cluster.kubectl, given)
    lease = Ref(LEASE, NAMESPACE, service_account.lease(given, ACCOUNT))
    theirs = service_account.kubeconfig(cluster.kubectl, folder / "theirs", ACCOUNT)

    @contextmanager
    def away() -> Iterator[None]:
        if cluster.instance is None:
            pytest.skip("an API server of somebody else is not stopped")
        process = cluster.instance.processes()["kube-apiserver"]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    try:
        yield Api(cluster.kubeconfig, namespace, folder, away, theirs, lease)
    finally:
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")
