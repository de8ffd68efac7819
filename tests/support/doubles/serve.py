"""Ray Serve for the reconciler: applications start after a while, fail on request, and drain when they are removed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sundog_operator.core.observed import ApplicationState, DeploymentState, ReplicaStart, ReplicaState, ServeState
from sundog_operator.errors import RayUnavailable, ServeRefused
from sundog_operator.ports import Clock


@dataclass(slots=True)
class _App:
    config: Mapping[str, Any]
    changed: datetime
    replicas: list[datetime | None] = field(default_factory=list)
    load: int = 0
    failed: tuple[str, str] | None = None


def _target(config: Mapping[str, Any], load: int = 0) -> int:
    """Return Serve's target: the fixed number, or the number for the load within the bounds."""
    deployment = config["deployments"][0]
    scaling = deployment.get("autoscaling_config")
    if not scaling:
        return int(deployment["num_replicas"])
    return min(max(int(scaling["min_replicas"]), load), int(scaling["max_replicas"]))


class FakeServe:
    """`ports.Serve` of one cluster.

    Attributes:
        start_s: seconds from a PUT to a running replica.
        failures: model URI → (reason, message) for revisions that cannot start.
        room: application → how many of its replicas find a place, where that is not all.
        devices: how many replicas of all applications find a place together, those that end included; None for any number. Others wait.
        end_s: seconds for which a replica that is taken away keeps its device.
        later_s: by so much later those run that start from now on.
        first: the application whose replicas find a device before those of others; empty for the one that came first.
        down: the REST API does not answer.
        started: what every replica tells of its start.
        forgotten: the controller is not running: an empty answer that means "unknown".
        drain_s: seconds for which an application that is removed is still there, without a configuration, and its replicas with it.
    """

    def __init__(self, clock: Clock, start_s: float = 3.0) -> None:
        self._clock = clock
        self.start_s = start_s
        self.failures: dict[str, tuple[str, str]] = {}
        self.room: dict[str, int] = {}
        self.devices: int | None = None
        self.end_s = 2.0
        self.later_s = 0.0
        self.first = ""
        self._ended: list[datetime] = []
        self.down = False
        self.forgotten = True
        self.drain_s = 0.0
        self._draining: dict[str, tuple[_App, datetime]] = {}
        self.started = ReplicaStart()
        self.puts: list[Mapping[str, Any]] = []
        self._apps: dict[str, _App] = {}

    async def read(self, dashboard: str, namespace: str) -> ServeState:
        if self.down:
            raise RayUnavailable(f"GET {dashboard}: down")
        if self.forgotten:
            return ServeState(known=False)
        states = {name: self._state(name, app) for name, app in self._apps.items()}
        deleting = {name: ApplicationState(name, "DELETING", "", {}, ()) for name in self._list_draining()}
        return ServeState(known=True, applications={**deleting, **states})

    async def put(self, dashboard: str, namespace: str, document: Mapping[str, Any]) -> None:
        if self.down:
            raise RayUnavailable(f"PUT {dashboard}: down")
        wanted = {app["name"]: app for app in document["applications"]}
        prefixes = [app["route_prefix"] for app in wanted.values()]
        if len(set(prefixes)) != len(prefixes):
            raise ServeRefused("duplicate route_prefix")
        self.forgotten = False
        self.puts.append(document)
        now, had = self._clock.now(), self._placed()
        self._draining |= {name: (app, now) for name, app in self._apps.items() if name not in wanted}
        self._apps = {name: self._changed(self._apps.get(name), config, now) for name, config in wanted.items()}
        self._ended += [now] * max(0, had - self._placed())
        self._place()

    def _list_draining(self) -> dict[str, _App]:
        now = self._clock.now()
        return {name: app for name, (app, at) in self._draining.items() if (now - at).total_seconds() < self.drain_s}

    def start_of(self, name: str) -> dict[str, Any] | None:
        """Return the report of an application's replica about its start."""
        if not self.running(name):
            return None
        start = self.started
        times = {"beganAt": start.began, "wokenAt": start.woken, "answersAt": start.answers}
        return {
            "phases": dict(start.phases),
            **{name: at.timestamp() for name, at in times.items() if at is not None},
        }

    def crash_replicas(self, name: str) -> None:
        """Kill all replicas of an application; they start again."""
        self.crash_some(name, len(self._apps[name].replicas))

    def crash_some(self, name: str, count: int) -> None:
        """So many replicas of an application die and start again, in their places."""
        app, begun = self._apps[name], self._begun()
        app.replicas = [each and (begun if index < count else each) for index, each in enumerate(app.replicas)]

    def lose_one(self, name: str) -> None:
        """Remove the node of a replica's pod; another pod then waits for a device."""
        self._apps[name].replicas[-1] = None

    def _begun(self) -> datetime:
        """Return the start time of a replica that starts now."""
        return self._clock.now() + timedelta(seconds=self.later_s)

    def _placed(self) -> int:
        return sum(each is not None for app in self._apps.values() for each in app.replicas)

    def _place(self) -> None:
        """Let replicas that wait for a device start."""
        now = self._clock.now()
        self._ended = [at for at in self._ended if (now - at).total_seconds() < self.end_s]
        if self.devices is None:
            return
        free = self.devices - self._placed() - len(self._ended)
        for _, app in sorted(self._apps.items(), key=lambda item: item[0] != self.first):
            for index, each in enumerate(app.replicas):
                if each is None and free > 0:
                    app.replicas[index], free = self._begun(), free - 1

    def load(self, name: str, replicas: int) -> None:
        """Give an application with autoscaling so much load that it needs so many replicas."""
        self._apps[name].load = replicas
        self._apps[name] = self._changed(self._apps[name], self._apps[name].config, self._clock.now())

    def count_pods(self, group: Mapping[str, Any]) -> int:
        """Return how many pods of a worker group the replicas need that select it, in the best case."""
        used = {"num_cpus": 0.0, "memory": 0.0}
        for app in (*self._apps.values(), *self._list_draining().values()):
            options = app.config["deployments"][0]["ray_actor_options"]
            if options.get("label_selector") == group["labels"]:
                used = {name: amount + options[name] * len(app.replicas) for name, amount in used.items()}
        offered = {"num_cpus": float(group["resources"]["CPU"]), "memory": float(group["resources"]["memory"])}
        return max(math.ceil(amount / offered[name]) for name, amount in used.items())

    def running(self, name: str) -> int:
        """Replicas that answer."""
        app = self._apps.get(name)
        if app is None or self._failure(app) is not None:
            return 0
        self._place()
        begun = [each for each in app.replicas[: self.room.get(name)] if each is not None]
        return sum((self._clock.now() - started).total_seconds() >= self.start_s for started in begun)

    def _changed(self, before: _App | None, config: Mapping[str, Any], now: datetime) -> _App:
        load = before.load if before is not None else 0
        count, new = _target(config, load), self._begun() if self.devices is None else None
        if before is None or before.config["args"] != config["args"]:
            return _App(config, now, [new] * count)
        # Like Serve: replicas that wait are removed first.
        kept = sorted(before.replicas, key=lambda each: each is None)[:count]
        return _App(config, before.changed, kept + [new] * (count - len(kept)), load)

    def _failure(self, app: _App) -> tuple[str, str] | None:
        failure = self.failures.get(app.config["args"]["model"]["uri"])
        late = (self._clock.now() - app.changed).total_seconds() >= self.start_s
        # Like Serve: a failed application stays failed until it is removed or its arguments change.
        app.failed = app.failed or (failure if failure and late else None)
        return app.failed

    def _state(self, name: str, app: _App) -> ApplicationState:
        failure = self._failure(app)
        running = self.running(name)
        target = max(_target(app.config, app.load), len(app.replicas))
        failure_cause = failure or self.failures.get(app.config["args"]["model"]["uri"])
        # Like Serve: the message of a failed attempt stays during further attempts.
        message = f"Traceback\n  sundog: {failure_cause[0]}: {failure_cause[1]}\n" if failure_cause else ""
        if failure is not None:
            status, deployment = "DEPLOY_FAILED", "DEPLOY_FAILED"
        elif running < target:
            status, deployment = "DEPLOYING", "UPDATING"
        else:
            status, deployment, message = "RUNNING", "HEALTHY", ""
        replicas = tuple(ReplicaState(f"{name}#{i}", "RUNNING" if i < running else "STARTING") for i in range(target))
        deployments = (DeploymentState("Model", deployment, message, target, replicas),)
        return ApplicationState(name, status, message, app.config, deployments)
