"""A service under load that never pauses, and what can be done to it meanwhile."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from real_local import SLOW, Clients, Rows, Up, is_ready, save_network, stable
from waiting import eventually

NAME = "steady"
CLIENTS = 6
SLOW_CLIENTS = 2
BATCHES = [*([[0.5, -1.0, 2.0, float(number)]] for number in range(16)), SLOW]
CANARY = {"steps": [{"weight": 25, "gate": "time", "minDuration": "2s"}, {"weight": 50, "gate": "manual"}]}
SLOW_PASS = "            time.sleep(1)\n"
TOLD_PASS = """            busy = Path(__file__).parents[1] / f"busy-{os.getpid()}"
            busy.touch()
            time.sleep(1)
            busy.unlink()
"""
"""A slow pass that can be seen from outside while it runs."""


@dataclass
class Service:
    """One ModelDeployment, edited as its author would: by saving the manifest.

    Every release is a network of its own, so the n-th release is revision n.
    """

    up: Up
    models: Path
    name: str = NAME
    load: Clients = field(default_factory=lambda: Clients("", BATCHES, {}))
    answers: dict[int, list[Rows]] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)

    def release(self, rollout: dict[str, Any]) -> int:
        """Save the manifest with a new network; the revision that it makes."""
        number = len(self.answers) + 1
        folder = self.models / f"v{number}"
        self.answers[number] = save_network(folder, number, BATCHES)
        code = (folder / "net.py").read_text()
        assert SLOW_PASS in code
        (folder / "net.py").write_text("import os\nfrom pathlib import Path\n" + code.replace(SLOW_PASS, TOLD_PASS))
        self.load.expect(number, self.answers[number])
        self.save(model={"uri": f"file://{folder}", "entrypoint": "net:Net"}, rollout=rollout)
        return number

    def is_busy(self, pid: int) -> bool:
        """Whether that process is in the middle of a slow pass, or died in one."""
        return (self.models / f"busy-{pid}").exists()

    def save(self, **spec: Any) -> None:
        """Change fields of the spec in the manifest."""
        self.spec |= spec
        self.manifest(NAME).write_text(json.dumps(self.document(NAME, self.spec)))

    def manifest(self, name: str) -> Path:
        return self.up.manifests / f"{name}.yaml"

    def document(self, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": spec,
        }

    def read(self) -> dict[str, Any]:
        return self.up.read(NAME)

    def status(self) -> dict[str, Any]:
        return dict(self.read().get("status") or {})

    def stable(self) -> int:
        return stable(self.read())

    def steer(self, *verb: str) -> None:
        """A command as a user gives it."""
        done = self.up.sundog(verb[0], NAME, *verb[1:])
        assert done.returncode == 0, done.stderr

    def becomes_stable(self, number: int) -> None:
        eventually(lambda: self.stable() == number and is_ready(self.read()), f"revision {number} as stable")
        self.only_answered_by(number)

    def only_answered_by(self, number: int) -> None:
        """Of the requests that were under way at a switch, the other revision may still answer some."""
        self.more()
        eventually(lambda: set(self.more()) == {str(number)}, f"answers of revision {number} only")

    def more(self, count: int = 100) -> dict[str, int]:
        """Wait for so many more answers; how many each revision gave."""
        self.load.fresh()
        eventually(lambda: self.load.total() >= count, f"{count} more answers")
        return dict(self.load.revisions)


@pytest.fixture(scope="module")
def loaded(shared_up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with its first revision, and clients that ask from its first moment to the end of the module."""
    pytest.importorskip("torch")
    service = Service(shared_up, tmp_path_factory.mktemp("networks"))
    service.release(CANARY)
    eventually(lambda: is_ready(service.read()), "the first revision serving")
    service.load.url = service.status()["url"]
    service.load.start(CLIENTS, SLOW_CLIENTS)
    yield service
    service.load.stop()
    service.manifest(NAME).unlink()
    eventually(lambda: service.up.read(NAME) == {}, "the deletion")


@pytest.fixture
def service(loaded: Service) -> Iterator[Service]:
    """The service in a steady state. Whatever a test does to it, no request fails and no answer is wrong."""
    eventually(lambda: "candidate" not in loaded.status(), "no rollout under way")
    loaded.more()
    yield loaded
    if loaded.load.running:
        loaded.more()
    assert loaded.load.wrong == []
