"""State directories with short paths, and an independent look at what runs in them."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from waiting import comes_true


class Controller(Protocol):
    async def run(self) -> None: ...

    async def stop_all(self) -> None: ...


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A state directory; afterwards nothing may run in it."""
    path = Path(tempfile.mkdtemp(prefix="sdl-"))
    try:
        yield path
    finally:
        left = running_in(path)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(path, ignore_errors=True)
        assert not left, f"processes were left in {path}: {left}"


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
def kube(clock: SystemClock) -> MemoryKubernetes:
    return MemoryKubernetes(clock)


class Local:
    """What the tests of this folder share."""

    @staticmethod
    def running_in(directory: Path) -> list[psutil.Process]:
        """See the function of that name."""
        return running_in(directory)

    @staticmethod
    def running(controller: Controller) -> contextlib.AbstractAsyncContextManager[asyncio.Task[None]]:
        """See the function of that name."""
        return running(controller)

    comes_true = staticmethod(comes_true)


@pytest.fixture
def local() -> Local:
    return Local()


def running_in(directory: Path) -> list[psutil.Process]:
    """Every process that has anything to do with a directory: by arguments, environment, working directory or open files."""
    needle = str(directory)
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            traces = [*process.cmdline(), process.cwd(), *process.environ().values()]
            traces += [file.path for file in process.open_files()]
            if any(needle in trace for trace in traces) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.asynccontextmanager
async def running(controller: Controller) -> AsyncIterator[asyncio.Task[None]]:
    """Run a controller; afterwards it is cancelled, which ends none of its processes. What it raised is raised."""
    task = asyncio.create_task(controller.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
