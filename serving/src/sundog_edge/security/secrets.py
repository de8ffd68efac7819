"""Secrets of services, read again when they change: files mounted by the kubelet, or one file with all Secrets."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson

from sundog_edge.state_dir import read_json

MAX_FILE_BYTES = 1 << 20
MAX_FILES = 10_000
_MAX_RETRIES = 3

_Stamp = tuple[tuple[str, int, int, int], ...]


class Secrets(Protocol):
    """A source of Secrets."""

    def read(self, names: Iterable[str]) -> dict[str, Mapping[str, bytes]]:
        """Return the content of each Secret of `names`, by key. A missing Secret has no keys; unreadable content counts as missing."""


class ComposedSecrets:
    """The `data` of the one Secret into which the operator composes the named Secrets: name → base64 of {key: base64}."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read: tuple[tuple[int, int], Mapping[str, Any]] = ((0, 0), {})

    def read(self, names: Iterable[str]) -> dict[str, Mapping[str, bytes]]:
        """Implement `Secrets`."""
        try:
            status = self._file.stat()
        except OSError:
            return {name: {} for name in names}
        # The file is replaced, never rewritten. So a read gives all Secrets of one version.
        stamp = (status.st_ino, status.st_mtime_ns)
        if stamp != self._read[0]:
            stored = read_json(self._file)
            self._read = (stamp, stored if isinstance(stored, dict) else {})
        return {name: _decode(self._read[1].get(name)) for name in names}


def _decode(encoded: Any) -> Mapping[str, bytes]:
    try:
        keys = orjson.loads(base64.b64decode(encoded or "", validate=True) or b"{}")
        return {key: base64.b64decode(text, validate=True) for key, text in keys.items()}
    except (binascii.Error, ValueError, TypeError, AttributeError):
        return {}


class SecretsDir:
    """The Secrets in `root`, as `<root>/<secret>/<key>`; without a root, none."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._read: dict[str, tuple[_Stamp, dict[str, bytes]]] = {}

    def read(self, names: Iterable[str]) -> dict[str, Mapping[str, bytes]]:
        """Return the files of each Secret of `names`, by file name. A missing Secret has none; an unreadable file counts as missing."""
        self._read = {name: self._read_secret(name) for name in sorted(set(names))}
        return {name: files for name, (_, files) in self._read.items()}

    def _read_secret(self, name: str) -> tuple[_Stamp, dict[str, bytes]]:
        if self._root is None:
            return (), {}
        folder = self._root / name
        stamp = _stamp(folder)
        cached = self._read.get(name)
        if cached is not None and cached[0] == stamp:
            return cached
        contents = {file: _content(folder / file) for file, *_ in stamp}
        for _ in range(_MAX_RETRIES):
            # A certificate and a key of different versions would look like a broken Secret.
            if (again := _stamp(folder)) == stamp:
                break
            stamp, contents = again, {file: _content(folder / file) for file, *_ in again}
        return stamp, {file: content for file, content in contents.items() if content is not None}


def _stamp(folder: Path) -> _Stamp:
    """Return metadata that changes with the files' content. The kubelet swaps a link; others replace or rewrite files."""
    try:
        # The kubelet keeps the real files in `..data` and links to them.
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))[:MAX_FILES]
    except OSError:
        return ()
    found: list[tuple[str, int, int, int]] = []
    for name in names:
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        found.append((name, status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(found)


def _content(file: Path) -> bytes | None:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError:
        return None
    return content if len(content) <= MAX_FILE_BYTES else None
