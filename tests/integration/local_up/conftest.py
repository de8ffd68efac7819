"""`sundog local up` as a process, a model to serve, and clients that never stop asking."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil
import pytest

T = TypeVar("T")

NET = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))

    def forward(self, x):
        return self.layers(x)
"""


def eventually(probe: Callable[[], T], what: str, timeout: float = 60.0) -> T:
    """The first true value of `probe`. Raises TimeoutError with the last value."""
    deadline = time.monotonic() + timeout
    while not (value := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {timeout:g} s; last value: {value!r}")
        time.sleep(0.1)
    return value


def processes_of(directory: Path) -> list[psutil.Process]:
    """Every process that has anything to do with a directory, found without any of our records."""
    needle, found = str(directory), []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            traces = [*process.cmdline(), process.cwd(), *process.environ().values()]
            if any(needle in trace for trace in traces) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@dataclass
class Up:
    """One state directory, and the `sundog local up` that runs in it."""

    state: Path
    manifests: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "sundog_operator.shell.cli", "local", "up", str(self.manifests)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, f"--state-dir={self.state}"], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def end(self, number: signal.Signals, timeout: float = 60.0) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def told(self) -> str:
        return self.log.read_text()

    def sundog(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb as a user would."""
        return subprocess.run(
            [sys.executable, "-m", "sundog_operator.shell.cli", *arguments],
            env={**os.environ, "SUNDOG_STATE_DIR": str(self.state)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def status(self, name: str) -> dict[str, Any]:
        """The stored object; empty while nothing answers."""
        done = self.sundog("get", name, "-o", "json")
        return json.loads(done.stdout) if done.returncode == 0 else {}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """Nothing of it is left afterwards, whatever the test did."""
    state = Path(tempfile.mkdtemp(prefix="sdu-", dir="/tmp"))
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    instance = Up(state, manifests, tmp_path / "up.log")
    try:
        yield instance
    finally:
        for process in processes_of(state):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if instance.process is not None:
            instance.process.wait(10)
        shutil.rmtree(state, ignore_errors=True)


@dataclass
class Model:
    """A network on disk in two versions, and what each answers to one input."""

    folder: Path
    inputs: list[list[float]]
    expected: dict[str, list[list[float]]] = field(default_factory=dict)

    def manifest(self, version: str, weight: int = 25) -> str:
        # JSON is YAML.
        return json.dumps(
            {
                "apiVersion": "serving.sundog.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": "mlp"},
                "spec": {
                    "model": {"uri": f"file://${{MANIFEST_DIR}}/../models/{version}", "entrypoint": "net:Net"},
                    "rollout": {"steps": [{"weight": weight, "gate": "manual"}, {"weight": 50, "gate": "manual"}]},
                },
            }
        )


@pytest.fixture
def model(tmp_path: Path) -> Model:
    torch = pytest.importorskip("torch")
    made = Model(tmp_path / "models", [[0.5, -1.0, 2.0, 0.25]])
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    for seed, version in enumerate(("v1", "v2")):
        folder = made.folder / version
        folder.mkdir(parents=True)
        (folder / "net.py").write_text(NET)
        torch.manual_seed(seed)
        net = namespace["Net"]()
        torch.save(net.state_dict(), folder / "weights.pt")
        with torch.no_grad():
            made.expected[version] = net(torch.tensor(made.inputs)).tolist()
    return made


@dataclass
class Clients:
    """Closed-loop clients. `wrong` holds every answer that was not the prediction of the revision it names."""

    url: str
    body: bytes
    expected: dict[str, list[list[float]]]
    revisions: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, count: int) -> None:
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def total(self) -> int:
        with self._lock:
            return sum(self.revisions.values())

    def fresh(self) -> None:
        """Count revisions from now on."""
        with self._lock:
            self.revisions.clear()

    def _ask(self) -> None:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        while not self._stop.is_set():
            try:
                revision, problem = self._one(connection, parts.path)
            except (OSError, http.client.HTTPException, ValueError) as err:
                revision, problem = "", f"{type(err).__name__}: {err}"
                connection.close()
            with self._lock:
                self.revisions[revision] += 1
                if problem:
                    self.wrong.append(problem)
            # Eight clients without a pause would starve Ray on two cores.
            self._stop.wait(0.02)
        connection.close()

    def _one(self, connection: http.client.HTTPConnection, path: str) -> tuple[str, str]:
        connection.request("POST", path, self.body, {"content-type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        revision = response.getheader("x-sundog-revision", "")
        if response.status != 200:
            return revision, f"status {response.status}: {text[:200]!r}"
        outputs = json.loads(text)["outputs"]
        wanted = self.expected.get(f"v{revision}")
        close = wanted is not None and all(
            abs(a - b) < 1e-4 for rows in zip(outputs, wanted, strict=True) for a, b in zip(*rows, strict=True)
        )
        return revision, "" if close else f"revision {revision!r} answered {outputs}"


@pytest.fixture
def clients(model: Model) -> Iterator[Callable[[str], Clients]]:
    made: list[Clients] = []

    def make(url: str) -> Clients:
        made.append(Clients(url, json.dumps({"inputs": model.inputs}).encode(), model.expected))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def wait() -> Callable[..., Any]:
    """See `eventually`."""
    return eventually
