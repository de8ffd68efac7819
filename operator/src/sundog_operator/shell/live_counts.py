"""Current counts of a rollout's arms, read from the edges. The operator writes them to the status only once a minute."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp

from sundog_operator.adapters.edges import (
    MAX_EVIDENCE_BYTES,
    HttpEdges,
    NoEvidenceError,
    find_agent_port,
    parse_evidence,
)
from sundog_operator.adapters.http_body import read_body
from sundog_operator.api import format_timestamp
from sundog_operator.core.edge import objects, request_counts
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.experiment.state import FIRST_EPOCH
from sundog_operator.errors import DependencyError
from sundog_operator.ports import POD, Object, ref_of
from sundog_operator.shell.server_connection import ServerConnection

_TIMEOUT_S: Final = 2.0


async def add_live_counts(server: ServerConnection, experiment: Object) -> Object:
    """Return an Experiment with the edges' present requests and errors by arm, and `armsCountedAt`; unchanged if none can be read."""
    status = experiment.get("status") or {}
    if not status.get("arms") or status.get("phase") in (phases.CONCLUDED, phases.STOPPED):
        return experiment
    reports = await _read_edges(server)
    if all(report.evidence is None for report in reports):
        return experiment
    uid = str(experiment["metadata"]["uid"])
    first = FIRST_EPOCH if (status.get("plan") or {}).get("comparison") else 0
    arms = [
        _with_counts(arm, request_counts.count_requests_and_errors(uid, str(arm.get("name")), reports, first))
        for arm in status["arms"]
    ]
    counted_at = format_timestamp(datetime.now(UTC))
    return {**experiment, "status": {**status, "arms": arms}, "armsCountedAt": counted_at}


def _with_counts(arm: dict[str, Any], counts: tuple[int, int]) -> dict[str, Any]:
    """Return an arm with the larger of its stored and its present counts: an edge that is gone must not lower them."""
    requests, errors = counts
    return {**arm, "requests": max(arm.get("requests", 0), requests), "errors": max(arm.get("errors", 0), errors)}


async def _read_edges(server: ServerConnection) -> Sequence[EdgeReport]:
    """Read the reports of the namespace's edges."""
    pods = await server.kube.list(POD, server.namespace, objects.EDGE_SELECTOR)
    if server.local:
        async with aiohttp.ClientSession() as session:
            return await HttpEdges(session).read(pods)
    return await asyncio.gather(*(_read_edge_through_api_server(server, pod) for pod in pods))


async def _read_edge_through_api_server(server: ServerConnection, pod: Object) -> EdgeReport:
    """Read one edge's report through the API server; without evidence if the user lacks permission or the edge fails."""
    unknown = EdgeReport(pod["metadata"]["name"], ready=False, terminating=False, evidence=None)
    port = find_agent_port(pod)
    if port is None:
        return unknown
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            response = await server.kube.get_from_pod(ref_of(pod), port, "/evidence")
            body = await read_body(response, MAX_EVIDENCE_BYTES)
        evidence = parse_evidence(body) if response.status == 200 else None
    except (DependencyError, aiohttp.ClientError, OSError, NoEvidenceError):
        return unknown
    return EdgeReport(unknown.pod, ready=True, terminating=False, evidence=evidence)
