"""Unpack untrusted archives so that only plain files appear, and none outside of the target directory.

This module checks and writes the members one by one. The filters of `tarfile` can be bypassed in some Python versions that
are in use, and `extractall` trusts what members declare.
"""

import gzip
import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from sundog_runtime.errors import LoadFailed, ModelTooLarge, SourceRefused
from sundog_runtime.sources.file_digests import CHUNK_BYTES, MAX_DEPTH, MAX_FILES

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_EXPANSION_RATIO = 200
"""Most bytes that one byte of an archive may become. Weights compress by a factor of less than 2, text of less than 20."""
UNLIMITED_RATIO_BYTES = 64 * 1024 * 1024
"""Up to this total size, the expansion ratio is not checked."""

_MAX_READ_BYTES = 16 * 1024 * 1024
_GZIP = b"\x1f\x8b"
_ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    # Raised for long chains of headers that refer to the next header.
    RecursionError,
    ValueError,
)


def is_archive(name: str) -> bool:
    """Return whether a file is to be unpacked. Only its name decides: a `.pt2` file is a zip file too, but is not unpacked."""
    return name.endswith(ARCHIVE_SUFFIXES)


def unpack(archive: Path, into: Path, max_bytes: int) -> int:
    """Write the members below the directory `into`, and return their total size in bytes.

    Raises SourceRefused for a member that is not a plain file or would be outside of `into`, ModelTooLarge for more than
    `max_bytes` or too high an expansion ratio, LoadFailed for an invalid archive, OSError for errors of the disk.
    """
    allowed = min(max_bytes, max(UNLIMITED_RATIO_BYTES, MAX_EXPANSION_RATIO * archive.stat().st_size))
    try:
        unpack_members = _unpack_zip if archive.name.endswith(".zip") else _unpack_tar
        return unpack_members(archive, into, allowed)
    except _ARCHIVE_ERRORS as error:
        raise LoadFailed(f"{archive.name} is not a usable archive: {type(error).__name__}: {error}") from None


def check_member_name(name: str, archive: str) -> str:
    """Return the name as segments joined by '/', none of them empty, '.' or '..'. Raises SourceRefused or ModelTooLarge."""
    shown = f"{archive} holds {name[:100]!r}"
    if any(ord(char) < 0x20 or ord(char) == 0x7F or char == "\\" for char in name):
        raise SourceRefused(f"{shown}: control characters and backslashes are refused")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SourceRefused(f"{shown}: its name is not UTF-8") from None
    segments = [segment for segment in name.split("/") if segment != "."]
    if segments and not segments[-1]:
        segments.pop()
    if any(segment in ("", "..") for segment in segments):
        raise SourceRefused(f"{shown}: absolute names, empty segments and '..' are refused")
    if any(segment.startswith(".wh.") for segment in segments):
        raise SourceRefused(
            f"{shown}: names that begin with .wh. are refused, because in image layers they delete files"
        )
    if len(segments) > MAX_DEPTH:
        raise ModelTooLarge(f"{shown}: deeper than {MAX_DEPTH} directories")
    return "/".join(segments)


class _Writer:
    """A writer of plain files below one directory, with limits. `written` is in bytes."""

    def __init__(self, archive: Path, into: Path, allowed: int) -> None:
        self._archive = archive.name
        self._into = into
        self._allowed = allowed
        self._members = 0
        self.written = 0

    def directory(self, name: str) -> None:
        """Create a directory. Raises SourceRefused if a file of that name exists."""
        self._count_member()
        self._make_directory(self._into / check_member_name(name, self._archive))

    def file(self, name: str, content: IO[bytes]) -> None:
        """Write a file. Raises SourceRefused if the name exists: with two members of one name, it is unclear which one counts."""
        self._count_member()
        plain = check_member_name(name, self._archive)
        if not plain:
            raise SourceRefused(f"{self._archive} holds a file without a name")
        path = self._into / plain
        self._make_directory(path.parent)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except (FileExistsError, IsADirectoryError):
            raise SourceRefused(f"{self._archive} holds {plain!r} twice") from None
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            while block := content.read(CHUNK_BYTES):
                self._count_bytes(len(block))
                write_all(file.fileno(), block)

    def _count_bytes(self, count: int) -> None:
        self.written += count
        if self.written > self._allowed:
            raise _expands_too_far(self._archive)

    def _count_member(self) -> None:
        self._members += 1
        if self._members > MAX_FILES:
            raise ModelTooLarge(f"{self._archive} holds more than {MAX_FILES} members")

    def _make_directory(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise SourceRefused(f"{self._archive} holds a file and a directory with the same name") from None


class _BoundedReader(io.RawIOBase):
    """A file that refuses huge reads, because the author of the archive chose the size of each header."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        super().__init__()
        self._file = file
        self._name = name

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size if 0 <= size <= _MAX_READ_BYTES else _MAX_READ_BYTES + 1)
        if len(found) > _MAX_READ_BYTES:
            raise SourceRefused(f"{self._name} has a header of more than {_MAX_READ_BYTES} bytes")
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def write_all(descriptor: int, block: bytes) -> None:
    """Write all bytes of a block. Raises OSError, for example ENOSPC."""
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


def _unpack_tar(archive: Path, into: Path, allowed: int) -> int:
    with archive.open("rb") as file:
        compressed = file.read(2) == _GZIP
    plain = _decompress(archive, allowed) if compressed else archive
    try:
        writer = _Writer(archive, into, allowed)
        with plain.open("rb") as file, _open_tar(file, archive.name) as tar:
            for member in tar:
                _write_tar_member(tar, member, writer, archive.name)
            _require_end(file, tar.offset)
        return writer.written
    finally:
        if compressed:
            plain.unlink()


def _open_tar(file: IO[bytes], name: str) -> AbstractContextManager[tarfile.TarFile]:
    bounded: Any = _BoundedReader(file, name)
    return tarfile.open(fileobj=bounded, mode="r:", errorlevel=1)


def _require_end(file: IO[bytes], offset: int) -> None:
    """Check that the archive ends after its last member. Raises tarfile.ReadError.

    `tarfile` treats any unreadable data as the end, so it would silently find fewer members in a truncated or damaged file.
    """
    file.seek(offset)
    length = 0
    while block := file.read(CHUNK_BYTES):
        if block.count(0) != len(block):
            raise tarfile.ReadError(f"byte {offset}: neither a member nor the end; the archive is damaged")
        length += len(block)
    if length < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"byte {offset}: no member and no end; the archive is truncated")


def _write_tar_member(tar: tarfile.TarFile, member: tarfile.TarInfo, writer: _Writer, archive: str) -> None:
    if member.isdir():
        writer.directory(member.name)
    elif member.isreg() and not member.issparse():
        content = tar.extractfile(member)
        assert content is not None
        writer.file(member.name, content)
    else:
        raise SourceRefused(f"{archive} holds {member.name[:100]!r}, {_tar_kind(member)}; expected only plain files")


def _decompress(archive: Path, allowed: int) -> Path:
    """Decompress into a plain tar file beside the archive. To seek in a compressed one decompresses everything before the position."""
    plain = archive.with_name(f"{archive.name}.plain")
    # Besides their content, members have headers and padding.
    left = allowed + MAX_FILES * 4096
    with gzip.open(archive, "rb") as source, plain.open("wb", buffering=0) as target:
        while block := source.read(CHUNK_BYTES):
            left -= len(block)
            if left < 0:
                plain.unlink()
                raise _expands_too_far(archive.name)
            write_all(target.fileno(), block)
    return plain


def _expands_too_far(archive: str) -> ModelTooLarge:
    limits = f"more than the size limit, or to more than {MAX_EXPANSION_RATIO} times its size"
    return ModelTooLarge(f"{archive} unpacks to {limits}")


def _unpack_zip(archive: Path, into: Path, allowed: int) -> int:
    writer = _Writer(archive, into, allowed)
    with archive.open("rb") as file:
        bounded: Any = _BoundedReader(file, archive.name)
        with zipfile.ZipFile(bounded) as packed:
            for member in _zip_members(packed, archive.name):
                if member.is_dir():
                    writer.directory(member.filename)
                else:
                    with packed.open(member) as content:
                        writer.file(member.filename, content)
    return writer.written


def _zip_members(packed: zipfile.ZipFile, archive: str) -> Iterator[zipfile.ZipInfo]:
    for member in packed.infolist():
        if not member.filename:
            raise SourceRefused(f"{archive} holds a file without a name")
        mode = member.external_attr >> 16
        kind = stat.S_IFMT(mode)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise SourceRefused(
                f"{archive} holds {member.filename[:100]!r}, a link or device; expected only plain files"
            )
        if member.flag_bits & 1:
            raise SourceRefused(f"{archive} holds {member.filename[:100]!r}, which is encrypted; expected plain files")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SourceRefused(
                f"{archive} holds {member.filename[:100]!r} in an unknown compression; expected deflate or none"
            )
        yield member


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.issym():
        return "a symbolic link"
    if member.islnk():
        return "a hard link"
    return "a sparse file" if member.issparse() else "a device or pipe"
