"""End a start that hangs, and let the next attempt report why.

A timeout of asyncio is enough if the model lets other threads run. Code that holds the interpreter lock stops all threads,
so that no Python timer fires. `faulthandler` waits in a thread that needs no lock, writes the stacks of all threads, and
ends the process. Serve only learns that a process died, and starts another one at once. The new process finds the written
stacks and reports them, instead of waiting as long again.
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
from sundog_runtime.telemetry.logs import LOGGER_NAME

Result = TypeVar("Result")

REPORT_WINDOW_S = 60.0
"""Age up to which a timeout counts for the next attempt at the same application, which Serve makes at once."""

_GRACE_SECONDS = 5.0
"""Time for asyncio's timeout to fire first, because that does not end the process."""

_MAX_TIMEOUT_S = 1e8
_RETENTION_S = 86_400.0
_TIMEOUTS: dict[str, type[StartError]] = {kind.__name__: kind for kind in (LoadTimeout, WarmupTimeout)}
_RAISED = "raised\n"
_FRAME = re.compile(r'^  File "([^"]+)", line (\d+) in (.+)$', re.MULTILINE)
_MODEL_THREAD_FRAME = re.compile(r'model_thread\.py", line \d+ in job$', re.MULTILINE)

_LIBRARIES = tuple({f"{prefix}/lib" for prefix in (sys.prefix, sys.base_prefix)})

_logger = logging.getLogger(LOGGER_NAME)


class StartAttempts:
    """Attempts on this node to start one build of a revision, which `revision` names.

    `folder` is created if missing. If that fails, a hanging start is not reported.
    """

    def __init__(self, folder: Path, revision: str, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._prefix = hashlib.sha256(revision.encode()).hexdigest()[:32] + "-"
        self._clock = clock

    def raise_last_timeout(self) -> None:
        """Raise LoadTimeout or WarmupTimeout if an attempt of less than a minute ago timed out."""
        for path in self._earlier_attempts():
            with suppress(OSError):
                text = path.read_text("utf-8", "replace")
                if 0 <= self._clock() - path.stat().st_mtime < REPORT_WINDOW_S and (error := _parse_attempt(text)):
                    raise error

    async def run_with_timeout(self, work: Awaitable[Result], seconds: float, timeout_error: StartError) -> Result:
        """Return the result of `work`. Raises `timeout_error` after `seconds`.

        If no Python code can run then, the process ends and the next attempt raises it. Otherwise `work` goes on in its
        thread until the failed start ends the process.
        """
        with self._end_process_after(seconds, timeout_error):
            try:
                async with asyncio.timeout(seconds) as limit:
                    return await work
            except TimeoutError:
                # The model may raise a TimeoutError of its own.
                if limit.expired():
                    raise timeout_error from None
                raise

    @contextmanager
    def _end_process_after(self, seconds: float, timeout_error: StartError) -> Iterator[None]:
        handle, path = self._create_file()
        with os.fdopen(handle, "w") as file:
            file.write(f"{timeout_error.reason} {timeout_error.message}\n")
            file.flush()
            faulthandler.dump_traceback_later(min(seconds + _GRACE_SECONDS, _MAX_TIMEOUT_S), exit=True, file=file)
            try:
                yield
            except type(timeout_error):
                file.write(_RAISED)
                raise
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            finally:
                faulthandler.cancel_dump_traceback_later()
        path.unlink(missing_ok=True)

    def _create_file(self) -> tuple[int, Path]:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=self._prefix, dir=self._folder)
        except OSError as error:
            _logger.warning("the next attempt cannot report a hanging start: %s: %s", self._folder, error.strerror)
            handle, name = tempfile.mkstemp()
        return handle, Path(name)

    def _earlier_attempts(self) -> list[Path]:
        """Return the files of earlier attempts at this revision. Remove expired files of all revisions."""
        earlier = []
        with suppress(OSError):
            for path in sorted(self._folder.iterdir()):
                with suppress(OSError):
                    if self._clock() - path.stat().st_mtime > _RETENTION_S:
                        path.unlink()
                    elif path.name.startswith(self._prefix):
                        earlier.append(path)
        return earlier


def _parse_attempt(text: str) -> StartError | None:
    """Return the error of an attempt that timed out; None if it may still end."""
    head, _, rest = text.partition("\n")
    reason, _, message = head.partition(" ")
    kind = _TIMEOUTS.get(reason)
    if kind is None or not rest:
        return None
    if rest == _RAISED:
        return kind(message)
    _logger.error("the previous attempt was ended because it held Python's interpreter lock: %s", rest)
    return kind(f"{message}: {_model_frame(rest)} held Python's interpreter lock, so the process was ended")


def _model_frame(dump: str) -> str:
    """Return the model's position from a dump of faulthandler: on the model's thread, the innermost frame outside of libraries."""
    working = "".join(part for part in dump.split("\n\n") if _MODEL_THREAD_FRAME.search(part))
    frames = _FRAME.findall(working)
    own = [frame for frame in frames if not frame[0].startswith(_LIBRARIES)]
    if not frames:
        return "the model"
    file, line, function = (own or frames)[0]
    return f"{function} at {Path(file).name}:{line}"
