"""Local state of each object that local mode runs: a short directory, remembered facts, and the back-off of restarts."""

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
_MAX_DELAY_S: Final = 60.0
_STEADY_AFTER: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class ObjectDirectory:
    """The directory of one object. `facts`, such as its ports, survive restarts."""

    ref: Ref
    directory: Path
    facts: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name that is unique in the state directory, such as `ray-0`."""
        return f"{self.directory.parent.name}-{self.directory.name}"

    def number(self, fact: str) -> int | None:
        """Return a fact that is an integer; None for another one."""
        value = self.facts.get(fact)
        return value if isinstance(value, int) else None


class ObjectDirectories:
    """The directories of the objects of one kind. They are numbered, because paths below them must stay short.

    Safe for several threads: a lock serializes the choice of numbers and facts that no two objects may share.
    """

    def __init__(self, base: Path, kind: Kind) -> None:
        self._base = base
        self._kind = kind
        self._lock = threading.Lock()

    def all(self) -> list[ObjectDirectory]:
        """Return every object with a directory, in the order of their numbers."""
        directories = [path for path in self._base.iterdir() if path.name.isdigit()]
        found = (self._read(path) for path in sorted(directories, key=lambda path: int(path.name)))
        return [entry for entry in found if entry is not None]

    def find(self, ref: Ref) -> ObjectDirectory | None:
        """Return the object's directory, or None."""
        return next((entry for entry in self.all() if entry.ref == ref), None)

    def get_or_create(self, ref: Ref) -> ObjectDirectory:
        """Return the object's directory. Create it with the lowest free number if it is missing."""
        with self._lock:
            return self.find(ref) or self._create(ref)

    def _create(self, ref: Ref) -> ObjectDirectory:
        taken = {entry.directory.name for entry in self.all()}
        number = next(str(index) for index in range(len(taken) + 1) if str(index) not in taken)
        entry = ObjectDirectory(ref, self._base / number)
        # A crash can leave a directory without a readable file.
        shutil.rmtree(entry.directory, ignore_errors=True)
        entry.directory.mkdir(mode=0o700)
        return self.remember(entry, {})

    def choose(
        self, entry: ObjectDirectory, chosen: Callable[[Sequence[ObjectDirectory]], Mapping[str, str | int]]
    ) -> ObjectDirectory:
        """Add facts that `chosen` derives from all objects, such as a port that no object has."""
        with self._lock:
            return self.remember(entry, chosen(self.all()))

    def remember(self, entry: ObjectDirectory, facts: Mapping[str, str | int]) -> ObjectDirectory:
        """Add facts to an object."""
        updated = ObjectDirectory(entry.ref, entry.directory, {**entry.facts, **facts})
        document = {"version": 1, "namespace": entry.ref.namespace, "name": entry.ref.name, "facts": updated.facts}
        write_atomically(entry.directory / _FILE, orjson.dumps(document))
        return updated

    def remove(self, entry: ObjectDirectory) -> None:
        """Remove an object's directory."""
        with self._lock:
            shutil.rmtree(entry.directory, ignore_errors=True)

    def _read(self, directory: Path) -> ObjectDirectory | None:
        document = read_json(directory / _FILE)
        if document is None:
            return None
        facts = document.get("facts")
        ref = Ref(self._kind, str(document.get("namespace")), str(document.get("name")))
        return ObjectDirectory(ref, directory, facts if isinstance(facts, dict) else {})


@dataclass(slots=True)
class RestartBackoff:
    """The back-off of a process that ends again and again: it restarts at once, then after 1, 2, 4 … 60 s."""

    exits: int = 0
    not_before: datetime | None = None

    def record_exit(self, now: datetime) -> None:
        """Count an exit."""
        pause = timedelta(seconds=0 if self.exits == 0 else min(2 ** (self.exits - 1), _MAX_DELAY_S))
        self.exits += 1
        self.not_before = now + pause

    def reset_if_steady(self, age: timedelta) -> bool:
        """Reset the back-off of a process that has run for a minute. Return whether it has."""
        if age < _STEADY_AFTER:
            return False
        self.reset_backoff()
        return True

    def reset_backoff(self) -> None:
        """Restart the process at once after its next exit, because it worked before."""
        self.exits = 0

    def remaining_delay_s(self, now: datetime) -> float:
        """Return the seconds until the next start is allowed; 0 when it is allowed now."""
        if self.not_before is None:
            return 0.0
        # At most the longest delay, because the clock may be set back.
        return min(max(0.0, (self.not_before - now).total_seconds()), _MAX_DELAY_S)
