"""Writes Secrets as files like a kubelet: `<secret>/<key>`, with an atomic exchange of all keys of a Secret."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_VERSIONS: Final = ".versions"


def write_secret_files(directory: Path, secrets: Mapping[str, Mapping[str, bytes]]) -> None:
    """Write exactly these Secrets to a directory, private to this user, and remove all others. Raises OSError.

    `<secret>` is a link to a directory of its own, so that a reader sees all keys of one version.
    """
    versions = directory / _VERSIONS
    for path in (directory, versions):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in {path.name for path in directory.iterdir()} - {_VERSIONS} - secrets.keys():
        (directory / name).unlink()
    for name, content in secrets.items():
        if _read(directory / name) != content:
            _exchange(directory, versions, name, content)
    current = {(directory / name).readlink().name for name in secrets}
    for path in versions.iterdir():
        if path.is_symlink():
            path.unlink()
        elif path.name not in current:
            shutil.rmtree(path)


def _read(folder: Path) -> dict[str, bytes] | None:
    """Return the content of a Secret's files; None where they are missing."""
    try:
        return {path.name: path.read_bytes() for path in folder.iterdir()}
    except OSError:
        return None


def _exchange(directory: Path, versions: Path, name: str, content: Mapping[str, bytes]) -> None:
    version = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=versions))
    for key, value in content.items():
        path = version / key
        path.touch(mode=0o600)
        path.write_bytes(value)
    link = versions / f"{version.name}.link"
    link.symlink_to(Path(_VERSIONS, version.name))
    link.replace(directory / name)
