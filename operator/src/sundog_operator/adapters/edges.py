"""Reads the evidence documents of edge pods over HTTP."""

import asyncio
import contextlib
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import aiohttp

from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.core.kubernetes import pod_problems, scheduler_message
from sundog_operator.core.observed import EdgeReport
from sundog_operator.errors import SundogError
from sundog_operator.ports import Object

MAX_EVIDENCE_BYTES: Final = 16 * 2**20
MAX_EVIDENCE_MEMORY: Final = 128 * 2**20
"""Limits of an answer, and of what it takes when decoded (`estimate_memory`): small objects take 40 times their bytes.

1800 rows with full histograms take 12 MB and 118 MiB. Those of 14 arms with all their blocks, and samples of units of three attempts,
take 4.2 MB and 12 MiB.
"""
MAX_ALL_MEMORY: Final = 256 * 2**20
"""What decoded answers of all edges may take together: two of the largest."""
SMALL_ANSWER_BYTES: Final = 256 * 1024
"""Answers up to this size are decoded in the event loop, in a few milliseconds."""
MAX_LARGE_ANSWERS: Final = 2
"""Larger ones that are read and decoded at the same time."""
_TIMEOUT: Final = aiohttp.ClientTimeout(total=2, connect=1)
_MAX_ERROR_CHARS: Final = 200
_PORT_NAME: Final = "agent"


class NoEvidenceError(SundogError):
    """An edge's answer is not an evidence document."""


class MemoryBudget:
    """The memory that decoded answers of all edges may take together, in bytes, while anybody uses them."""

    def __init__(self, most: int) -> None:
        self._most = most
        # A document may end in any thread, and within any line. Changes of a dictionary are atomic.
        self._taken: dict[object, int] = {}

    @property
    def used(self) -> int:
        """The memory that is taken now."""
        return sum(list(self._taken.values()))

    def take(self, needed: int) -> object:
        """Take the memory of an answer, and return a token for it. Raises NoEvidenceError where all together take too much."""
        if (used := self.used) + needed > self._most:
            raise NoEvidenceError(
                f"the answer may take {needed} bytes of memory, and others take {used}; expected at most {self._most}"
                " together. Still retrying"
            )
        token = object()
        self._taken[token] = needed
        return token

    def give_back(self, token: object) -> None:
        """Give back what a token stands for."""
        self._taken.pop(token, None)


class _Document(dict[str, Any]):
    """A decoded answer, to whose end the budget is bound."""

    __slots__ = ("__weakref__",)


class HttpEdges:
    """`ports.Edges`: GET /evidence of each pod's agent port.

    Code of tenants may run in a pod that answers. So the memory of each answer and of all together is limited, and only
    `MAX_LARGE_ANSWERS` large ones are read and decoded at the same time, in threads.
    """

    def __init__(self, session: aiohttp.ClientSession, budget: MemoryBudget | None = None) -> None:
        self._session = session
        self._budget = budget or MemoryBudget(MAX_ALL_MEMORY)
        self._large = asyncio.Semaphore(MAX_LARGE_ANSWERS)

    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        """Return one report per pod, in the order given."""
        return await self._read_all(pods, {})

    async def count(self, pods: Sequence[Object], service: str, *, by_unit: bool = False) -> list[EdgeReport]:
        """Return one report per pod about one service, with its blocks; `by_unit` adds its groups and its sample of units."""
        return await self._read_all(
            pods, {"service": service, "detail": "blocks,groups,units" if by_unit else "blocks"}
        )

    async def _read_all(self, pods: Sequence[Object], query: Mapping[str, str]) -> list[EdgeReport]:
        return list(await asyncio.gather(*(self._report(pod, query) for pod in pods)))

    async def _report(self, pod: Object, query: Mapping[str, str]) -> EdgeReport:
        evidence, error = await self._evidence(pod, query)
        return EdgeReport(
            pod=pod["metadata"]["name"],
            ready=is_ready(pod),
            terminating="deletionTimestamp" in pod["metadata"],
            evidence=evidence,
            error=error,
            uid=str(pod["metadata"].get("uid", "")),
            unready=_unready_message(pod),
        )

    async def _evidence(self, pod: Object, query: Mapping[str, str]) -> tuple[dict[str, Any] | None, str]:
        """Return the document, or None and an error message."""
        address, port = (pod.get("status") or {}).get("podIP"), find_agent_port(pod)
        if not address or not port:
            return None, "the pod has no address yet"
        url = f"http://{address}:{port}/evidence"
        try:
            async with self._session.get(url, params=query, timeout=_TIMEOUT, allow_redirects=False) as response:
                return await self._read(response, url)
        except NoEvidenceError as err:
            return None, f"GET {url}: {err}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as err:
            return None, f"GET {url}: {type(err).__name__}"

    async def _read(self, response: aiohttp.ClientResponse, url: str) -> tuple[dict[str, Any] | None, str]:
        body = bytearray()
        async with contextlib.AsyncExitStack() as stack:
            async for chunk in response.content.iter_any():
                if len(body) <= SMALL_ANSWER_BYTES < len(body) + len(chunk):
                    await stack.enter_async_context(self._large)
                body += chunk
                if len(body) > MAX_EVIDENCE_BYTES:
                    return None, f"GET {url}: {MAX_EVIDENCE_BYTES + 1} bytes; expected at most {MAX_EVIDENCE_BYTES}"
            if response.status != 200:
                return None, f"GET {url}: status {response.status}{_error_text(bytes(body))}"
            return await self._decode(bytes(body)), ""

    async def _decode(self, body: bytes) -> dict[str, Any]:
        if len(body) <= SMALL_ANSWER_BYTES:
            return self._bind(self._budget.take(estimate_memory(body)), lambda: parse_evidence(body))
        # In a thread, whose turns end at each object and number: the event loop waits some milliseconds for it.
        token = self._budget.take(await asyncio.to_thread(estimate_memory, body))
        # The thread goes on if this task is cancelled, and takes the memory until it ends.
        return await asyncio.shield(asyncio.to_thread(self._bind, token, lambda: parse_evidence(body, yields=True)))

    def _bind(self, token: object, decode: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a document whose memory is given back when no one uses it any more."""
        try:
            document = _Document(decode())
        except BaseException:
            self._budget.give_back(token)
            raise
        weakref.finalize(document, self._budget.give_back, token)
        return document


def estimate_memory(body: bytes) -> int:
    """Return how many bytes a JSON text takes at most when decoded, measured with CPython 3.11.

    A number takes 36 bytes, an array 88, an object 184, and a string 32 for each quote. One character may widen all others of its text.
    """
    costs = ((b",", 36), (b"[", 88), (b"{", 184), (b'"', 32))
    width = 1 if body.isascii() and b"\\u" not in body else 4
    return width * len(body) + sum(cost * body.count(sign) for sign, cost in costs)


def parse_evidence(body: bytes, *, yields: bool = False) -> dict[str, Any]:
    """Return the evidence document in an answer. Raises NoEvidenceError.

    `yields` lets other threads run meanwhile: the decoder itself keeps them waiting, and calls of Python's functions do not.
    """
    if (memory := estimate_memory(body)) > MAX_EVIDENCE_MEMORY:
        raise NoEvidenceError(f"the answer may take {memory} bytes of memory; expected at most {MAX_EVIDENCE_MEMORY}")
    try:
        # Sums of squares exceed 64 bits, beyond which orjson rounds.
        if yields:
            document = json.loads(
                body, parse_constant=_refuse, object_hook=_same, parse_int=_to_int, parse_float=_to_float
            )
        else:
            document = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as err:
        raise NoEvidenceError(type(err).__name__) from None
    if not isinstance(document, dict) or document.get("version") != 1:
        raise NoEvidenceError("not an evidence document of version 1")
    return document


def _error_text(body: bytes) -> str:
    """Return the text of an error answer, as the end of a message."""
    text = " ".join(body[:1000].decode(errors="replace").split())
    return f": {text[:_MAX_ERROR_CHARS]}" if text.isprintable() and text else ""


def _same(value: dict[str, Any]) -> dict[str, Any]:
    return value


def _to_int(digits: str) -> int:
    return int(digits)


def _to_float(digits: str) -> float:
    return float(digits)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def find_agent_port(pod: Object) -> int | None:
    """Return the port of the pod's agent, found by its name."""
    for container in pod.get("spec", {}).get("containers", ()):
        for port in container.get("ports", ()):
            if port.get("name") == _PORT_NAME:
                return int(port["containerPort"])
    return None


def is_ready(pod: Object) -> bool:
    """Return whether a pod's condition Ready is True."""
    return pod_problems.find_condition(pod, "Ready").get("status") == "True"


def _unready_message(pod: Object) -> str:
    """Return why a pod is not ready: it has no node, or the message of its condition Ready. Empty for a ready one."""
    scheduled = pod_problems.find_condition(pod, "PodScheduled")
    if scheduled.get("reason") == DeploymentReason.UNSCHEDULABLE:
        return scheduler_message.explain(str(scheduled.get("message", "")))
    condition = pod_problems.find_condition(pod, "Ready")
    return "" if condition.get("status") == "True" else condition.get("message") or ""
