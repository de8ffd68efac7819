"""Durations of the phases of a replica's start."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

STARTUP_VERSION = 1


class StartupPhases:
    """Seconds by phase, in the order of their start. A phase that failed is not included.

    `began_s` is the start of the first phase, in seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.phases: dict[str, float] = {}
        self.began_s = time.time()
        self._clock = clock

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block."""
        started = self._clock()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + self._clock() - started

    def detail(self, name: str, parts: Mapping[str, float]) -> None:
        """Replace a phase by its parts, in seconds; without any, it stays."""
        if parts:
            self.phases = {
                key: value
                for phase, whole in self.phases.items()
                for key, value in (parts.items() if phase == name else ((phase, whole),))
            }

    def document(self) -> dict[str, object]:
        """Return the document of `GET /-/startup`."""
        phases = {name: round(seconds, 6) for name, seconds in self.phases.items()}
        return {"version": STARTUP_VERSION, "beganAt": round(self.began_s, 3), "phases": phases}

    def line(self) -> str:
        """Return one line for the log."""
        return ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self.phases.items())
