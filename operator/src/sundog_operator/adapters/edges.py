"""Reads the evidence documents of edge pods over HTTP."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import aiohttp

from sundog_operator.adapters.http_body import read_body
from sundog_operator.core.kubernetes import pod_problems
from sundog_operator.core.observed import EdgeReport
from sundog_operator.errors import SundogError
from sundog_operator.ports import Object

MAX_EVIDENCE_BYTES: Final = 16 * 2**20
_TIMEOUT: Final = aiohttp.ClientTimeout(total=2, connect=1)
_MOST_SAID: Final = 200
_PORT_NAME: Final = "agent"


class NoEvidenceError(SundogError):
    """What an edge answered is no document that can be read."""


class HttpEdges:
    """`ports.Edges`: GET /evidence of each pod's agent port."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        """One report per pod, in the order given."""
        return await self._ask(pods, {})

    async def count(self, pods: Sequence[Object], service: str, *, by_unit: bool = False) -> list[EdgeReport]:
        """The same of one service alone, with its blocks, and its groups and sample of units if those are asked for."""
        return await self._ask(pods, {"service": service, "detail": "blocks,groups,units" if by_unit else "blocks"})

    async def _ask(self, pods: Sequence[Object], question: Mapping[str, str]) -> list[EdgeReport]:
        return list(await asyncio.gather(*(self._report(pod, question) for pod in pods)))

    async def _report(self, pod: Object, question: Mapping[str, str]) -> EdgeReport:
        evidence, error = await self._evidence(pod, question)
        return EdgeReport(
            pod=pod["metadata"]["name"],
            ready=is_ready(pod),
            terminating="deletionTimestamp" in pod["metadata"],
            evidence=evidence,
            error=error,
            uid=str(pod["metadata"].get("uid", "")),
            unready=_why_not_ready(pod),
        )

    async def _evidence(self, pod: Object, question: Mapping[str, str]) -> tuple[dict[str, Any] | None, str]:
        address, port = (pod.get("status") or {}).get("podIP"), find_agent_port(pod)
        if not address or not port:
            return None, "the pod has no address yet"
        url = f"http://{address}:{port}/evidence"
        try:
            async with self._session.get(url, params=question, timeout=_TIMEOUT, allow_redirects=False) as response:
                body = await read_body(response, MAX_EVIDENCE_BYTES)
                if response.status != 200:
                    return None, f"GET {url}: status {response.status}{_why(body)}"
                if len(body) > MAX_EVIDENCE_BYTES:
                    return None, f"GET {url}: {len(body)} bytes, at most {MAX_EVIDENCE_BYTES} are read"
            return parse_evidence(body), ""
        except NoEvidenceError as err:
            return None, f"GET {url}: {err}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as err:
            return None, f"GET {url}: {type(err).__name__}"


def parse_evidence(body: bytes) -> dict[str, Any]:
    """The evidence document in an answer. Raises NoEvidenceError."""
    try:
        # Sums of squares outgrow 64 bits, beyond which orjson rounds.
        document = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as err:
        raise NoEvidenceError(type(err).__name__) from None
    if not isinstance(document, dict) or document.get("version") != 1:
        raise NoEvidenceError("not an evidence document of version 1")
    return document


def _why(body: bytes) -> str:
    """What an answer that is no document says, as the end of a line."""
    text = " ".join(body[:1000].decode(errors="replace").split())
    return f": {text[:_MOST_SAID]}" if text.isprintable() and text else ""


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def find_agent_port(pod: Object) -> int | None:
    """The port of the pod's agent container, by its name."""
    for container in pod.get("spec", {}).get("containers", ()):
        for port in container.get("ports", ()):
            if port.get("name") == _PORT_NAME:
                return int(port["containerPort"])
    return None


def is_ready(pod: Object) -> bool:
    """Whether a pod says that it is."""
    return pod_problems.find_condition(pod, "Ready").get("status") == "True"


def _why_not_ready(pod: Object) -> str:
    """What the condition of a pod that is not ready says; empty where it says nothing."""
    condition = pod_problems.find_condition(pod, "Ready")
    return "" if condition.get("status") == "True" else condition.get("message") or ""
