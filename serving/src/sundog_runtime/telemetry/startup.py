"""How long each phase of a replica's start took."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

STARTUP_VERSION = 1


class StartupPhases:
    """Seconds by phase, in the order in which the phases were begun. A phase that failed is not among them.

    `began_s` is when the first of them began, in seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.phases: dict[str, float] = {}
        self.began_s = time.time()
        self._clock = clock

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        begun = self._clock()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + self._clock() - begun

    def detail(self, name: str, parts: Mapping[str, float]) -> None:
        """Tell the parts of a phase, in seconds, in its place; without any, it stays as it is."""
        if parts:
            self.phases = {
                key: value
                for phase, whole in self.phases.items()
                for key, value in (parts.items() if phase == name else ((phase, whole),))
            }

    def document(self) -> dict[str, object]:
        """What `GET /-/startup` answers."""
        phases = {name: round(seconds, 6) for name, seconds in self.phases.items()}
        return {"version": STARTUP_VERSION, "beganAt": round(self.began_s, 3), "phases": phases}

    def line(self) -> str:
        """For the log."""
        return ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self.phases.items())
