"""Download bytes from a store to the disk: in parts, several at a time, resumed after a crash.

A journal beside the files lists the parts that are on the disk. A part is added after its bytes were synced, so that a
part in the journal is never a hole in the file.
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

FreeSpace = Callable[[int], None]
"""Frees that many bytes if possible."""


@dataclass(slots=True)
class _Part:
    """Bytes up to before `end` of the object with that index; `end` is None if the size is unknown.

    `offset` is that of the next byte, first that of the part.
    """

    index: int
    number: int
    offset: int
    end: int | None


class DownloadJournal:
    """The parts of one listing that are on the disk. Lines of JSON; an incomplete last line is ignored."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        self._identity = identity

    def read(self) -> set[tuple[int, int]]:
        """Return the parts on the disk; none if the journal is of another model."""
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
        """Start an empty journal."""
        self._path.write_text(f"{self._identity}\n")

    def add(self, index: int, number: int) -> None:
        """Add a part. Its bytes must be synced before; the line need not be, because its loss costs only a download of the part."""
        with self._path.open("a") as file:
            file.write(f"[{index},{number}]\n")


class Transfer:
    """The download of one listing into one directory. `received` counts all received bytes, including retries."""

    def __init__(self, listing: ModelListing, directory: Path, limits: DownloadLimits) -> None:
        self._objects = listing.objects
        self._identity = f"{listing.identity}/{limits.part_bytes}" if listing.identity else ""
        self._known = listing.size
        self._directory = directory
        self._limits = limits
        self._journal = DownloadJournal(directory / JOURNAL_FILE, self._identity)
        self.received = 0

    async def run(self, free_space: FreeSpace) -> None:
        """Download all missing parts. Received parts stay on the disk for the next run. Raises a StartError."""
        check_object_paths(self._objects)
        check_total_size(self._objects, self._limits)
        done = self._journal.read()
        # If a process died while it moved complete files to their place, they are no longer where the journal expects them.
        if not done or not all(self._file(index).is_file() for index, _ in done if index < len(self._objects)):
            done = set()
            remove_path(self._directory / DOWNLOAD_DIRECTORY)
            self._directory.mkdir(parents=True, exist_ok=True)
            self._journal.begin()
        parts = list(self._parts())
        missing = [part for part in parts if (part.index, part.number) not in done]
        self._make_files()
        needed = sum(_length(part) for part in missing)
        free_space(needed)
        check_disk_space(self._directory, needed)
        try:
            async with asyncio.timeout(self._limits.total_s):
                await self._download_parts(missing)
        except TimeoutError:
            raise SourceUnavailable(f"the model did not arrive within {self._limits.total_s:g} s") from None

    def _parts(self) -> Iterator[_Part]:
        step = self._limits.part_bytes
        for index, remote in enumerate(self._objects):
            if remote.size is None or not remote.is_resumable:
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

    async def _download_parts(self, parts: list[_Part]) -> None:
        queue = iter(parts)
        watch = asyncio.create_task(self._check_rate())
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
            await self._download_part(part)

    async def _check_rate(self) -> None:
        """Fail if the store is too slow: one byte per second would block a replica for ever without a timeout."""
        while True:
            before = self.received
            await asyncio.sleep(self._limits.window_s)
            if self.received - before < self._limits.bytes_per_second * self._limits.window_s:
                raise SourceUnavailable(
                    f"{self.received - before} bytes arrived in {self._limits.window_s:g} s; "
                    f"expected at least {self._limits.bytes_per_second} bytes per second"
                )

    async def _download_part(self, part: _Part) -> None:
        remote = self._objects[part.index]
        descriptor = os.open(self._file(part.index), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            async for attempt in make_retrying(self._limits):
                with attempt:
                    if not remote.is_resumable:
                        part.offset = 0
                        os.ftruncate(descriptor, 0)
                    await self._read(remote, descriptor, part)
            await asyncio.to_thread(os.fdatasync, descriptor)
        finally:
            os.close(descriptor)
        if remote.is_resumable:
            self._journal.add(part.index, part.number)

    async def _read(self, remote: RemoteObject, descriptor: int, part: _Part) -> None:
        """Read the rest of a part. Its offset moves with each written byte, even if an error follows."""
        end = part.end
        if part.offset == end:
            return
        limit = self._limits.model_bytes - self._known if end is None else end
        async with aclosing(remote.read(part.offset, end)) as chunks:
            async for chunk in chunks:
                self.received += len(chunk)
                if part.offset + len(chunk) > limit:
                    raise _too_many_bytes(remote, end, self._limits)
                _write_at(descriptor, chunk, part.offset)
                part.offset += len(chunk)
        if end is not None and part.offset < end:
            raise TransientSourceError(f"{remote.path}: the store's answer ended {end - part.offset} bytes too early")


def check_object_paths(objects: Sequence[RemoteObject]) -> None:
    """Check that all objects can be files of one tree. Raises SourceRefused."""
    paths: set[str] = set()
    for path in sorted(remote.path for remote in objects):
        above = (str(parent) for parent in PurePosixPath(path).parents)
        if not path or path in paths or any(parent in paths for parent in above):
            raise SourceRefused(f"the store holds {path!r} twice, or as a file and as a directory")
        paths.add(path)


def check_total_size(objects: Sequence[RemoteObject], limits: DownloadLimits) -> None:
    """Check sizes, as far as they are known, before the first byte. Raises ModelTooLarge."""
    if len(objects) > MAX_FILES:
        raise ModelTooLarge(f"the model has more than {MAX_FILES} files")
    total = sum(remote.size or 0 for remote in objects)
    if total > limits.model_bytes:
        raise ModelTooLarge(
            f"the model has {total} bytes; expected at most {limits.model_bytes} (SUNDOG_MODEL_MAX_BYTES)"
        )


def check_disk_space(directory: Path, needed: int) -> None:
    """Check the free space of the disk. Raises NoSpace."""
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if needed > free:
        raise NoSpace(f"the disk of the cache has {free} bytes free; expected {needed} for the model")


def _too_many_bytes(remote: RemoteObject, end: int | None, limits: DownloadLimits) -> StartError:
    if end is None:
        return ModelTooLarge(
            f"{remote.path}: the store sent more than {limits.model_bytes} bytes, the limit of SUNDOG_MODEL_MAX_BYTES"
        )
    return ObjectChanged(f"{remote.path}: the store sent more bytes than it had announced")


def _length(part: _Part) -> int:
    return 0 if part.end is None else part.end - part.offset


def _write_at(descriptor: int, chunk: bytes, offset: int) -> None:
    view = memoryview(chunk)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
