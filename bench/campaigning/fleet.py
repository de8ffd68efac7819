"""A fleet of services in one `sundog local up` that clients call and tests record during rollouts; and kills of its processes."""

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from campaigning.clients import Asking
from campaigning.edge_recording import Recording
from campaigning.services import Digits, Release
from real_local import Up, instance, is_ready, processes_of
from waiting import eventually, patience

log = logging.getLogger(__name__)

Json = dict[str, Any]

LOOK_S = 15.0
POLL_S = 1.0
NAMES = {"agent": "edge-0-agent", "edge": "edge-0-haproxy"}


@dataclass
class Fleet:
    """Services side by side."""

    up: Up
    model: Path
    asking: Asking
    recording: Recording
    services: list[Digits] = field(default_factory=list)
    _looked: float = 0.0

    def add(self, name: str, rps: float, rollout: Json | None = None, endpoint: Json | None = None) -> Digits:
        """Add a service that is not released yet."""
        made = Digits(self.up, self.model, name, rps, rollout or {}, endpoint or {})
        self.services.append(made)
        return made

    def begin(self, services: Sequence[Digits], **behaviour: Json) -> None:
        """Release the first revision of each, with its faults from `behaviour` by name, and send requests once it serves."""
        for each in services:
            each.release(**behaviour.get(each.name, {}))
        eventually(lambda: self._ready(services), "the first revisions serving", 600)
        for each in services:
            if each.rps:
                each.samples = self.asking.ask(each.read()["status"]["url"], each.rps)

    def _ready(self, services: Sequence[Digits]) -> bool:
        self._look()
        time.sleep(POLL_S)
        return all(is_ready(each.read()) for each in services)

    def rest(self, seconds: float) -> None:
        """Record for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._look()
            time.sleep(min(POLL_S, max(0.0, until - time.monotonic())))

    def follow(
        self,
        releases: Sequence[Release],
        most_s: float,
        afterwards_s: float = 30.0,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Record until all have a verdict, or for so long; and a little longer, for what is under way then. `then` is called at each."""
        until, told = time.monotonic() + most_s, set[str]()
        while time.monotonic() < until:
            self._look()
            for each in releases:
                if each.is_over() and each.service.name not in told:
                    told.add(each.service.name)
                    say(each)
                    then()
            if len(told) == len(releases):
                break
            time.sleep(POLL_S)
        for each in releases:
            if not each.is_over():
                each.left_at = time.time()
                say(each)
        self.rest(afterwards_s)
        self._looked = 0.0
        eventually(self.recording.look, "what the edge counted")

    def _look(self) -> None:
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            self.recording.look()

    def replicas(self) -> list[psutil.Process]:
        """Processes of replicas."""
        found = []
        with contextlib.suppress(psutil.Error, OSError):
            for child in psutil.Process(self.up.pid("ray-0")).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if any("ray::ServeReplica:" in part for part in child.cmdline()):
                        found.append(child)
        return found


def say(each: Release) -> None:
    """Tell who reads along how a rollout stands."""
    status = each.status
    log.info(
        "%s r%d: %s after %.0f s: %s | %s | load %.1f",
        *(each.service.name, each.number, each.how(), time.time() - each.released),
        json.dumps(status.get("verdict")),
        json.dumps(status.get("step")),
        psutil.getloadavg()[0],
    )


@contextlib.contextmanager
def fleet(folder: Path, seed: int) -> Iterator[Fleet]:
    """A `sundog local up` of its own, with the demo's network trained. Whatever happened in it, it leaves no process."""
    model = _trained(folder)
    held_out = json.loads((folder / "digits" / "held-out.json").read_text())
    bodies = [json.dumps({"inputs": [image]}).encode() for image in held_out["images"]]
    with instance(folder) as up:
        up.start()
        eventually(lambda: (up.state / "kubeconfig").exists(), "the API server of local mode")
        asking = Asking(bodies, seed)
        try:
            yield Fleet(up, model, asking, Recording(up))
        finally:
            asking.stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                up.end(signal.SIGINT, 120)
            log.info("left: %s", processes_of(up.state))


def _trained(folder: Path) -> Path:
    digits = folder / "digits"
    subprocess.run(
        [sys.executable, "-m", "sundog_operator.shell.demo.training", digits], check=True, stdout=subprocess.DEVNULL
    )
    model = digits / "v2"
    shutil.copyfile(Path(__file__).with_name("faulty_model.py"), model / "faulty_model.py")
    return model


@dataclass
class Kills:
    """Kills the operator, the edge's agent, its HAProxy and `others` at random times. Each turn kills all of them, in a drawn order.

    Attributes:
        others: by name, what kills one more process, and starts another after so many seconds.
        is_whole: whether all of them work, which each kill waits for.
        done: (Unix seconds of the kill, which), once another is in its place.
        problems: kills that failed, or after which none was.
    """

    up: Up
    seed: int
    every_s: tuple[float, float] = (15.0, 40.0)
    others: Mapping[str, Callable[[float], None]] = field(default_factory=dict)
    is_whole: Callable[[], bool] = lambda: True
    done: list[tuple[float, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Kill while the context lasts; at its end all are there again."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join(patience(120))

    def _run(self) -> None:
        draw, turn = random.Random(self.seed), list[str]()
        while not self._stopped.wait(draw.uniform(*self.every_s)):
            turn = turn or draw.sample(("operator", *NAMES, *self.others), 1 + len(NAMES) + len(self.others))
            self.once(turn.pop(), draw.uniform(0.0, 5.0))

    def once(self, which: str, away_s: float) -> None:
        """Kill one; the operator, or one of `others`, is back after so many seconds."""
        at = time.time()
        log.info("kill -9 %s", which)
        try:
            self._kill(which, away_s)
            eventually(self.is_whole, f"all at work after the kill of the {which}", patience(60))
        except (OSError, TimeoutError, subprocess.TimeoutExpired) as error:
            self.problems.append(f"{at:.0f} {which}: {error}")
        else:
            self.done.append((at, which))

    def _kill(self, which: str, away_s: float) -> None:
        if which in self.others:
            self.others[which](away_s)
            return
        if which == "operator":
            self.up.end(signal.SIGKILL)
            time.sleep(away_s)
            self.up.start()
            eventually(lambda: _answers(self.up), "the operator", patience(60))
            return
        pid = self.up.pid(NAMES[which])
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.up.is_replaced(NAMES[which], pid), f"another {which}", patience(60))


def _answers(up: Up) -> bool:
    try:
        up.api("GET", "/version")
    except (OSError, ValueError):
        return False
    return True


@dataclass
class Stalls:
    """Stops each process of a replica now and then, for so long: `done` has (Unix seconds, replica, seconds)."""

    fleet: Fleet
    seed: int
    per_hour: float
    seconds: tuple[float, float]
    done: list[tuple[float, str, float]] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Stall replicas while the context lasts; at its end all run."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join(30)

    def _run(self) -> None:
        draw, known, looked = random.Random(self.seed), list[psutil.Process](), 0.0
        stopped: dict[psutil.Process, float] = {}
        while not self._stopped.wait(0.5):
            if time.monotonic() - looked > 5:
                known, looked = self.fleet.replicas(), time.monotonic()
            for process in known:
                if process not in stopped and draw.random() < self.per_hour * 0.5 / 3600:
                    seconds = draw.uniform(*self.seconds)
                    with contextlib.suppress(psutil.Error):
                        process.suspend()
                        stopped[process] = time.monotonic() + seconds
                        self.done.append((time.time(), process.cmdline()[0], seconds))
            self._resume(stopped, time.monotonic())
        self._resume(stopped, float("inf"))

    @staticmethod
    def _resume(stopped: dict[psutil.Process, float], now: float) -> None:
        for process in [each for each, until in stopped.items() if until <= now]:
            del stopped[process]
            with contextlib.suppress(psutil.Error):
                process.resume()
