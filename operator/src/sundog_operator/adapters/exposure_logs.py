"""Writes exposure logs: what an edge tells, as files on this machine first, and then where they are to lie."""

import asyncio
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from sundog_operator.adapters import exports, log_places
from sundog_operator.adapters.edges import agent_port
from sundog_operator.adapters.exports import ExportBroken, Source
from sundog_operator.adapters.log_tables import Format
from sundog_operator.core.experiments.exposure_log import Lines, judged_by
from sundog_operator.core.experiments.log_exports import MOST_EXPOSURES
from sundog_operator.core.observed import LogAnswer
from sundog_operator.errors import SundogError
from sundog_operator.ports import Object

CLAIMS: Final = Path("/claims")
"""Where the chart mounts the claims of places that are allowed, each by its name."""

LONGEST_S: Final = 1800.0
"""An edge ends its own part after ten minutes."""


class EdgeLogs:
    """`ports.ExposureLogs`. One at a time, whatever waits: each takes memory for its units and room for its files."""

    def __init__(self, longest_s: float = LONGEST_S, claims: Path = CLAIMS) -> None:
        self._longest_s, self._claims = longest_s, claims
        self._one = asyncio.Lock()

    async def write(
        self, experiment: Object, pods: Sequence[Object], place: str, form: Format, at: datetime, *, final: bool
    ) -> LogAnswer:
        """See the port."""
        async with self._one:
            try:
                async with asyncio.timeout(self._longest_s):
                    lines = await self._written(experiment, pods, place, form, at, final=final)
            except SundogError as err:
                return LogAnswer(at, problem=" ".join(str(err).split()))
            except TimeoutError:
                return LogAnswer(at, problem=f"{place}: not written within {self._longest_s:g} s")
            except OSError as err:
                return LogAnswer(at, problem=f"a file on the operator's machine: {err.strerror or type(err).__name__}")
        return LogAnswer(at, lines.exposures, lines.outcomes, complete=lines.is_whole, final=final)

    async def _written(
        self, experiment: Object, pods: Sequence[Object], place: str, form: Format, at: datetime, *, final: bool
    ) -> Lines:
        """What was written. Raises SundogError, OSError."""

        async def source() -> Source:
            return _agent(experiment["metadata"]["namespace"], pods)

        with tempfile.TemporaryDirectory(prefix="sundog-log-") as scratch:
            lines, files = await exports.fetch(experiment, source, Path(scratch), form, MOST_EXPOSURES)
            if behind := lines.behind(judged_by(experiment)):
                raise ExportBroken(behind)
            if final and not lines.is_still:
                raise ExportBroken("outcomes came while it was read, although the experiment has ended")
            plan = exports.write_plan(experiment, lines, Path(scratch), at)
            await log_places.put([*files, plan], place, self._claims)
        return lines


def _agent(namespace: str, pods: Sequence[Object]) -> Source:
    """That of a ready edge. Raises ExportBroken."""
    pod = exports.edge_among(pods)
    if pod is None:
        raise ExportBroken(f"namespace {namespace} has no edge that is ready")
    address = (pod.get("status") or {}).get("podIP")
    return exports.directly(f"pod {pod['metadata']['name']}", f"http://{address}:{agent_port(pod)}")
