"""The Secrets that services name, read anew when they change: files as the kubelet mounts them, or one file that holds them all."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson

from sundog_edge.state_dir import read_json

MAX_FILE_BYTES = 1 << 20
MAX_FILES = 10_000
_TRIES = 3

_Stamp = tuple[tuple[str, int, int, int], ...]


class Secrets(Protocol):
    """Where Secrets come from."""

    def read(self, names: Iterable[str]) -> dict[str, Mapping[str, bytes]]:
        """The content of each Secret of `names`, by key; one that is missing has none. What cannot be read counts as missing."""


class ComposedSecrets:
    """The `data` of the one Secret into which the operator composes those that are named: name → base64 of {key: base64}."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read: tuple[tuple[int, int], Mapping[str, Any]] = ((0, 0), {})

    def read(self, names: Iterable[str]) -> dict[str, Mapping[str, bytes]]:
        """See the protocol."""
        try:
            status = self._file.stat()
        except OSError:
            return {name: {} for name in names}
        # The file is replaced, never rewritten, so all Secrets of one version are seen or all of the next.
        stamp = (status.st_ino, status.st_mtime_ns)
        if stamp != self._read[0]:
            stored = read_json(self._file)
            self._read = (stamp, stored if isinstance(stored, dict) else {})
        return {name: _composed(self._read[1].get(name)) for name in names}


def _composed(encoded: Any) -> Mapping[str, bytes]:
    try:
        keys = orjson.loads(base64.b64decode(encoded or "", validate=True) or b"{}")
        return {key: base64.b64decode(text, validate=True) for key, text in keys.items()}
    except (binascii.Error, ValueError, TypeError, AttributeError):
        return {}


class SecretsDir:
    """The Secrets below `root`, as `<root>/<secret>/<key>`; without a root there are none."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._read: dict[str, tuple[_Stamp, dict[str, bytes]]] = {}

    def read(self, names: Iterable[str]) -> dict[str, Mapping[str, bytes]]:
        """The files of each Secret of `names`, by file name; one that is missing has none. A file that cannot be read counts as missing."""
        self._read = {name: self._secret(name) for name in sorted(set(names))}
        return {name: files for name, (_, files) in self._read.items()}

    def _secret(self, name: str) -> tuple[_Stamp, dict[str, bytes]]:
        if self._root is None:
            return (), {}
        folder = self._root / name
        stamp = _stamp(folder)
        known = self._read.get(name)
        if known is not None and known[0] == stamp:
            return known
        contents = {file: _content(folder / file) for file, *_ in stamp}
        for _ in range(_TRIES):
            # A certificate of one version and a key of the next would look like a broken Secret.
            if (again := _stamp(folder)) == stamp:
                break
            stamp, contents = again, {file: _content(folder / file) for file, *_ in again}
        return stamp, {file: content for file, content in contents.items() if content is not None}


def _stamp(folder: Path) -> _Stamp:
    """What changes with a file's content: the kubelet swaps a link, others replace or rewrite."""
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
