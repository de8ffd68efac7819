"""The cache of downloaded models on this node, for all replicas that use them.

    <root>/models/<namespace>/entries/<key>/model/…      what is loaded; read-only
                                           /entry.json   what was verified
                              partial/<key>/…            being made
                              locks/<key>                held exclusively to make or remove, shared to use

Each namespace has its own directory: no namespace can see whether another one has a model, or place something for
another one to find. An entry appears by one rename, complete and verified. Locks are `flock`s, so they end with their
process, however it ends. A network file system without them is not suitable for the cache.
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
    """Facts about an entry: its tree's digest when it was made, the name of its one file or '', and its bytes."""

    tree: str
    file_name: str
    size: int


class CacheLease:
    """A shared or exclusive lock of an entry, until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ModelCache:
    """One namespace's part of a node's cache."""

    def __init__(self, root: Path, namespace: str) -> None:
        if not _NAMESPACE.fullmatch(namespace) or len(namespace) > 253:
            raise LoadFailed(
                f"namespace {namespace!r}: expected a name of lower-case letters, digits, inner dashes and dots"
            )
        self._all = root / "models"
        self._home = self._all / namespace
        try:
            for name in ("entries", "partial", "locks"):
                (self._home / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise make_os_start_error(error, f"the cache {self._home}") from None

    def entry(self, key: str) -> Path:
        """Return the path of the entry, which may not exist."""
        return self._home / "entries" / key

    def partial(self, key: str) -> Path:
        """Return the path where the entry is made. Only the holder of the exclusive lease may touch it."""
        return self._home / "partial" / key

    def acquire_shared(self, key: str) -> CacheLease | None:
        """Return a lease on an existing entry; None if it does not exist, or is being made or removed."""
        if not self.entry(key).is_dir():
            return None
        lease = self._lease(key, fcntl.LOCK_SH)
        # Between the check and the lock another process may have removed the entry, and may be about to make it again.
        if lease is not None and not self.entry(key).is_dir():
            lease.release()
            return None
        return lease

    def acquire_exclusive(self, key: str) -> CacheLease | None:
        """Return a lease to make or remove the entry; None while any other lease on it exists."""
        return self._lease(key, fcntl.LOCK_EX)

    def _lease(self, key: str, kind: int) -> CacheLease | None:
        descriptor = _open_lock(self._home / "locks" / key)
        if not _try_lock(descriptor, kind):
            os.close(descriptor)
            return None
        with contextlib.suppress(OSError):
            os.utime(descriptor)
        return CacheLease(descriptor)

    def read_facts(self, key: str) -> CacheEntryFacts | None:
        """Return the facts of an entry; None if they cannot be read, which makes the entry unusable."""
        try:
            found = json.loads((self.entry(key) / ENTRY_FILE).read_bytes())
            return CacheEntryFacts(str(found["tree"]), str(found["only"]), int(found["size"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def publish(self, key: str, facts: CacheEntryFacts) -> None:
        """Turn `partial(key)/model` into the entry, atomically. Needs the exclusive lease."""
        partial, entry = self.partial(key), self.entry(key)
        for path in partial.iterdir():
            if path.name != MODEL_DIRECTORY:
                remove_path(path)
        document = {"tree": facts.tree, "only": facts.file_name, "size": facts.size}
        with (partial / ENTRY_FILE).open("w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        for directory in (
            *(path for path in (partial / MODEL_DIRECTORY).rglob("*") if path.is_dir()),
            partial / MODEL_DIRECTORY,
            partial,
        ):
            sync_path(directory)
        remove_path(entry)
        partial.rename(entry)
        sync_path(entry.parent)

    def discard(self, key: str) -> None:
        """Remove the entry and its partial files. Needs the exclusive lease."""
        remove_path(self.partial(key))
        self._remove_entry(self._home, key)

    def free_space(self, needed: int, budget: int) -> None:
        """Remove the least recently used entries until `needed` bytes fit into the budget and onto the disk.

        Entries in use stay, so this may not be enough. Entries of all namespaces count, because they share the disk.
        """
        present = sorted(self._entries())
        total = sum(size for _, _, _, size in present)
        for _, home, key, size in present:
            found = os.statvfs(self._home)
            if total + needed <= budget and needed <= found.f_bavail * found.f_frsize:
                return
            if self._evict(home, key):
                total -= size

    def _entries(self) -> Iterator[tuple[int, Path, str, int]]:
        """Yield last use, namespace's directory, key and bytes of every entry, complete or partial."""
        for home in _list_directory(self._all):
            for lock in _list_directory(home / "locks"):
                size = sum(_bytes_below(home / part / lock.name) for part in ("entries", "partial"))
                if size:
                    with contextlib.suppress(OSError):
                        yield lock.stat().st_mtime_ns, home, lock.name, size

    def _evict(self, home: Path, key: str) -> bool:
        try:
            descriptor = _open_lock(home / "locks" / key)
        except StartError:
            # The namespace is gone, or this process may not read it. Either way the model that needs space can go on.
            return False
        try:
            if not _try_lock(descriptor, fcntl.LOCK_EX):
                return False
            self._remove_entry(home, key)
            remove_path(home / "partial" / key)
            return True
        finally:
            os.close(descriptor)

    def _remove_entry(self, home: Path, key: str) -> None:
        """Remove an entry, by a rename first: a crash during the removal must not leave half an entry in its place."""
        entry, removed = home / "entries" / key, home / "partial" / key / "removed"
        if not entry.exists():
            return
        remove_path(home / "partial" / key)
        removed.parent.mkdir(parents=True)
        entry.rename(removed)
        remove_path(home / "partial" / key)


def cache_root() -> Path:
    """Return SUNDOG_CACHE_DIR, or by default `~/.cache/sundog`."""
    given = os.environ.get(CACHE_DIR_VARIABLE, "")
    return Path(given) if given else Path.home() / ".cache" / "sundog"


def make_read_only(root: Path) -> None:
    """Remove every write permission. This comes before the hashing, because it changes a file's stamp."""
    for path in sorted(root.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root.chmod(0o555)


def remove_path(path: Path) -> None:
    """Remove a file or directory, even if it is read-only; do nothing if it does not exist. Raises OSError."""
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
        # Entries of a read-only cache can still be used.
        if error.errno == errno.EROFS and path.exists():
            return os.open(path, os.O_RDONLY | flags)
        raise make_os_start_error(error, f"the cache's {path}") from None


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _list_directory(directory: Path) -> list[Path]:
    """Return the content of a directory; nothing if it cannot be listed, because it may be gone."""
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _bytes_below(directory: Path) -> int:
    """Return the bytes on the disk, which differ from the size of a sparse file."""
    total = 0
    for path in iterate_paths(directory):
        with contextlib.suppress(OSError):
            total += path.lstat().st_blocks * 512
    return total


def sync_path(path: Path) -> None:
    """Write a file or directory to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
