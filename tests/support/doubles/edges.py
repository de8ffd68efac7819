"""Edges that follow the split document some time after it was written, and report as the real agent does."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.core.observed import EdgeReport
from sundog_operator.ports import CONFIG_MAP, Clock, Object, Ref


class Replicas(Protocol):
    """Who knows how many replicas of an application answer."""

    def running(self, name: str) -> int: ...


class FakeEdges:
    """`ports.Edges` of one namespace.

    Attributes:
        lag_s: seconds from a written document to its being in force.
        deaf: pods that stay at the document they have.
        silent: pods whose agent does not answer.
        in_flight: application → requests that do not end.
        problems: what edges lack for every service.
    """

    def __init__(
        self, kube: MemoryKubernetes, serve: Replicas, clock: Clock, namespace: str, lag_s: float = 1.0
    ) -> None:
        self._kube, self._serve, self._clock, self._namespace = kube, serve, clock, namespace
        self.lag_s = lag_s
        self.deaf: set[str] = set()
        self.silent: set[str] = set()
        self.in_flight: dict[str, int] = {}
        self.problems: list[str] = []
        self.weights_seen: list[dict[str, int]] = []
        self._in_force: dict[str, dict[str, Any]] = {}
        self._first_seen: dict[int, datetime] = {}

    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        document = await self._document()
        return [self._report(pod, document) for pod in pods]

    async def count(self, pods: Sequence[Object], service: str) -> list[EdgeReport]:
        del service
        return await self.read(pods)

    def in_force(self) -> list[dict[str, Any]]:
        """The documents that edges act on now."""
        return list(self._in_force.values())

    async def _document(self) -> dict[str, Any] | None:
        stored = await self._kube.get(Ref(CONFIG_MAP, self._namespace, "sundog-edge"))
        text = (stored or {}).get("data", {}).get("split.json")
        return json.loads(text) if text else None

    def _report(self, pod: Object, document: dict[str, Any] | None) -> EdgeReport:
        name = pod["metadata"]["name"]
        if document is not None and name not in self.deaf:
            self._apply(name, document)
        conditions = pod["status"].get("conditions", ())
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        if name in self.silent:
            return EdgeReport(name, ready, False, None, "GET http://…/evidence: TimeoutError")
        uid = pod["metadata"].get("uid", "")
        return EdgeReport(name, ready, False, self._evidence(self._in_force.get(name)), uid=uid)

    def _apply(self, name: str, document: dict[str, Any]) -> None:
        now = self._clock.now()
        seen = self._first_seen.setdefault(document["generation"], now)
        if (now - seen).total_seconds() >= self.lag_s and self._in_force.get(name) != document:
            self._in_force[name] = document
            for service in document["services"]:
                self.weights_seen.append({arm["application"]: arm["weight"] for arm in service["arms"]})

    def _evidence(self, document: dict[str, Any] | None) -> dict[str, Any]:
        services = {service["name"]: self._service(service) for service in (document or {}).get("services", ())}
        return {"version": 1, "services": services, "counters": []}

    def _service(self, service: dict[str, Any]) -> dict[str, Any]:
        arms = {arm["name"]: self._arm(arm) for arm in service["arms"]}
        return {
            "attempt": service["attempt"],
            "epoch": service["epoch"],
            "arms": arms,
            "inFlight": dict(self.in_flight),
            "problems": list(self.problems),
        }

    def _arm(self, arm: dict[str, Any]) -> dict[str, Any]:
        up = self._serve.running(arm["application"])
        return {
            "application": arm["application"],
            "weight": arm["weight"],
            "servers": {"up": up, "down": 0, "draining": 0},
        }
