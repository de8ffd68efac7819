"""Run the command line in this process, with an API server whose reconciler uses stand-ins for Ray and the edge."""

import asyncio
import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson
import pytest

from doubles.clock import FakeClock
from doubles.cluster import NAMESPACE, Cluster
from doubles.hooked_kubernetes import HookedKubernetes
from sundog_operator.adapters.memory_kubernetes.http_server import serve_http
from sundog_operator.adapters.memory_kubernetes.kubeconfig import write_kubeconfig
from sundog_operator.shell import cli
from sundog_operator.shell.local import state_dir_paths
from sundog_operator.shell.local.api_server import crd_schemas, find_admission_violations, printer_columns
from waiting import PATIENCE_S

T = TypeVar("T")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)


Sundog = Callable[..., Done]


class Server:
    """An API server on loopback in a separate thread. Its reconciler runs while `operator` is set."""

    def __init__(self, folder: Path) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self.operator = threading.Event()
        self.cluster: Cluster
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._round = asyncio.Lock()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def do(self, make: Callable[[Cluster], Awaitable[T]]) -> T:
        """Run a coroutine in the server's thread."""

        async def call() -> T:
            return await make(self.cluster)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(PATIENCE_S)

    def until(self, condition: Callable[[Cluster], Awaitable[Any]], what: str) -> Any:
        """Wait until the reconciler reaches a state."""
        self.operator.set()
        deadline = time.monotonic() + PATIENCE_S
        while not (value := self.do(condition)):
            assert time.monotonic() < deadline, f"{what}: {self.do(lambda cluster: cluster.status())}"
        return value

    def pause(self) -> None:
        """End the reconciler's work, the present round included: it would write what it read before."""
        self.operator.clear()

        async def end_round(_: Cluster) -> None:
            async with self._round:
                pass

        self.do(end_round)

    def serve_revision(self, number: int) -> None:
        """Wait until a revision is stable and ready, without a rollout under way."""

        async def settled(cluster: Cluster) -> bool:
            return await cluster.serves(number) and not (await cluster.status()).get("retiring")

        self.until(settled, f"revision {number} serves")

    async def _serve(self) -> None:
        clock = FakeClock()
        kube = HookedKubernetes(clock, schemas=crd_schemas(), admit=find_admission_violations)
        self.cluster = Cluster(kube)
        async with serve_http(kube, clock, token="let me in", columns=printer_columns()) as url:
            write_kubeconfig(self.kubeconfig, url, "let me in", namespace=NAMESPACE)
            self._ready.set()
            work = asyncio.create_task(self._work())
            await self._stop.wait()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        kube.close()

    async def _work(self) -> None:
        while True:
            async with self._round:
                if self.operator.is_set():
                    await self.cluster.round()
            await asyncio.sleep(0.005)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def _apart(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the instance, the kubeconfig and the settings of the user who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("KUBECONFIG", "SUNDOG_STATE_DIR", "SUNDOG_DEBUG", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sundog(capsys: pytest.CaptureFixture[str]) -> Sundog:
    """Run a command line."""

    def call(*arguments: str) -> Done:
        capsys.readouterr()
        code = cli.run(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Done(code, out, err)

    return call


@pytest.fixture
def on_server(sundog: Sundog, server: Server) -> Sundog:
    """Run a command line against the API server."""

    def call(*arguments: str) -> Done:
        return sundog(*arguments, "--kubeconfig", str(server.kubeconfig))

    return call


@pytest.fixture
def served(on_server: Sundog, server: Server, manifest: Callable[..., Path]) -> Sundog:
    """Let revision 1 serve."""
    on_server("apply", "-f", str(manifest()))
    server.serve_revision(1)
    return on_server


@pytest.fixture
def canary(served: Sundog, server: Server, manifest: Callable[..., Path]) -> Sundog:
    """Let revision 1 serve, and revision 2 have 25 %."""
    served("apply", "-f", str(manifest("file:///models/v2")))
    server.until(lambda cluster: cluster.at_weight(2, 25), "25 %")
    return served


@pytest.fixture
def local_state(server: Server) -> Iterator[Path]:
    """Return the state directory of a local instance with the API server."""
    with tempfile.TemporaryDirectory(prefix="sdt-") as folder:
        state = state_dir_paths.prepare_state_dir(Path(folder))
        shutil.copy(server.kubeconfig, state.path / state_dir_paths.KUBECONFIG_FILE)
        with state.hold():
            yield state.path


@pytest.fixture
def local(local_state: Path, sundog: Sundog) -> Sundog:
    """Run a command line against the API server as the one of a local instance."""
    return lambda *arguments: sundog(*arguments, "--state-dir", str(local_state))


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Write a manifest; JSON is YAML."""

    def write(uri: str = "file:///models/v1", name: str = "digits", file: str = "digits.yaml", **spec: Any) -> Path:
        document = {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": {
                "model": {"uri": uri, "entrypoint": "net:Net"},
                "rollout": {"steps": [{"weight": 25, "gate": "manual"}, {"weight": 50, "gate": "manual"}]},
                **spec,
            },
        }
        path = tmp_path / file
        path.write_bytes(orjson.dumps(document))
        return path

    return write
