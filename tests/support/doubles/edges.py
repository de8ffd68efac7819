"""Edges that apply the split document some time after it was written, and report like the real agent."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from doubles.feedback import Outcomes
from doubles.traffic import CountingEdge, Replicas, Traffic
from sundog_edge.counting.evidence import FULL_QUERY, AgentState, AppliedDocument, EvidenceQuery, ServerCounts
from sundog_edge.split import document as edge_document
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.core.observed import EdgeReport
from sundog_operator.ports import CONFIG_MAP, POD, Clock, Object, Ref


class Serving(Replicas, Protocol):
    """A source of replicas and of their starts."""

    def start_of(self, name: str) -> dict[str, Any] | None: ...


class FakeEdges:
    """`ports.Edges` of one namespace.

    Attributes:
        lag_s: seconds from a written document to its being in force.
        stale: pods that stay at the document they have.
        silent: pods whose agent does not answer.
        of_one_latency: pods of before there were several, which ignore what they do not know of their document.
        young: pods whose agent has not looked at HAProxy's servers yet.
        in_flight: application → requests that do not end; None while HAProxy cannot be asked.
        problems: what edges lack for every service.
        admitting: pod → whether it has a credential for services; pods of before that was reported are left out.
        mirrored: pod → rows of its evidence about copies of requests.
        traffic: the requests that come; none unless a test asks for some.
        outcomes: what becomes of them.
    """

    def __init__(
        self, kube: MemoryKubernetes, serve: Serving, clock: Clock, namespace: str, lag_s: float = 1.0
    ) -> None:
        self._kube, self._serve, self._clock, self._namespace = kube, serve, clock, namespace
        self.lag_s = lag_s
        self.stale: set[str] = set()
        self.silent: set[str] = set()
        self.of_one_latency: set[str] = set()
        self.young: set[str] = set()
        self.in_flight: dict[str, int] | None = {}
        self.problems: list[str] = []
        self.admitting: dict[str, bool] = {}
        self.mirrored: dict[str, list[dict[str, Any]]] = {}
        self.traffic = Traffic()
        self.outcomes = Outcomes()
        self.weights_seen: list[dict[str, int]] = []
        self._in_force: dict[str, dict[str, Any]] = {}
        self._parsed: dict[str, AppliedDocument] = {}
        self._first_seen: dict[int, datetime] = {}
        self._counting: dict[str, CountingEdge] = {}

    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        return await self.count(pods, "")

    async def count(self, pods: Sequence[Object], service: str, *, by_unit: bool = False) -> list[EdgeReport]:
        document = await self._document()
        details = {"blocks", "groups", "units"} if by_unit else {"blocks"}
        question = EvidenceQuery(frozenset({service}), details=frozenset(details)) if service else FULL_QUERY
        return [self._report(pod, document, question) for pod in pods]

    async def pass_time(self, seconds: float) -> None:
        """Send requests to ready edges before the clock moves so far, until they leave."""
        now_s, asked = self._clock.now().timestamp(), []
        pods = await self._kube.list(POD, self._namespace, {"app.kubernetes.io/name": "sundog-edge"})
        for pod in pods:
            document = self._in_force.get(pod["metadata"]["name"])
            if document is not None and _is_ready(pod) and "deletionTimestamp" not in pod["metadata"]:
                asked.append((self.counting(pod), document))
        self.traffic.flow(now_s, seconds, asked, self._serve)
        self.outcomes.flow(now_s + seconds, [document for _, document in asked], self.traffic.assigned)
        for pod in pods:
            self.counting(pod).settle(now_s + seconds, self.traffic.timeout_s)

    def counting(self, pod: Object) -> CountingEdge:
        """Return the counter of a pod; a new pod of the same name starts from zero."""
        meta = pod["metadata"]
        key = meta.get("uid", meta["name"])
        if key not in self._counting:
            self._counting[key] = CountingEdge(key)
        return self._counting[key]

    def in_force(self) -> list[dict[str, Any]]:
        """Return the documents that are in force at the edges."""
        return list(self._in_force.values())

    async def _document(self) -> dict[str, Any] | None:
        stored = await self._kube.get(Ref(CONFIG_MAP, self._namespace, "sundog-edge"))
        text = (stored or {}).get("data", {}).get("split.json")
        return json.loads(text) if text else None

    def _report(self, pod: Object, document: dict[str, Any] | None, question: EvidenceQuery) -> EdgeReport:
        name = pod["metadata"]["name"]
        if document is not None and name not in self.stale:
            self._apply(name, document)
        ready, terminating = _is_ready(pod), "deletionTimestamp" in pod["metadata"]
        if name in self.silent:
            return EdgeReport(name, ready, terminating, None, "GET http://…/evidence: TimeoutError")
        report = self.counting(pod).report(
            self._clock.now().timestamp(), self._around(name), self._parsed.get(name), question
        )
        if name in self.of_one_latency:
            report["counters"] = [_without_further(row) for row in report["counters"]]
        return EdgeReport(name, ready, terminating, report, uid=pod["metadata"].get("uid", ""))

    def _apply(self, name: str, document: dict[str, Any]) -> None:
        now = self._clock.now()
        if name in self.of_one_latency:
            services = [{**each, "arms": list(map(_without_further, each["arms"]))} for each in document["services"]]
            document = {**document, "services": services}
        seen = self._first_seen.setdefault(document["generation"], now)
        if (now - seen).total_seconds() >= self.lag_s and self._in_force.get(name) != document:
            self._in_force[name] = document
            # The edge's own reader: what it would refuse is an error here.
            parsed = edge_document.parse_document(json.dumps(document).encode(), self._namespace)
            self._parsed[name] = AppliedDocument(parsed, now.timestamp(), {})
            for service in document["services"]:
                self.weights_seen.append({arm["application"]: arm["weight"] for arm in service["arms"]})

    def _around(self, name: str) -> AgentState:
        services = self._in_force.get(name, {}).get("services", ())
        applications = {arm["application"] for service in services for arm in service["arms"]}
        seen = applications if name not in self.young else ()
        return AgentState(
            edge=name,
            namespace=self._namespace,
            servers={each: ServerCounts(up=self._serve.running(each)) for each in seen},
            running=None if self.in_flight is None else {service["name"]: self.in_flight for service in services},
            problems={service["name"]: self.problems for service in services},
            admitting={service["name"]: self.admitting[name] for service in services if name in self.admitting},
            mirrored=self.mirrored.get(name, ()),
            feedback=self.outcomes.sections(self._in_force.get(name, {})),
            starts={each: start for each in seen if (start := self._serve.start_of(each)) is not None},
        )


def _without_further(told: dict[str, Any]) -> dict[str, Any]:
    """Return a service as an edge reports it that counts one latency."""
    return {name: value for name, value in told.items() if not name.startswith("slow") or name[-1] not in "23"}


def _is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
