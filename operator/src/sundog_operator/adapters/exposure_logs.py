"""Writes exposure logs: an edge's export as files on this machine first, then at their destination."""

import asyncio
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from sundog_operator.adapters import export_destinations, exports
from sundog_operator.adapters.edges import find_agent_port
from sundog_operator.adapters.exports import EdgeAgent, ExportError
from sundog_operator.adapters.log_tables import Format
from sundog_operator.core.observed import ExposureLogResult
from sundog_operator.core.trial.experiment.exposure_log import ExposureLogReader, evaluated_sums
from sundog_operator.core.trial.experiment.log_exports import MAX_EXPOSURES
from sundog_operator.errors import SundogError
from sundog_operator.ports import Object

CLAIMS_ROOT: Final = Path("/claims")
"""Directory in which the chart mounts the claims of the allowed destinations, each by its name."""

MAX_EXPORT_S: Final = 1800.0
"""Limit of one export, its files at their destination included."""

MAX_READ_S: Final = 660.0
"""Limit of the edge's part of an export, which the edge ends after ten minutes."""

MAX_FILES_BYTES: Final = 224 * 2**20
"""Limit of an export's files. They are in the operator's `/tmp`, which has 256 MiB in the chart: beyond that its pod is evicted."""


class EdgeExposureLogWriter:
    """`ports.ExposureLogs`. It writes one log at a time: each takes memory for its units and disk space for its files.

    Namespaces take turns, so that one with many logs, or with an edge that hangs, delays the others by one log.
    """

    def __init__(
        self, timeout_s: float = MAX_EXPORT_S, claims: Path = CLAIMS_ROOT, read_timeout_s: float = MAX_READ_S
    ) -> None:
        self._timeout_s, self._claims, self._read_timeout_s = timeout_s, claims, read_timeout_s
        self._lock = asyncio.Lock()
        self._namespace_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def write(
        self, experiment: Object, pods: Sequence[Object], folder_uri: str, form: Format, at: datetime, *, final: bool
    ) -> ExposureLogResult:
        """See the port."""
        turn = self._namespace_locks.setdefault(experiment["metadata"]["namespace"], asyncio.Lock())
        async with turn, self._lock:
            try:
                async with asyncio.timeout(self._timeout_s):
                    lines = await self._export(experiment, pods, folder_uri, form, at, final=final)
            except SundogError as err:
                return ExposureLogResult(at, problem=" ".join(str(err).split()))
            except TimeoutError:
                return ExposureLogResult(at, problem=f"{folder_uri}: not written within {self._timeout_s:g} s")
            except OSError as err:
                return ExposureLogResult(
                    at, problem=f"a file on the operator's machine: {err.strerror or type(err).__name__}"
                )
        return ExposureLogResult(
            at, lines.exposures, lines.outcomes, complete=lines.is_whole, final=final, feedback=lines.feedback
        )

    async def _export(
        self, experiment: Object, pods: Sequence[Object], folder_uri: str, form: Format, at: datetime, *, final: bool
    ) -> ExposureLogReader:
        """Write one log and return the reader of its lines. Raises SundogError, OSError."""

        async def find_agent() -> EdgeAgent:
            return _make_agent(experiment["metadata"]["namespace"], pods)

        with tempfile.TemporaryDirectory(prefix="sundog-log-") as scratch:
            try:
                async with asyncio.timeout(self._read_timeout_s):
                    lines, files = await exports.fetch_export(
                        experiment, find_agent, Path(scratch), form, MAX_EXPOSURES, MAX_FILES_BYTES
                    )
            except TimeoutError:
                raise ExportError(f"the edge's export takes over {self._read_timeout_s:g} s") from None
            if behind := lines.behind(evaluated_sums(experiment)):
                raise ExportError(behind)
            if final and not lines.is_unchanged:
                raise ExportError("outcomes changed during the export, although the experiment has ended")
            plan = exports.write_plan(experiment, lines, Path(scratch), at)
            await export_destinations.put_files([*files, plan], folder_uri, self._claims)
        return lines


def _make_agent(namespace: str, pods: Sequence[Object]) -> EdgeAgent:
    """Return the agent of a ready edge. Raises ExportError."""
    pod = exports.find_ready_edge(pods)
    if pod is None:
        raise ExportError(f"namespace {namespace} has no edge that is ready")
    address = (pod.get("status") or {}).get("podIP")
    return exports.make_direct_agent(f"pod {pod['metadata']['name']}", f"http://{address}:{find_agent_port(pod)}")
