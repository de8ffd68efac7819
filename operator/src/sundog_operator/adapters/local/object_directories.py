"""What local mode keeps of each object that it made real: a short directory, its ports, and its restarts."""

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import orjson

from sundog_operator.adapters.local.state_directory import read_json, write_atomically
from sundog_operator.ports import Kind, Ref

_FILE: Final = "unit.json"
_LONGEST_S: Final = 60.0
_STEADY: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class ObjectDirectory:
    """One object's directory. `facts` survive restarts, such as the ports it was given."""

    ref: Ref
    directory: Path
    facts: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique within the state directory, such as `ray-0`."""
        return f"{self.directory.parent.name}-{self.directory.name}"

    def number(self, fact: str) -> int | None:
        """A fact that is an integer."""
        value = self.facts.get(fact)
        return value if isinstance(value, int) else None


class ObjectDirectories:
    """The objects of one kind. Directories are numbered, because paths below them must stay short.

    May be used by several threads: what no two objects may have is chosen by one at a time.
    """

    def __init__(self, base: Path, kind: Kind) -> None:
        self._base = base
        self._kind = kind
        self._choosing = threading.Lock()

    def all(self) -> list[ObjectDirectory]:
        """Every object that has a directory, in the order of their numbers."""
        directories = [path for path in self._base.iterdir() if path.name.isdigit()]
        found = (self._read(path) for path in sorted(directories, key=lambda path: int(path.name)))
        return [unit for unit in found if unit is not None]

    def find(self, ref: Ref) -> ObjectDirectory | None:
        """The object's directory, if it has one."""
        return next((unit for unit in self.all() if unit.ref == ref), None)

    def get_or_create(self, ref: Ref) -> ObjectDirectory:
        """The object's directory, created at its first use under the lowest number that no object has."""
        with self._choosing:
            return self.find(ref) or self._make(ref)

    def _make(self, ref: Ref) -> ObjectDirectory:
        taken = {unit.directory.name for unit in self.all()}
        number = next(str(index) for index in range(len(taken) + 1) if str(index) not in taken)
        unit = ObjectDirectory(ref, self._base / number)
        # A directory without a readable file is what a crash left.
        shutil.rmtree(unit.directory, ignore_errors=True)
        unit.directory.mkdir(mode=0o700)
        return self.remember(unit, {})

    def choose(
        self, unit: ObjectDirectory, chosen: Callable[[Sequence[ObjectDirectory]], Mapping[str, str | int]]
    ) -> ObjectDirectory:
        """Add facts that are chosen in view of what all objects have, such as a port that is nobody's."""
        with self._choosing:
            return self.remember(unit, chosen(self.all()))

    def remember(self, unit: ObjectDirectory, facts: Mapping[str, str | int]) -> ObjectDirectory:
        """Add facts to what is kept of an object."""
        updated = ObjectDirectory(unit.ref, unit.directory, {**unit.facts, **facts})
        document = {"version": 1, "namespace": unit.ref.namespace, "name": unit.ref.name, "facts": updated.facts}
        write_atomically(unit.directory / _FILE, orjson.dumps(document))
        return updated

    def remove(self, unit: ObjectDirectory) -> None:
        """Forget an object."""
        with self._choosing:
            shutil.rmtree(unit.directory, ignore_errors=True)

    def _read(self, directory: Path) -> ObjectDirectory | None:
        document = read_json(directory / _FILE)
        if document is None:
            return None
        facts = document.get("facts")
        ref = Ref(self._kind, str(document.get("namespace")), str(document.get("name")))
        return ObjectDirectory(ref, directory, facts if isinstance(facts, dict) else {})


@dataclass(slots=True)
class RestartBackoff:
    """When a process that keeps ending may be started again: at once, then after 1, 2, 4 … 60 s."""

    deaths: int = 0
    not_before: datetime | None = None

    def died(self, now: datetime) -> None:
        """Count an end."""
        pause = timedelta(seconds=0 if self.deaths == 0 else min(2 ** (self.deaths - 1), _LONGEST_S))
        self.deaths += 1
        self.not_before = now + pause

    def lived(self, age: timedelta) -> bool:
        """Whether a process has run for a minute, and so is forgiven its past."""
        if age < _STEADY:
            return False
        self.reset_backoff()
        return True

    def reset_backoff(self) -> None:
        """Start the process at once when it ends the next time: what did its work was ended by something else."""
        self.deaths = 0

    def remaining_delay_s(self, now: datetime) -> float:
        """Seconds until the next start is allowed; 0 when it is."""
        if self.not_before is None:
            return 0.0
        # Never longer than the longest pause, for the clock may be set back.
        return min(max(0.0, (self.not_before - now).total_seconds()), _LONGEST_S)
