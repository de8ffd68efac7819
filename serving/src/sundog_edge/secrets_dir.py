"""Secrets as the kubelet mounts them: `<directory>/<secret>/<key>`, read anew when a file changes."""

from collections.abc import Iterable, Mapping
from pathlib import Path

MAX_FILE_BYTES = 1 << 20
MAX_FILES = 10_000
_TRIES = 3

_Stamp = tuple[tuple[str, int, int, int], ...]


class SecretsDir:
    """The Secrets below `root`; without one, there are none."""

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
