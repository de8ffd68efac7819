"""What replicas of this machine have logged: files of Ray's sessions below a state directory."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

_FILES: Final = "ray/*/session_latest/logs/serve/replica_*.log"
_TAIL_BYTES: Final = 2**20
"""As much of a file's end is looked through at first."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """The log of one replica."""

    path: Path
    revision: int
    replica: str

    @property
    def label(self) -> str:
        """What tells its lines from those of others, such as `r8 x3k9`."""
        return f"r{self.revision} {self.replica}"


def find_logs(state: Path, service: str, revision: int | None = None) -> list[LogFile]:
    """The logs of a ModelDeployment's replicas, or of one revision's, those that ended included; the one written last is last."""
    pattern = re.compile(rf"replica_{re.escape(service)}-r(\d+)_(?:.*_)?([^_]+)\.log")
    found: list[tuple[float, LogFile]] = []
    for path in state.glob(_FILES):
        match = pattern.fullmatch(path.name)
        if match is not None and revision in (None, int(match[1])):
            found.append((path.stat().st_mtime, LogFile(path, int(match[1]), match[2])))
    return [file for _, file in sorted(found, key=lambda each: (each[0], each[1].path))]


@dataclass(slots=True)
class ReplicaLogReader:
    """Reads a growing file line by line."""

    path: Path
    _position: int = 0
    _partial: bytes = field(default=b"")

    def last(self, lines: int) -> list[str]:
        """The last whole lines; `more` goes on behind them."""
        with self.path.open("rb") as file:
            begin = max(0, file.seek(0, 2) - _TAIL_BYTES)
            file.seek(begin)
            self._position = begin
            found = self._take(file.read())
        # Behind a begin in the middle of a file the first line may be half of one.
        whole = found[1:] if begin else found
        return whole[-lines:] if lines else []

    def more(self) -> list[str]:
        """Whole lines that were written since. A file that became shorter was begun anew."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._position:
                    self._position, self._partial = 0, b""
                file.seek(self._position)
                return self._take(file.read())
        except FileNotFoundError:
            return []

    def _take(self, data: bytes) -> list[str]:
        self._position += len(data)
        *whole, self._partial = (self._partial + data).split(b"\n")
        return [line.decode("utf-8", "replace") for line in whole]


def find_last_exception(state: Path, service: str, revision: int) -> str:
    """The newest exception that replicas of a revision logged, such as `2026-11-29T05:23:09.000+00:00 ValueError: wrong`; else empty."""
    told = [each for file in find_logs(state, service, revision) for each in _exceptions(file.path)]
    return " ".join(max(told)) if told else ""


def _exceptions(path: Path) -> Iterator[tuple[str, str]]:
    """(time, last line) of each exception that the model server logged; what a model caught and logged itself has a `logger`."""
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
