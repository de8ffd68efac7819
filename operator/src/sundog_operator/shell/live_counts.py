"""Counts of a rollout's arms as its edges have them now: a status is written once a minute, lest it change with each request."""

import asyncio
from collections.abc import Sequence
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
from sundog_operator.core.edge import objects, request_counts
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.rollout import state
from sundog_operator.errors import DependencyError
from sundog_operator.ports import POD, Object, ref_of
from sundog_operator.shell.server_connection import ServerConnection

_PATIENCE_S: Final = 2.0


async def add_live_counts(server: ServerConnection, experiment: Object) -> Object:
    """An Experiment with requests and errors of its arms as the edges tell them; as it is stored where none can be asked."""
    status = experiment.get("status") or {}
    if not status.get("arms") or status.get("phase") in (state.CONCLUDED, state.STOPPED):
        return experiment
    reports = await _reports(server)
    uid = str(experiment["metadata"]["uid"])
    arms = [
        _counted(arm, request_counts.count_requests_and_errors(uid, str(arm.get("name")), reports))
        for arm in status["arms"]
    ]
    return {**experiment, "status": {**status, "arms": arms}}


def _counted(arm: dict[str, Any], told: tuple[int, int]) -> dict[str, Any]:
    """An edge that is gone or silent takes back nothing that was counted."""
    counts = max(arm.get("requests", 0), told[0]), max(arm.get("errors", 0), told[1])
    return {**arm, "requests": counts[0], "errors": counts[1]}


async def _reports(server: ServerConnection) -> Sequence[EdgeReport]:
    """What the edges of the namespace tell."""
    pods = await server.kube.list(POD, server.namespace, objects.EDGE_SELECTOR)
    if server.local:
        async with aiohttp.ClientSession() as session:
            return await HttpEdges(session).read(pods)
    return await asyncio.gather(*(_by_api_server(server, pod) for pod in pods))


async def _by_api_server(server: ServerConnection, pod: Object) -> EdgeReport:
    """What one edge tells through the API server; without evidence where that may not or cannot be asked."""
    nothing = EdgeReport(pod["metadata"]["name"], ready=False, terminating=False, evidence=None)
    port = find_agent_port(pod)
    if port is None:
        return nothing
    try:
        async with asyncio.timeout(_PATIENCE_S):
            response = await server.kube.get_from_pod(ref_of(pod), port, "/evidence")
            body = await read_body(response, MAX_EVIDENCE_BYTES)
        evidence = parse_evidence(body) if response.status == 200 else None
    except (DependencyError, aiohttp.ClientError, OSError, NoEvidenceError):
        return nothing
    return EdgeReport(nothing.pod, ready=True, terminating=False, evidence=evidence)
