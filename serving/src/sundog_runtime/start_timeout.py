"""Ends a start that does not end by itself, and has the next attempt tell why.

A deadline of asyncio's is enough where the model lets other threads run. Code that holds the interpreter's lock lets none, so
that no timer of Python's ever fires: `faulthandler` waits in a thread that needs no lock, writes where every thread is, and
ends the process. Serve knows no more of that than that a process died, and starts another one at once. That one finds what was
written and tells it, instead of waiting as long once more.
"""

import asyncio
import faulthandler
import hashlib
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from sundog_runtime.errors import LoadTimeout, StartError, WarmupTimeout

Result = TypeVar("Result")

REPORT_WINDOW_S = 60.0
"""So long an attempt that did not end speaks for those that follow at the same build of the application, which Serve makes at once."""

_GRACE_SECONDS = 5.0
"""The deadline of asyncio's comes first, for it needs no process to end."""

_LONGEST_SECONDS = 1e8
_KEPT_SECONDS = 86_400.0
_TIMEOUTS: dict[str, type[StartError]] = {kind.__name__: kind for kind in (LoadTimeout, WarmupTimeout)}
_CAME_TRUE = "told\n"
_FRAME = re.compile(r'^  File "([^"]+)", line (\d+) in (.+)$', re.MULTILINE)
_AT_WORK = re.compile(r'model_thread\.py", line \d+ in job$', re.MULTILINE)

_LIBRARIES = tuple({f"{prefix}/lib" for prefix in (sys.prefix, sys.base_prefix)})

_logger = logging.getLogger("ray.serve.sundog")


class StartAttempts:
    """The attempts on this node to start one build of a revision, which `revision` names.

    `folder` is made where it is missing; where it cannot be, nothing is told.
    """

    def __init__(self, folder: Path, revision: str, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._prefix = hashlib.sha256(revision.encode()).hexdigest()[:32] + "-"
        self._clock = clock

    def raise_last_timeout(self) -> None:
        """Raises LoadTimeout or WarmupTimeout where an attempt of less than a minute ago did not end."""
        for path in self._left():
            with suppress(OSError):
                text = path.read_text("utf-8", "replace")
                if 0 <= self._clock() - path.stat().st_mtime < REPORT_WINDOW_S and (error := _told_by(text)):
                    raise error

    async def in_time(self, work: Awaitable[Result], seconds: float, late: StartError) -> Result:
        """The result of `work`. Raises `late` when it takes longer; where nothing can be raised, the process ends and the next raises it.

        What is late goes on in its thread until the process ends, which it does then.
        """
        with self._watched(seconds, late):
            try:
                async with asyncio.timeout(seconds) as limit:
                    return await work
            except TimeoutError:
                # The model may raise one of its own.
                if limit.expired():
                    raise late from None
                raise

    @contextmanager
    def _watched(self, seconds: float, late: StartError) -> Iterator[None]:
        handle, path = self._begin()
        with os.fdopen(handle, "w") as file:
            file.write(f"{late.reason} {late.message}\n")
            file.flush()
            faulthandler.dump_traceback_later(min(seconds + _GRACE_SECONDS, _LONGEST_SECONDS), exit=True, file=file)
            try:
                yield
            except type(late):
                file.write(_CAME_TRUE)
                raise
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            finally:
                faulthandler.cancel_dump_traceback_later()
        path.unlink(missing_ok=True)

    def _begin(self) -> tuple[int, Path]:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=self._prefix, dir=self._folder)
        except OSError as error:
            _logger.warning(
                "a start that does not end will not be told by the next: %s: %s", self._folder, error.strerror
            )
            handle, name = tempfile.mkstemp()
        return handle, Path(name)

    def _left(self) -> list[Path]:
        """What other attempts at this revision left. What nobody will ask for any more is removed, whatever its revision."""
        left = []
        with suppress(OSError):
            for path in sorted(self._folder.iterdir()):
                with suppress(OSError):
                    if self._clock() - path.stat().st_mtime > _KEPT_SECONDS:
                        path.unlink()
                    elif path.name.startswith(self._prefix):
                        left.append(path)
        return left


def _told_by(text: str) -> StartError | None:
    """The error of an attempt that did not end; None where it may yet."""
    head, _, rest = text.partition("\n")
    reason, _, message = head.partition(" ")
    kind = _TIMEOUTS.get(reason)
    if kind is None or not rest:
        return None
    if rest == _CAME_TRUE:
        return kind(message)
    _logger.error("the attempt before was ended, for it held Python's interpreter lock: %s", rest)
    return kind(f"{message}: {_place(rest)} held Python's interpreter lock, so the process was ended")


def _place(dump: str) -> str:
    """Where the model was, as faulthandler wrote it: the innermost frame outside of libraries of the thread that worked for it."""
    working = "".join(part for part in dump.split("\n\n") if _AT_WORK.search(part))
    frames = _FRAME.findall(working)
    own = [frame for frame in frames if not frame[0].startswith(_LIBRARIES)]
    if not frames:
        return "the model"
    file, line, function = (own or frames)[0]
    return f"{function} at {Path(file).name}:{line}"
