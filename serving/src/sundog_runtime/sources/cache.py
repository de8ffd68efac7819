"""Models that were downloaded, kept on this node for every replica that wants them.

    <root>/models/<namespace>/entries/<key>/model/…      what is loaded; read-only
                                           /entry.json   what was verified
                              partial/<key>/…            on its way
                              locks/<key>                held exclusively to make or remove, shared to use

A namespace has a directory of its own: whether another one has a model is nobody's business, and nobody can put
something there for another one to find. An entry appears by one rename, whole and verified. Locks are `flock`s, so they
go with their process however it ends; a network file system that has none of them is no place for a cache.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sundog_runtime.errors import LoadFailed, StartError
from sundog_runtime.sources.file_digests import iterate_paths, make_os_start_error

MODEL_DIRECTORY = "model"
ENTRY_FILE = "entry.json"
CACHE_DIR_VARIABLE = "SUNDOG_CACHE_DIR"

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class CacheEntryFacts:
    """What is known of an entry: its tree's digest when it was made, its one file's name or '', and its bytes."""

    tree: str
    only: str
    size: int


class CacheLease:
    """The right to an entry, or to make it, until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """A second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ModelCache:
    """One namespace's part of a node's cache."""

    def __init__(self, root: Path, namespace: str) -> None:
        if not _NAMESPACE.fullmatch(namespace) or len(namespace) > 253:
            raise LoadFailed(
                f"the namespace {namespace!r} is no name of lower-case letters, digits, inner dashes and dots"
            )
        self._all = root / "models"
        self._home = self._all / namespace
        try:
            for name in ("entries", "partial", "locks"):
                (self._home / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise make_os_start_error(error, f"the cache {self._home}") from None

    def entry(self, key: str) -> Path:
        """Where the entry is, or would be."""
        return self._home / "entries" / key

    def partial(self, key: str) -> Path:
        """Where it is made. Only who holds it exclusively may touch it."""
        return self._home / "partial" / key

    def shared(self, key: str) -> CacheLease | None:
        """A lease on an entry that is there; None if it is not, or is being made or removed."""
        if not self.entry(key).is_dir():
            return None
        lease = self._lease(key, fcntl.LOCK_SH)
        # Between the look and the lock it may have been removed, and somebody may be about to make it anew.
        if lease is not None and not self.entry(key).is_dir():
            lease.release()
            return None
        return lease

    def acquire_exclusive(self, key: str) -> CacheLease | None:
        """The right to make or remove the entry; None while anybody else has it, or uses the entry."""
        return self._lease(key, fcntl.LOCK_EX)

    def _lease(self, key: str, kind: int) -> CacheLease | None:
        descriptor = _open_lock(self._home / "locks" / key)
        if not _try(descriptor, kind):
            os.close(descriptor)
            return None
        with contextlib.suppress(OSError):
            os.utime(descriptor)
        return CacheLease(descriptor)

    def facts(self, key: str) -> CacheEntryFacts | None:
        """None where they cannot be read: then the entry is worth nothing."""
        try:
            found = json.loads((self.entry(key) / ENTRY_FILE).read_bytes())
            return CacheEntryFacts(str(found["tree"]), str(found["only"]), int(found["size"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def publish(self, key: str, facts: CacheEntryFacts) -> None:
        """Make `partial(key)/model` the entry, all at once. Needs the exclusive lease."""
        partial, entry = self.partial(key), self.entry(key)
        for path in partial.iterdir():
            if path.name != MODEL_DIRECTORY:
                remove_path(path)
        document = {"tree": facts.tree, "only": facts.only, "size": facts.size}
        with (partial / ENTRY_FILE).open("w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        for directory in (
            *(path for path in (partial / MODEL_DIRECTORY).rglob("*") if path.is_dir()),
            partial / MODEL_DIRECTORY,
            partial,
        ):
            _sync(directory)
        remove_path(entry)
        partial.rename(entry)
        _sync(entry.parent)

    def discard(self, key: str) -> None:
        """Remove the entry and what was begun. Needs the exclusive lease."""
        remove_path(self.partial(key))
        self._remove_entry(self._home, key)

    def make_room(self, needed: int, budget: int) -> None:
        """Remove what was used least recently until `needed` bytes fit into the budget and onto the disk.

        What is in use stays, so it may not suffice. Entries of all namespaces count: the disk is one.
        """
        held = sorted(self._held())
        total = sum(size for _, _, _, size in held)
        for _, home, key, size in held:
            found = os.statvfs(self._home)
            if total + needed <= budget and needed <= found.f_bavail * found.f_frsize:
                return
            if self._evict(home, key):
                total -= size

    def _held(self) -> Iterator[tuple[int, Path, str, int]]:
        """Last use, namespace's directory, key and bytes of everything that is kept or was begun."""
        for home in _inside(self._all):
            for lock in _inside(home / "locks"):
                size = sum(_bytes_below(home / part / lock.name) for part in ("entries", "partial"))
                if size:
                    with contextlib.suppress(OSError):
                        yield lock.stat().st_mtime_ns, home, lock.name, size

    def _evict(self, home: Path, key: str) -> bool:
        try:
            descriptor = _open_lock(home / "locks" / key)
        except StartError:
            # Of a namespace that is gone by now, or is not ours to look into: no matter of the model that needs room.
            return False
        try:
            if not _try(descriptor, fcntl.LOCK_EX):
                return False
            self._remove_entry(home, key)
            remove_path(home / "partial" / key)
            return True
        finally:
            os.close(descriptor)

    def _remove_entry(self, home: Path, key: str) -> None:
        """By a rename first: a crash while files go one by one must not leave half an entry where a whole one was."""
        entry, grave = home / "entries" / key, home / "partial" / key / "removed"
        if not entry.exists():
            return
        remove_path(home / "partial" / key)
        grave.parent.mkdir(parents=True)
        entry.rename(grave)
        remove_path(home / "partial" / key)


def cache_root() -> Path:
    """SUNDOG_CACHE_DIR, else `~/.cache/sundog`."""
    given = os.environ.get(CACHE_DIR_VARIABLE, "")
    return Path(given) if given else Path.home() / ".cache" / "sundog"


def make_read_only(root: Path) -> None:
    """Take away every right to write: before the hashing, for a change of rights changes a file's stamp."""
    for path in sorted(root.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root.chmod(0o555)


def remove_path(path: Path) -> None:
    """Whatever it is, read-only or not there. Raises OSError."""
    if not path.is_symlink() and path.is_dir():
        for directory in (path, *(inner for inner in path.rglob("*") if inner.is_dir() and not inner.is_symlink())):
            directory.chmod(0o700)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_lock(path: Path) -> int:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)
    except OSError as error:
        # What was put into a read-only cache can be used all the same.
        if error.errno == errno.EROFS and path.exists():
            return os.open(path, os.O_RDONLY | flags)
        raise make_os_start_error(error, f"the cache's {path}") from None


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _inside(directory: Path) -> list[Path]:
    """What is in a directory; nothing where it cannot be listed, for it may be gone."""
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _bytes_below(directory: Path) -> int:
    """Bytes that the disk gave, not those that a sparse file claims."""
    total = 0
    for path in iterate_paths(directory):
        with contextlib.suppress(OSError):
            total += path.lstat().st_blocks * 512
    return total


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
