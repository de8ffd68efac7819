"""Local mode with a fake Ray and a clock that a test can advance: `python -m fake_cluster.local_up MANIFESTS --state-dir=DIR`.

Files beside the folder of the manifests exchange data with the test; see `Beside`.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from fake_cluster.ray_heads import lead
from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.local.edge import LocalEdge
from sundog_operator.adapters.local.state_directory import write_atomically
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.ports import CONFIG_MAP, EXPERIMENT, Clock, Kubernetes, Object, Ref
from sundog_operator.shell.local.instance import (
    STOP_SIGNALS,
    InstanceParts,
    StopRequest,
    make_dependencies,
    run_instance,
)
from sundog_operator.shell.local.views import LineView
from sundog_operator.shell.run_until_signal import handle_signals

Json = dict[str, Any]
Ranges = dict[str, list[list[int]]]


@dataclass(frozen=True)
class Written:
    """An epoch and each arm's buckets, as written to `where`: an Experiment's status, or the split document."""

    where: str
    name: str
    epoch: int
    ranges: Ranges

    @property
    def key(self) -> tuple[str, str, int]:
        return self.where, self.name, self.epoch


@dataclass(frozen=True)
class Beside:
    """Files that exchange data with a test: the port of Ray's head, the operator's clock offset, its writes, and where to crash."""

    folder: Path

    @property
    def port(self) -> int:
        return int((self.folder / "port").read_text())

    def lead_at(self, port: int) -> None:
        """Set the port of Ray's head."""
        (self.folder / "port").write_text(str(port))

    @property
    def ahead(self) -> timedelta:
        file = self.folder / "ahead"
        return timedelta(seconds=float(file.read_text())) if file.exists() else timedelta()

    def advance(self, more: timedelta) -> None:
        """Advance the operator's clock."""
        write_atomically(self.folder / "ahead", str((self.ahead + more).total_seconds()).encode())

    def kill_at(self, experiment: str, epoch: int) -> None:
        """Kill the operator after the commit of an epoch, before its consequences."""
        write_atomically(self.folder / "die", json.dumps(["experiment", experiment, epoch]).encode())

    @property
    def is_to_die(self) -> bool:
        return (self.folder / "die").exists()

    def journal(self) -> list[Written]:
        """Return all writes of weights, in order."""
        file = self.folder / "journal"
        return [Written(*json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    def note(self, written: Written) -> None:
        """Add to the journal, and crash if the test asked for it."""
        with (self.folder / "journal").open("a") as file:
            file.write(json.dumps([*written.key, written.ranges]) + "\n")
        if self.is_to_die and json.loads((self.folder / "die").read_text()) == [*written.key]:
            (self.folder / "die").unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class ClockAhead(SystemClock):
    """The system clock with an offset."""

    def __init__(self, beside: Beside) -> None:
        self._beside = beside

    def now(self) -> datetime:
        return super().now() + self._beside.ahead


class Noted:
    """An API server that records writes of weights."""

    def __init__(self, kube: Kubernetes, beside: Beside) -> None:
        self._kube = kube
        self._beside = beside
        self._seen = {each.key for each in beside.journal()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kube, name)

    async def patch_status(self, ref: Ref, status: Mapping[str, Any], *, resource_version: str) -> Object:
        stored = await self._kube.patch_status(ref, status, resource_version=resource_version)
        if ref.kind == EXPERIMENT:
            arms = {arm["name"]: arm.get("ranges", []) for arm in status.get("arms", ())}
            self._note(Written("experiment", ref.name, (status.get("epoch") or {}).get("number", 0), arms))
        return stored

    async def apply(self, obj: Object) -> Object:
        stored = await self._kube.apply(obj)
        if obj["kind"] == CONFIG_MAP.kind and "split.json" in obj["data"]:
            for service in json.loads(obj["data"]["split.json"])["services"]:
                arms = {arm["name"]: arm["ranges"] for arm in service["arms"]}
                self._note(Written("split", service["name"], service["epoch"], arms))
        return stored

    def _note(self, written: Written) -> None:
        if written.key not in self._seen:
            self._seen.add(written.key)
            self._beside.note(written)


class Heads:
    """A controller that replaces the one of Ray."""

    def __init__(self, kube: Kubernetes, port: int) -> None:
        self._kube, self._port = kube, port

    async def run(self) -> None:
        await lead(self._kube, self._port)

    async def stop_all(self) -> None:
        """Stop nothing: the fake Ray belongs to the test."""


def controllers(beside: Beside, kube: Kubernetes, state: Path, clock: Clock) -> Sequence[Any]:
    return Heads(kube, beside.port), LocalEdge(kube, state, clock, http_port=0, https_port=0)


def world(
    beside: Beside, kube: Kubernetes, session: aiohttp.ClientSession, ray_token: str, clock: Clock
) -> Dependencies:
    del clock
    noted: Any = Noted(kube, beside)
    return make_dependencies(noted, session, ray_token, ClockAhead(beside))


async def main(manifests: Path, state: Path) -> int:
    beside, stop = Beside(manifests.parent), StopRequest()
    parts = InstanceParts(partial(controllers, beside), partial(world, beside))
    with handle_signals(STOP_SIGNALS, stop.request):
        return await run_instance(state, manifests, stop, LineView(quiet=False), parts=parts)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2].removeprefix("--state-dir=")))))
