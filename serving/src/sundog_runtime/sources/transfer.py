"""Bytes from a store onto the disk: in parts, several at a time, resumed where a crash left off.

A journal beside the files says which parts are on the disk. A part is written down there after its bytes were synced, so
that a part in the journal is never a hole in the file.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sundog_runtime.errors import ModelTooLarge, NoSpace, SourceRefused, SourceUnavailable, StartError
from sundog_runtime.sources.cache import remove_path
from sundog_runtime.sources.download_limits import DownloadLimits
from sundog_runtime.sources.file_digests import MAX_FILES
from sundog_runtime.sources.listing import (
    ModelListing,
    ObjectChanged,
    RemoteObject,
    TransientSourceError,
    make_retrying,
)

DOWNLOAD_DIRECTORY = "download"
JOURNAL_FILE = "journal"

MakeRoom = Callable[[int], None]
"""Frees that many bytes where it can."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes `start` to before `end` of the object of that index; `end` is None where the size is not known."""

    index: int
    number: int
    start: int
    end: int | None


class DownloadJournal:
    """The parts that are on the disk, of one listing. Lines of JSON; a torn last line counts as none."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        self._identity = identity

    def read(self) -> set[tuple[int, int]]:
        """Nothing, if what was begun was another model."""
        try:
            lines = self._path.read_text().splitlines()
        except (OSError, ValueError):
            return set()
        if not self._identity or not lines or lines[0] != self._identity:
            return set()
        done = set()
        for line in lines[1:]:
            with suppress(ValueError):
                index, number = json.loads(line)
                done.add((index, number))
        return done

    def begin(self) -> None:
        """Forget what was done."""
        self._path.write_text(f"{self._identity}\n")

    def add(self, index: int, number: int) -> None:
        """The bytes are synced before; the line need not be: losing it costs a download of the part."""
        with self._path.open("a") as file:
            file.write(f"[{index},{number}]\n")


class Transfer:
    """Downloads one listing into one directory. `received` counts the bytes that came, retries included."""

    def __init__(self, listing: ModelListing, directory: Path, limits: DownloadLimits) -> None:
        self._objects = listing.objects
        self._identity = f"{listing.identity}/{limits.part_bytes}" if listing.identity else ""
        self._known = listing.size
        self._directory = directory
        self._limits = limits
        self._journal = DownloadJournal(directory / JOURNAL_FILE, self._identity)
        self.received = 0

    async def run(self, make_room: MakeRoom) -> None:
        """Raises a StartError. What arrived stays on the disk and is taken up by the next run."""
        check_object_paths(self._objects)
        check_total_size(self._objects, self._limits)
        done = self._journal.read()
        # What was complete and on its way into its place when a process died is not where the journal has it.
        if not done or not all(self._file(index).is_file() for index, _ in done if index < len(self._objects)):
            done = set()
            remove_path(self._directory / DOWNLOAD_DIRECTORY)
            self._directory.mkdir(parents=True, exist_ok=True)
            self._journal.begin()
        parts = list(self._parts())
        left = [part for part in parts if (part.index, part.number) not in done]
        self._make_files()
        needed = sum(_length(part) for part in left)
        make_room(needed)
        check_disk_space(self._directory, needed)
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._all(left)
        except TimeoutError:
            raise SourceUnavailable(f"the model did not arrive within {self._limits.seconds:g} s") from None

    def _parts(self) -> Iterator[_Part]:
        step = self._limits.part_bytes
        for index, remote in enumerate(self._objects):
            if remote.size is None or not remote.in_parts:
                yield _Part(index, 0, 0, remote.size)
                continue
            for number, start in enumerate(range(0, max(remote.size, 1), step)):
                yield _Part(index, number, start, min(start + step, remote.size))

    def _make_files(self) -> None:
        for index in range(len(self._objects)):
            path = self._file(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))

    def _file(self, index: int) -> Path:
        return self._directory / DOWNLOAD_DIRECTORY / self._objects[index].path

    async def _all(self, parts: list[_Part]) -> None:
        queue = iter(parts)
        watch = asyncio.create_task(self._watch())
        workers = [asyncio.create_task(self._work(queue)) for _ in range(min(self._limits.connections, len(parts)))]
        try:
            pending: set[asyncio.Task[None]] = {*workers}
            while pending:
                finished, pending = await asyncio.wait({*pending, watch}, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    task.result()
                pending.discard(watch)
        finally:
            for task in (watch, *workers):
                task.cancel()
            await asyncio.gather(watch, *workers, return_exceptions=True)

    async def _work(self, queue: Iterator[_Part]) -> None:
        for part in queue:
            await self._one(part)

    async def _watch(self) -> None:
        """A store that sends a byte a second holds a replica for ever without ever being silent."""
        while True:
            before = self.received
            await asyncio.sleep(self._limits.window)
            if self.received - before < self._limits.bytes_per_second * self._limits.window:
                raise SourceUnavailable(
                    f"{self.received - before} bytes arrived in {self._limits.window:g} s; "
                    f"expected {self._limits.bytes_per_second} bytes a second at least"
                )

    async def _one(self, part: _Part) -> None:
        remote, cursor = self._objects[part.index], _Cursor(part.start)
        descriptor = os.open(self._file(part.index), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            async for attempt in make_retrying(self._limits):
                with attempt:
                    if not remote.in_parts:
                        cursor.offset = 0
                        os.ftruncate(descriptor, 0)
                    await self._read(remote, descriptor, cursor, part.end)
            await asyncio.to_thread(os.fdatasync, descriptor)
        finally:
            os.close(descriptor)
        if remote.in_parts:
            self._journal.add(part.index, part.number)

    async def _read(self, remote: RemoteObject, descriptor: int, cursor: "_Cursor", end: int | None) -> None:
        """From the cursor on; it says how far this came, also where it raises."""
        if cursor.offset == end:
            return
        most = self._limits.model_bytes - self._known if end is None else end
        async with aclosing(remote.read(cursor.offset, end)) as chunks:
            async for chunk in chunks:
                self.received += len(chunk)
                if cursor.offset + len(chunk) > most:
                    raise _too_much(remote, end, self._limits)
                _write_at(descriptor, chunk, cursor.offset)
                cursor.offset += len(chunk)
        if end is not None and cursor.offset < end:
            raise TransientSourceError(f"{remote.path}: the store's answer ended {end - cursor.offset} bytes too early")


@dataclass(slots=True)
class _Cursor:
    """Where the next byte goes."""

    offset: int


def check_object_paths(objects: Sequence[RemoteObject]) -> None:
    """Raises SourceRefused where two objects cannot both be files of one tree."""
    seen: set[str] = set()
    for path in sorted(remote.path for remote in objects):
        above = (str(parent) for parent in PurePosixPath(path).parents)
        if not path or path in seen or any(parent in seen for parent in above):
            raise SourceRefused(f"the store holds {path!r} twice, or as a file and as a directory")
        seen.add(path)


def check_total_size(objects: Sequence[RemoteObject], limits: DownloadLimits) -> None:
    """Raises ModelTooLarge before the first byte, as far as sizes are known."""
    if len(objects) > MAX_FILES:
        raise ModelTooLarge(f"the model has more than {MAX_FILES} files")
    total = sum(remote.size or 0 for remote in objects)
    if total > limits.model_bytes:
        raise ModelTooLarge(f"the model has {total} bytes; SUNDOG_MODEL_MAX_BYTES allows {limits.model_bytes}")


def check_disk_space(directory: Path, needed: int) -> None:
    """Raises NoSpace."""
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if needed > free:
        raise NoSpace(f"the model needs {needed} bytes more and the disk of the cache has {free}")


def _too_much(remote: RemoteObject, end: int | None, limits: DownloadLimits) -> StartError:
    if end is None:
        return ModelTooLarge(
            f"{remote.path}: more than the {limits.model_bytes} bytes of SUNDOG_MODEL_MAX_BYTES were sent"
        )
    return ObjectChanged(f"{remote.path}: the store sent more bytes than it told")


def _length(part: _Part) -> int:
    return 0 if part.end is None else part.end - part.start


def _write_at(descriptor: int, chunk: bytes, offset: int) -> None:
    view = memoryview(chunk)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
