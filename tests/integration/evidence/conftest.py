"""Services that are rolled out side by side in one `sundog local up`, each under load of its own."""

import base64
import contextlib
import http.client
import json
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from real_local import EXPERIMENTS, Clients, Up, is_ready, save_network
from waiting import PATIENCE_S, eventually

Json = dict[str, Any]

BATCHES: Final = [[[0.5, -1.0, 2.0, float(number)]] for number in range(10)]
PASS: Final = "        return self.layers(x) + self.offset\n"
OVER: Final = ("Concluded", "Stopped")
KNOWN: Final = 150
"""Answers of stable, of which a hundred tell how long it takes."""

NONSENSE: Final = (b"", b"hello", b'{"inputs": [[1, 2,', b'{"input": [[1, 2, 3, 4]]}')
"""Bodies that are refused before any network sees them."""

CONNECTIONS: Final = 4


class Crowd(Clients):
    """Callers who come once, each under a name of his own, with what no model can read; what is wrong is an answer that is not 400."""

    def _one(self, connection: http.client.HTTPConnection, path: str, body: bytes, which: int) -> tuple[str, str]:
        number = next(self._turns)
        connection.request("POST", path, NONSENSE[number % len(NONSENSE)], {"x-user-id": f"passer-by-{number}"})
        response = connection.getresponse()
        text = response.read()
        problem = "" if response.status == 400 else f"status {response.status}: {text[:200]!r}"
        return response.getheader("x-sundog-revision", ""), problem


@dataclass
class Service:
    """A ModelDeployment with two releases, and what asks it. The n-th release is revision n."""

    up: Up
    folder: Path
    name: str
    rollout: Json
    pause_s: float = 0.1
    users: int = 0
    load: Clients = field(init=False)
    released: float = 0.0
    crowd: Crowd | None = None

    def __post_init__(self) -> None:
        self.load = Clients("", BATCHES, {}, pause_s=self.pause_s, users=self.users)

    def release(self, number: int, behaviour: str = "") -> None:
        """Save the manifest with a network of its own, and with what that does before it answers."""
        folder = self.folder / self.name / f"v{number}"
        self.load.expect(number, save_network(folder, number, BATCHES))
        code = (folder / "net.py").read_text()
        assert PASS in code
        (folder / "net.py").write_text(code.replace(PASS, behaviour + PASS))
        self.write(f"file://{folder}", "net:Net")
        self.released = time.time()

    def write(self, uri: str, entrypoint: str) -> None:
        """Save the manifest."""
        spec = {"model": {"uri": uri, "entrypoint": entrypoint}, "rollout": self.rollout}
        self.manifest.write_text(json.dumps(self.document(spec)))

    def document(self, spec: Json) -> Json:
        """A manifest of it."""
        return {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": self.name},
            "spec": spec,
        }

    @property
    def manifest(self) -> Path:
        return self.up.manifests / f"{self.name}.yaml"

    def begin(self, clients: int) -> None:
        """Ask from now on."""
        self.load.url = self.read()["status"]["url"]
        self.load.start(clients)

    def read(self) -> Json:
        return self.up.read(self.name)

    def attempt(self) -> Json:
        """The Experiment of revision 2; empty while there is none or nobody answers."""
        return self._get(f"{EXPERIMENTS}/{self.name}-r2")

    def progress(self) -> Json:
        """The status of that."""
        return dict(self.attempt().get("status") or {})

    def counted(self) -> Json:
        """What is stored of what the edges counted, as of the last decision or a minute ago."""
        packed = base64.b64decode(self.progress()["tallies"], validate=True)
        return dict(json.loads(zlib.decompress(packed)))

    def grouped(self, arm: str) -> int:
        """Requests of an arm in groups of units, as stored."""
        groups = self.counted().get("groups", {}).values()
        return sum(
            sum(columns[0][:-1]) for rows in groups for key, columns in rows.items() if key.partition("/")[2] == arm
        )

    def sums(self, arm: str, epoch: int | None = None) -> Json:
        """Of that an arm's, over all processes of the edge, and over all epochs or of one."""
        stored = self.counted()
        rows = [
            dict(zip(stored["columns"], counts, strict=True))
            for source in stored["sources"].values()
            for key, counts in source.items()
            if key.partition("/")[2] == arm and epoch in (None, int(key.partition("/")[0]))
        ]
        return {column: sum(row[column] for row in rows) for column in stored["columns"]}

    def has_counted(self, requests: int) -> list[Json] | None:
        """The edge's own counters, once so many requests are in them and none is under way."""
        rows = [row for row in self.up.evidence().get("counters", ()) if row["service"] == self.name]
        whole = sum(row["assigned"] for row in rows) >= requests and not any(row["inFlight"] for row in rows)
        return rows if whole else None

    def is_warm(self) -> bool:
        """Whether what is counted is evidence."""
        return bool((self.progress().get("step") or {}).get("warm"))

    def ends(self) -> Json:
        """The attempt's status once it is over."""
        eventually(lambda: self.progress().get("phase") in OVER, f"the end of the rollout of {self.name}")
        eventually(lambda: "candidate" not in self.read().get("status", {"candidate": ""}), "its being taken over")
        return self.progress()

    def sent(self) -> int:
        """Requests of all who ask it."""
        return self.load.sent + (self.crowd.sent if self.crowd else 0)

    def answered(self, revision: int) -> int:
        """Those that a revision has answered."""
        everybody = [self.load, *([self.crowd] if self.crowd else [])]
        return sum(clients.revisions[str(revision)] for clients in everybody)

    def report(self, body: bytes) -> tuple[int, str]:
        """The status and the code that feedback gets."""
        parts = urlsplit(self.load.url)
        with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_S)) as connection:
            connection.request("POST", f"{parts.path.rstrip('/')}/-/feedback", body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())["code"]

    def gather(self) -> Crowd:
        """Have it asked by a crowd as well."""
        self.crowd = Crowd(self.load.url, [[]], {}, pause_s=0)
        self.crowd.start(CONNECTIONS)
        return self.crowd

    def settles(self, revision: int) -> None:
        """Wait until nothing but one revision answers."""

        def settled() -> bool:
            before = Counter(self.load.revisions)
            eventually(lambda: self.load.total() >= before.total() + 20, "more answers")
            return set(self.load.revisions - before) == {str(revision)}

        eventually(settled, f"answers of revision {revision} only")

    def _get(self, path: str) -> Json:
        try:
            status, found = self.up.api("GET", path)
        except OSError:
            return {}
        return found if status == 200 else {}


@dataclass
class Bench:
    """Services side by side."""

    up: Up
    folder: Path
    services: list[Service] = field(default_factory=list)

    def add(self, name: str, rollout: Json, pause_s: float = 0.1, users: int = 0) -> Service:
        """One more, which is not released yet. Other modules leave some of theirs, whose revisions would count on."""
        assert not self.up.read(name)
        self.services.append(Service(self.up, self.folder, name, rollout, pause_s, users))
        return self.services[-1]

    def begin(self, clients: int) -> None:
        """Ask each from now on, once its first revision serves; until all have had answers enough to know stable by."""
        eventually(lambda: all(is_ready(each.read()) for each in self.services), "the first revisions serving")
        for each in self.services:
            each.begin(clients)
        eventually(lambda: all(each.load.total() >= KNOWN for each in self.services), f"{KNOWN} answers of each")


@pytest.fixture(scope="module")
def bench(shared_up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """What a module adds to it is asked no more, and deleted, with the module's end."""
    pytest.importorskip("torch")
    made = Bench(shared_up, tmp_path_factory.mktemp("networks"))
    yield made
    for service in made.services:
        service.load.stop()
        if service.crowd is not None:
            service.crowd.stop()
        service.manifest.unlink(missing_ok=True)
    eventually(lambda: not any(each.read() for each in made.services), "the deletion")
