"""The files of a model: facts about each, their digest, and whether they changed later."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sundog_runtime.errors import (
    AccessDenied,
    DigestMismatch,
    LoadFailed,
    ModelNotFound,
    ModelTooLarge,
    NoSpace,
    StartError,
)

MAX_FILES = 10_000
MAX_DEPTH = 32
MAX_SOURCE_BYTES = 16 * 1024 * 1024
"""A larger Python file is not kept in memory, so it cannot be imported."""

CHUNK_BYTES = 1024 * 1024
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR})
_NO_ACCESS = frozenset({errno.EACCES, errno.EPERM})
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Facts that change whenever a file's content changes. An unprivileged process cannot set `changed_ns` back."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One regular file. `path` is relative to the model, with '/' between segments; `size` is in bytes."""

    path: str
    size: int
    sha256: str
    stamp: FileStamp
    source: bytes | None
    """The hashed content of a Python file, so that exactly the verified code runs."""


def make_os_start_error(error: OSError, path: object) -> StartError:
    """Return the start error for an error of the operating system."""
    detail = f"{path}: {os.strerror(error.errno) if error.errno else error}"
    if error.errno in _NOT_THERE:
        return ModelNotFound(detail)
    if error.errno in _NO_ACCESS:
        return AccessDenied(detail)
    if error.errno in _NO_SPACE:
        return NoSpace(detail)
    return LoadFailed(detail)


def tree_digest(entries: Iterable[FileEntry]) -> str:
    """Return `sha256:` and the hash of canonical JSON of [path, size, sha256] rows in the order of their paths.

    Two trees with equal digests hold the same files, so they load identically.
    """
    rows = [[entry.path, entry.size, entry.sha256] for entry in sorted(entries, key=lambda entry: entry.path)]
    body = json.dumps(rows, separators=(",", ":"), ensure_ascii=True).encode()
    return "sha256:" + hashlib.sha256(body).hexdigest()


def read_tree(root: Path) -> tuple[FileEntry, ...]:
    """Hash every file below `root`, a directory. Raises DigestMismatch for anything except regular files and directories."""
    entries = []
    try:
        for directory, directories, names in _walk(root):
            for name in [*directories, *names]:
                path = directory / name
                relative = path.relative_to(root).as_posix()
                mode = path.lstat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise DigestMismatch(
                        f"{relative} is {_kind(mode)}; expected only regular files in a model with a digest"
                    )
                if stat.S_ISREG(mode):
                    entries.append(read_entry(path, relative))
                if len(entries) > MAX_FILES:
                    raise ModelTooLarge(f"{root} holds more than {MAX_FILES} files")
    except OSError as error:
        raise make_os_start_error(error, error.filename or root) from None
    return tuple(sorted(entries, key=lambda entry: entry.path))


def read_entry(path: Path, relative: str) -> FileEntry:
    """Hash one file through one descriptor. Raises OSError, also when `path` is a symbolic link."""
    keep = relative.endswith(".py")
    hasher, kept, size = hashlib.sha256(), bytearray(), 0
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        while block := file.read(CHUNK_BYTES):
            hasher.update(block)
            size += len(block)
            if keep and size <= MAX_SOURCE_BYTES:
                kept += block
        after = os.fstat(file.fileno())
    if _stamp(before) != _stamp(after):
        raise DigestMismatch(f"{relative} changed while it was read")
    source = bytes(kept) if keep and size <= MAX_SOURCE_BYTES else None
    return FileEntry(relative, size, hasher.hexdigest(), _stamp(after), source)


def path_digest(path: Path) -> tuple[str, tuple[FileEntry, ...]]:
    """Return the digest of a model's directory or file, and its entries. Raises OSError and a StartError."""
    if path.is_dir():
        entries = read_tree(path)
        return tree_digest(entries), entries
    entry = read_entry(path, path.name)
    return f"sha256:{entry.sha256}", (entry,)


def find_changed_file(root: Path, entries: Iterable[FileEntry]) -> str:
    """Return the relative path of the first file that changed since it was hashed; empty if there is none."""
    for entry in entries:
        try:
            now = _stamp((root / entry.path).lstat())
        except OSError:
            return entry.path
        if now != entry.stamp:
            return entry.path
    return ""


def iterate_paths(directory: Path) -> Iterator[Path]:
    """Yield everything below a directory. Unlike `rglob`, skip parts that other processes remove meanwhile."""
    for folder, directories, names in os.walk(directory):
        yield from (Path(folder, name) for name in (*directories, *names))


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    def fail(error: OSError) -> None:
        raise error

    for directory, directories, names in os.walk(root, followlinks=False, onerror=fail):
        here = Path(directory)
        if len(here.relative_to(root).parts) >= MAX_DEPTH:
            raise ModelTooLarge(f"{root} holds directories deeper than {MAX_DEPTH}")
        directories.sort()
        yield here, directories, sorted(names)


def _stamp(found: os.stat_result) -> FileStamp:
    return FileStamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a named pipe" if stat.S_ISFIFO(mode) else "a special file"
