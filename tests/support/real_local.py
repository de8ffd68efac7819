"""`sundog local up` as a process, networks to serve, and clients that send requests without pause."""

import base64
import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import yaml

from waiting import PATIENCE_S, eventually, patience

Json = dict[str, Any]

GROUP = "/apis/serving.sundog.dev/v1alpha1"
EXPERIMENTS = f"{GROUP}/namespaces/default/experiments"
COMMAND = "serving.sundog.dev/command"

NET = """
import time

import torch


class Net(torch.nn.Module):
    offset = 0.0

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))

    def configure(self, user_config):
        self.offset = float(user_config.get("offset", 0.0))

    def forward(self, x):
        if x[0, 3] < 0:
            time.sleep(1)
        return self.layers(x) + self.offset
"""
SLOW = [[0.5, -1.0, 2.0, -1.0]]
"""A batch that takes such a network a second."""


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


def condition(obj: Json, type_: str) -> Json:
    """Return one condition of a stored object; empty if there is none."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((dict(each) for each in conditions if each["type"] == type_), {})


def is_ready(obj: Json) -> bool:
    """Return whether a stored object is Ready."""
    return condition(obj, "Ready").get("status") == "True"


def is_at_zero(obj: Json) -> bool:
    """Return whether a stored object is Ready without a replica."""
    return is_ready(obj) and "has no replica; the next request starts one" in condition(obj, "Ready")["message"]


def weight(obj: Json) -> int:
    """The candidate's share in percent; 0 without a candidate."""
    return int((obj.get("status", {}).get("candidate") or {}).get("weight", 0))


def stable(obj: Json) -> int:
    """The stable revision; 0 where nothing serves."""
    return int((obj.get("status", {}).get("stable") or {}).get("revision", 0))


def without_privilege() -> tuple[str, ...]:
    """Return a command prefix that drops root's permission to read every file; empty if not needed or not possible."""
    rights = "-dac_override,-dac_read_search"
    prefix = ("setpriv", f"--inh-caps={rights}", f"--bounding-set={rights}")
    if os.geteuid() or shutil.which("setpriv") is None:
        return ()
    return prefix if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0 else ()


@dataclass
class Up:
    """A state directory, and the `sundog local up` that runs in it."""

    state: Path
    manifests: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None
    prefix: tuple[str, ...] = ()
    program: tuple[str, ...] = ("sundog_operator.shell.cli", "local", "up")
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def reads_everything(self) -> bool:
        return os.geteuid() == 0 and not self.prefix

    def start(self) -> None:
        command = [*self.prefix, sys.executable, "-m", *self.program, str(self.manifests)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, f"--state-dir={self.state}"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def end(self, number: signal.Signals, timeout: float = PATIENCE_S) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def output(self) -> str:
        return self.log.read_text()

    def sundog(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb as a user would."""
        return subprocess.run(
            [sys.executable, "-m", "sundog_operator.shell.cli", *arguments],
            env={**os.environ, "SUNDOG_STATE_DIR": str(self.state)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def status(self, name: str) -> Json:
        """The stored object; empty while nothing answers."""
        done = self.sundog("get", name, "-o", "json")
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def api(self, method: str, path: str, document: Any = None) -> tuple[int, Json]:
        """Request the API server directly, without a process; return (status, document). Raises OSError while it does not answer."""
        config = yaml.safe_load((self.state / "kubeconfig").read_text())
        server = urlsplit(config["clusters"][0]["cluster"]["server"])
        credentials = base64.b64encode(f"{server.username}:{server.password}".encode()).decode()
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = urllib.request.Request(
            f"http://{server.hostname}:{server.port}{path}",
            None if document is None else json.dumps(document).encode(),
            {"Authorization": f"Basic {credentials}", "Content-Type": kind},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=patience(30)) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as err:
            with err:
                return err.code, json.loads(err.read())

    def read(self, name: str, namespace: str = "default") -> Json:
        """Return the stored ModelDeployment; empty if there is none or the API does not answer."""
        try:
            status, obj = self.api("GET", f"{GROUP}/namespaces/{namespace}/modeldeployments/{name}")
        except OSError:
            return {}
        return obj if status == 200 else {}

    def command(self, name: str, text: str) -> Json:
        """Write the command annotation; what became of it."""
        path = f"{GROUP}/namespaces/default/modeldeployments/{name}"
        before = self.read(name)["status"].get("lastCommand")
        status, answer = self.api("PATCH", path, {"metadata": {"annotations": {COMMAND: text}}})
        assert status == 200, answer

        def handled() -> Json | None:
            last = self.read(name).get("status", {}).get("lastCommand")
            return last if last != before else None

        return eventually(handled, f"the command {text!r} handled")

    def evidence(self) -> Json:
        """The evidence document of the only edge; empty while its agent is away."""
        (record,) = (self.state / "edge").glob("*/unit.json")
        port = json.loads(record.read_bytes())["facts"]["agentPort"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/evidence", timeout=patience(10)) as answer:
                document: Json = json.loads(answer.read())
        except OSError:
            return {}
        return document

    def pid(self, name: str) -> int:
        """The process that local mode runs under a name such as `edge-0-agent`."""
        return int(json.loads((self.state / "processes" / f"{name}.json").read_bytes())["pid"])

    def is_replaced(self, name: str, pid: int) -> bool:
        """Return whether another process has replaced that one. Its record is removed before the next one starts."""
        try:
            return self.pid(name) != pid
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def instance(folder: Path) -> Iterator[Up]:
    """A state directory of its own. Nothing of it is left afterwards, whatever the test did."""
    # Unix sockets have paths of at most 107 bytes, and Ray adds some 60.
    state = Path(tempfile.mkdtemp(prefix="sdu-"))
    manifests = folder / "manifests"
    manifests.mkdir()
    made = Up(state, manifests, folder / "up.log")
    try:
        yield made
    finally:
        for process in processes_of(state):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if made.process is not None:
            made.process.wait(PATIENCE_S)
        shutil.rmtree(state, ignore_errors=True)


Rows = list[list[float]]


def save_network(folder: Path, seed: int, batches: Sequence[Rows]) -> list[Rows]:
    """Write a network with random weights as a model directory; what it answers to each batch."""
    import torch

    namespace: Json = {}
    exec(NET, namespace)
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(NET)
    torch.manual_seed(seed)
    net = namespace["Net"]()
    torch.save(net.state_dict(), folder / "weights.pt")
    with torch.no_grad():
        return [net(torch.tensor(batch)).tolist() for batch in batches]


def close(outputs: Any, wanted: Rows) -> bool:
    """Return whether an answer is the expected one, up to rounding."""
    try:
        pairs = [pair for rows in zip(outputs, wanted, strict=True) for pair in zip(*rows, strict=True)]
        return all(abs(found - expected) < 1e-4 for found, expected in pairs)
    except (TypeError, ValueError):
        return False


@dataclass
class Clients:
    """Closed-loop clients, each on a connection that is kept alive.

    `expected` has, per revision, what it may answer to each batch: alternatives, for a revision can be configured
    anew while it serves. `wrong` holds every answer that was none of them, and every request without an answer.
    With `users` each request is of the next of so many, who is named in `x-user-id`.
    """

    url: str
    batches: Sequence[Rows]
    expected: dict[str, list[list[Rows]]]
    pause_s: float = 0.02
    slow_pause_s: float = 3.0
    users: int = 0
    revisions: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    wrong: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)
    _turns: Iterator[int] = field(default_factory=itertools.count)

    def start(self, count: int, slow: int = 0) -> None:
        """So many clients that send the quick batches in turn, and `slow` ones beside them for those that are SLOW."""
        quick = [which for which, batch in enumerate(self.batches) if batch != SLOW]
        rest = [which for which, batch in enumerate(self.batches) if batch == SLOW]
        orders = [((quick[n % len(quick) :] + quick)[: len(quick)], self.pause_s) for n in range(count)]
        orders += [(rest, self.slow_pause_s)] * slow
        self._threads = [threading.Thread(target=self._ask, args=order) for order in orders]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    @property
    def running(self) -> bool:
        return bool(self._threads) and not self._stop.is_set()

    def total(self) -> int:
        with self._lock:
            return sum(self.revisions.values())

    def fresh(self) -> None:
        """Count revisions from now on."""
        with self._lock:
            self.revisions.clear()

    def expect(self, revision: int, *alternatives: list[Rows]) -> None:
        """Set the outputs that a revision may give from now on."""
        self.expected[str(revision)] = list(alternatives)

    def once(self) -> Any:
        """Send one more request, counted like all others, and return the outputs for the first batch."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_S)
        with contextlib.closing(connection), self._lock:
            self.sent += 1
            connection.request("POST", parts.path, json.dumps({"inputs": self.batches[0]}).encode())
            return json.loads(connection.getresponse().read())["outputs"]

    def _ask(self, order: Sequence[int], pause_s: float) -> None:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_S)
        bodies = [json.dumps({"inputs": batch}).encode() for batch in self.batches]
        for which in itertools.cycle(order):
            if self._stop.is_set():
                break
            begun = time.time()
            try:
                revision, problem = self._one(connection, parts.path, bodies[which], which)
            except (OSError, http.client.HTTPException, ValueError) as err:
                revision, problem = "", f"{type(err).__name__}: {err}"
                connection.close()
            with self._lock:
                self.sent += 1
                self.revisions[revision] += 1
                if problem:
                    self.wrong.append(f"{time.strftime('%H:%M:%S', time.localtime(begun))} {problem}")
            # Eight clients without a pause would starve Ray on two cores.
            self._stop.wait(pause_s)
        connection.close()

    def _one(self, connection: http.client.HTTPConnection, path: str, body: bytes, which: int) -> tuple[str, str]:
        # An answer is held to what was expected before or after it: that may change meanwhile.
        before = dict(self.expected)
        user = {"x-user-id": f"user-{next(self._turns) % self.users}"} if self.users else {}
        connection.request("POST", path, body, {"content-type": "application/json", **user})
        response = connection.getresponse()
        text = response.read()
        revision = response.getheader("x-sundog-revision", "")
        if response.status != 200:
            return revision, f"status {response.status}: {text[:200]!r}"
        outputs = json.loads(text)["outputs"]
        wanted = [*before.get(revision, ()), *self.expected.get(revision, ())]
        right = any(close(outputs, alternative[which]) for alternative in wanted)
        return revision, "" if right else f"revision {revision!r} answered {outputs} to batch {which}"
