"""How a replica of each application started, as it reports itself: asked once, of a replica that HAProxy finds healthy."""

import asyncio
import math
import re
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

import aiohttp
import orjson

from sundog_edge.http_body import read_body
from sundog_edge.split.document import SplitDocument

PATH: Final = "/-/startup"
RETRY_S: Final = 30.0
"""Pause before an application whose replica did not answer is asked again."""

_AT_ONCE: Final = 16
_MOST_BYTES: Final = 64 << 10
_MOST_PHASES: Final = 16
_MOST_S: Final = 1e7
_PHASE: Final = re.compile(r"[a-z]{1,32}")
_TIMEOUT: Final = aiohttp.ClientTimeout(total=2, connect=1)

StartupReport = Mapping[str, Any]
"""`phases`: seconds by name, and `beganAt`, Unix seconds, where the replica reports it. No phases: no replica could be asked."""

UNKNOWN_STARTUP: Final[StartupReport] = {"phases": {}}


class StartupReports:
    """The starts of the applications of the document in force, in `known`. A replica runs a tenant's code and may answer anything."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.known: dict[str, StartupReport] = {}
        self._session = session
        self._ask_at: dict[str, float] = {}

    async def tick(self, document: SplitDocument | None, addresses: Mapping[str, Collection[str]]) -> None:
        """Ask for what is not known; `addresses` has the healthy replicas of each application, each as host:port."""
        prefixes = {
            arm.application: arm.routePrefix for each in (document.services if document else ()) for arm in each.arms
        }
        for gone in self.known.keys() - prefixes.keys():
            del self.known[gone]
            self._ask_at.pop(gone, None)
        now = time.monotonic()
        due = [name for name in prefixes if addresses.get(name) and now >= self._ask_at.get(name, now)]
        questions = {
            name: f"http://{min(addresses[name])}{prefixes[name].rstrip('/')}{PATH}" for name in due[:_AT_ONCE]
        }
        for name, start in zip(questions, await asyncio.gather(*map(self._ask, questions.values())), strict=True):
            self.known[name] = start
            self._ask_at[name] = math.inf if start["phases"] else now + RETRY_S

    async def _ask(self, url: str) -> StartupReport:
        try:
            async with self._session.get(url, timeout=_TIMEOUT, allow_redirects=False) as response:
                body = await read_body(response, _MOST_BYTES)
                is_told = response.status == 200 and len(body) <= _MOST_BYTES
                return parse_startup(orjson.loads(body)) if is_told else UNKNOWN_STARTUP
        except (aiohttp.ClientError, OSError, ValueError):
            return UNKNOWN_STARTUP


def parse_startup(answer: Any) -> StartupReport:
    """Read the answer of a replica. Raises ValueError for one of another shape."""
    phases = answer.get("phases") if isinstance(answer, dict) else None
    if not isinstance(phases, dict) or len(phases) > _MOST_PHASES:
        raise ValueError("no phases")
    if not all(_PHASE.fullmatch(name) and _is_duration(seconds) for name, seconds in phases.items()):
        raise ValueError("phases are no durations by name")
    began = answer.get("beganAt")
    if began is not None and not _is_number(began):
        raise ValueError("beganAt is no time")
    return {"phases": phases, **({} if began is None else {"beganAt": began})}


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= _MOST_S


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
