"""Reads the logs of replicas on this machine, which are in Ray's sessions below a state directory."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from sundog_operator.adapters.local.object_directories import ObjectDirectories
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.api import parse_timestamp
from sundog_operator.ports import RAY_CLUSTER, Object

_FILES: Final = "session_latest/logs/serve/replica_*.log"
_TAIL_BYTES: Final = 2**20
"""Bytes at the end of a file that are read first."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """The log of one replica."""

    path: Path
    revision: int
    replica: str

    @property
    def label(self) -> str:
        """A prefix for its lines, such as `r8 x3k9`."""
        return f"r{self.revision} {self.replica}"


def find_logs(state: Path, deployment: Object, revision: int | None = None) -> list[LogFile]:
    """Return the logs of all replicas of a ModelDeployment or of one revision, ended ones included, in order of the last write.

    Logs that ended before its creation are those of a deleted ModelDeployment of the same name.
    """
    meta, base = deployment["metadata"], StateDirectory.at(state).ray
    created = parse_timestamp(meta["creationTimestamp"]).timestamp()
    pattern = re.compile(rf"replica_{re.escape(meta['name'])}-r(\d+)_(?:.*_)?([^_]+)\.log")
    clusters = ObjectDirectories(base, RAY_CLUSTER).all() if base.is_dir() else []
    own = [each.directory for each in clusters if each.ref.namespace == meta["namespace"]]
    found: list[tuple[float, LogFile]] = []
    for path in (path for directory in own for path in directory.glob(_FILES)):
        match, written = pattern.fullmatch(path.name), path.stat().st_mtime
        if match is not None and revision in (None, int(match[1])) and written >= created:
            found.append((written, LogFile(path, int(match[1]), match[2])))
    return [file for _, file in sorted(found, key=lambda each: (each[0], each[1].path))]


@dataclass(slots=True)
class ReplicaLogReader:
    """Reads a growing file line by line."""

    path: Path
    _position: int = 0
    _partial: bytes = field(default=b"")

    def last(self, lines: int) -> list[str]:
        """Return the last complete lines; `more` continues after them."""
        with self.path.open("rb") as file:
            start = max(0, file.seek(0, 2) - _TAIL_BYTES)
            file.seek(start)
            self._position = start
            found = self._split_lines(file.read())
        # After a start in the middle of a file, the first line may be incomplete.
        complete = found[1:] if start else found
        return complete[-lines:] if lines else []

    def more(self) -> list[str]:
        """Return the complete lines that were written since. A file that became shorter is read from its start."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._position:
                    self._position, self._partial = 0, b""
                file.seek(self._position)
                return self._split_lines(file.read())
        except FileNotFoundError:
            return []

    def _split_lines(self, data: bytes) -> list[str]:
        self._position += len(data)
        *complete, self._partial = (self._partial + data).split(b"\n")
        return [line.decode("utf-8", "replace") for line in complete]


def find_last_exception(state: Path, deployment: Object, revision: int) -> str:
    """Return the newest exception in the logs of a revision, such as `2026-11-29T05:23:09.000+00:00 ValueError: wrong`; else empty."""
    found = [each for file in find_logs(state, deployment, revision) for each in _exceptions(file.path)]
    return " ".join(max(found)) if found else ""


def _exceptions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (time, last line) of each exception that the model server logged. Lines with a `logger` come from the model's code."""
    for line in ReplicaLogReader(path).last(_TAIL_BYTES):
        if not line.startswith("{") or '"exception"' not in line:
            continue
        try:
            document = orjson.loads(line)
            if "logger" in document:
                continue
            text = str(document["exception"]).strip()
            yield str(document["time"]), text.splitlines()[-1]
        except (ValueError, LookupError, TypeError):
            continue
