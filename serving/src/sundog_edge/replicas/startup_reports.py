"""Startup reports: for each application, one healthy replica is asked once how it started, and again after each cold start."""

import asyncio
import math
import re
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

import aiohttp
import orjson

from sundog_edge.http_body import read_body
from sundog_edge.replicas.cold_starts import ColdStart, ColdStarts
from sundog_edge.split.document import SplitDocument

PATH: Final = "/-/startup"
RETRY_S: Final = 30.0
"""Pause before a retry, after a replica gave no report."""

_MAX_CONCURRENT: Final = 16
_MAX_BYTES: Final = 64 << 10
_MAX_PHASES: Final = 16
_MAX_DURATION_S: Final = 1e7
_PHASE: Final = re.compile(r"[a-z]{1,32}")
_TIMEOUT: Final = aiohttp.ClientTimeout(total=2, connect=1)

StartupReport = Mapping[str, Any]
"""`phases`: seconds by name. `beganAt`: Unix seconds, if the replica reports it. Without phases, no replica has answered.

After a cold start also `wokenAt` and `answersAt`, as in `ColdStart`.
"""

UNKNOWN_STARTUP: Final[StartupReport] = {"phases": {}}


class StartupReports:
    """Startup reports of the applications in the document, in `known`. A replica runs a tenant's code, so its answer is untrusted."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.known: dict[str, StartupReport] = {}
        self.cold_starts = ColdStarts()
        self.phases = ColdStartPhases()
        self._session = session
        self._due_at: dict[str, float] = {}

    async def tick(self, document: SplitDocument | None, addresses: Mapping[str, Collection[str]]) -> None:
        """Read missing reports. `addresses`: healthy replicas of each application, as host:port."""
        prefixes = {
            arm.application: arm.routePrefix
            for service in (document.services if document else ())
            for arm in service.arms
        }
        for gone in self.known.keys() - prefixes.keys():
            del self.known[gone]
            self._due_at.pop(gone, None)
        self.cold_starts.forget_others(prefixes)
        self.phases.forget_others(prefixes)
        now = time.monotonic()
        due = [name for name in prefixes if addresses.get(name) and now >= self._due_at.get(name, now)]
        urls = {
            name: f"http://{min(addresses[name])}{prefixes[name].rstrip('/')}{PATH}" for name in due[:_MAX_CONCURRENT]
        }
        for name, report in zip(urls, await asyncio.gather(*map(self._read, urls.values())), strict=True):
            self._due_at[name] = math.inf if report["phases"] else now + RETRY_S
            cold = self.cold_starts.last.get(name)
            if cold is not None:
                report = {**report, "wokenAt": cold.woken_at, "answersAt": cold.answers_at}
                if report["phases"]:
                    self.phases.add(name, cold, report)
            self.known[name] = report

    def observe(self, at_zero: Collection[str], cold: Collection[str], now: float) -> None:
        """Take note of applications at zero, and of cold ones. A replica whose cold start has ended is asked again."""
        for application in self.cold_starts.update(at_zero, cold, now):
            self._due_at.pop(application, None)

    async def _read(self, url: str) -> StartupReport:
        try:
            async with self._session.get(url, timeout=_TIMEOUT, allow_redirects=False) as response:
                body = await read_body(response, _MAX_BYTES)
                is_valid = response.status == 200 and len(body) <= _MAX_BYTES
                return parse_startup(orjson.loads(body)) if is_valid else UNKNOWN_STARTUP
        except (aiohttp.ClientError, OSError, ValueError):
            return UNKNOWN_STARTUP


class ColdStartPhases:
    """Sums of the phases of all cold starts since the agent's start, in seconds by application of the document and phase.

    - `process`: until the replica's process began: a pod, its node and image, Ray.
    - phases that the replica reports, such as `download`, `load` and `warmup`
    - `answers`: from there until HAProxy had the replica
    - `total`: all of it
    """

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str], tuple[int, float]] = {}
        self._counted: dict[str, float] = {}

    def add(self, application: str, cold: ColdStart, report: StartupReport) -> None:
        """Add a cold start, unless it was added before."""
        if self._counted.get(application) == cold.woken_at:
            return
        self._counted[application] = cold.woken_at
        phases: dict[str, float] = dict(report["phases"])
        began = report.get("beganAt")
        if began is not None:
            phases["process"] = max(0.0, began - cold.woken_at)
            phases["answers"] = max(0.0, cold.answers_at - began - sum(report["phases"].values()))
        for phase, seconds in {**phases, "total": cold.answers_at - cold.woken_at}.items():
            count, total = self.sums.get((application, phase), (0, 0.0))
            self.sums[application, phase] = (count + 1, total + seconds)

    def forget_others(self, applications: Collection[str]) -> None:
        """Forget applications that are in no document any more."""
        self.sums = {key: own for key, own in self.sums.items() if key[0] in applications}
        self._counted = {name: at for name, at in self._counted.items() if name in applications}


def parse_startup(answer: Any) -> StartupReport:
    """Parse the answer of a replica. Raises ValueError for another shape."""
    phases = answer.get("phases") if isinstance(answer, dict) else None
    if not isinstance(phases, dict) or len(phases) > _MAX_PHASES:
        raise ValueError(f"phases: expected an object with at most {_MAX_PHASES} members")
    if not all(_PHASE.fullmatch(name) and _is_duration(seconds) for name, seconds in phases.items()):
        raise ValueError("phases: expected durations in seconds by name")
    began = answer.get("beganAt")
    if began is not None and not _is_number(began):
        raise ValueError("beganAt: expected Unix seconds")
    return {"phases": phases, **({} if began is None else {"beganAt": began})}


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= _MAX_DURATION_S


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
