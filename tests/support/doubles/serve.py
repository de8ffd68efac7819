"""Ray Serve as the reconciler sees it: applications start after a while, fail where told to, drain when they go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sundog_operator.core.observed import ApplicationState, DeploymentState, ReplicaState, ServeState
from sundog_operator.errors import RayUnavailable, ServeRefused
from sundog_operator.ports import Clock


@dataclass(slots=True)
class _App:
    config: Mapping[str, Any]
    changed: datetime
    replicas: list[datetime] = field(default_factory=list)
    failed: tuple[str, str] | None = None


def _target(config: Mapping[str, Any]) -> int:
    """What Serve starts with: the fixed number, else the fewest."""
    deployment = config["deployments"][0]
    scaling = deployment.get("autoscaling_config")
    return int(scaling["min_replicas"] if scaling else deployment["num_replicas"])


class FakeServe:
    """`ports.Serve` of one cluster.

    Attributes:
        start_s: seconds from a PUT to a running replica.
        failures: model URI → (reason, message) for revisions that cannot start.
        down: the REST API does not answer.
        started_in: seconds by phase that every replica tells.
        forgotten: the controller is not running: an empty answer that means "unknown".
    """

    def __init__(self, clock: Clock, start_s: float = 3.0) -> None:
        self._clock = clock
        self.start_s = start_s
        self.failures: dict[str, tuple[str, str]] = {}
        self.down = False
        self.forgotten = True
        self.started_in: dict[str, float] = {}
        self.puts: list[Mapping[str, Any]] = []
        self._apps: dict[str, _App] = {}

    async def read(self, dashboard: str, namespace: str) -> ServeState:
        if self.down:
            raise RayUnavailable(f"GET {dashboard}: down")
        if self.forgotten:
            return ServeState(known=False)
        return ServeState(known=True, applications={name: self._state(name, app) for name, app in self._apps.items()})

    async def put(self, dashboard: str, namespace: str, document: Mapping[str, Any]) -> None:
        if self.down:
            raise RayUnavailable(f"PUT {dashboard}: down")
        wanted = {app["name"]: app for app in document["applications"]}
        prefixes = [app["route_prefix"] for app in wanted.values()]
        if len(set(prefixes)) != len(prefixes):
            raise ServeRefused("duplicate route_prefix")
        self.forgotten = False
        self.puts.append(document)
        now = self._clock.now()
        self._apps = {name: self._changed(self._apps.get(name), config, now) for name, config in wanted.items()}

    async def phases(self, dashboard: str, namespace: str, application: str) -> Mapping[str, float]:
        return dict(self.started_in)

    def crash_replicas(self, name: str) -> None:
        """All replicas of an application die and start again."""
        app = self._apps[name]
        app.replicas = [self._clock.now() for _ in app.replicas]

    def running(self, name: str) -> int:
        """Replicas that answer."""
        app = self._apps.get(name)
        if app is None or self._failure(app) is not None:
            return 0
        return sum((self._clock.now() - started).total_seconds() >= self.start_s for started in app.replicas)

    def _changed(self, before: _App | None, config: Mapping[str, Any], now: datetime) -> _App:
        count = _target(config)
        if before is None or before.config["args"] != config["args"]:
            return _App(config, now, [now] * count)
        kept = before.replicas[:count]
        return _App(config, before.changed, kept + [now] * (count - len(kept)))

    def _failure(self, app: _App) -> tuple[str, str] | None:
        failure = self.failures.get(app.config["args"]["model"]["uri"])
        late = (self._clock.now() - app.changed).total_seconds() >= self.start_s
        # As the real one: what failed stays failed until it is removed or its args change.
        app.failed = app.failed or (failure if failure and late else None)
        return app.failed

    def _state(self, name: str, app: _App) -> ApplicationState:
        failure = self._failure(app)
        running = self.running(name)
        target = max(_target(app.config), len(app.replicas))
        told = failure or self.failures.get(app.config["args"]["model"]["uri"])
        # As the real one: the message of a failed attempt shows while further attempts are made.
        message = f"Traceback\n  sundog: {told[0]}: {told[1]}\n" if told else ""
        if failure is not None:
            status, deployment = "DEPLOY_FAILED", "DEPLOY_FAILED"
        elif running < target:
            status, deployment = "DEPLOYING", "UPDATING"
        else:
            status, deployment, message = "RUNNING", "HEALTHY", ""
        replicas = tuple(ReplicaState(f"{name}#{i}", "RUNNING" if i < running else "STARTING") for i in range(target))
        deployments = (DeploymentState("Model", deployment, message, target, replicas),)
        return ApplicationState(name, status, message, app.config, deployments)
