"""Secrets as files, the way a kubelet mounts them: `<secret>/<key>`, all keys of a Secret exchanged at once."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_VERSIONS: Final = ".versions"


def write_secret_files(directory: Path, wanted: Mapping[str, Mapping[str, bytes]]) -> None:
    """Make a directory hold exactly these Secrets, private to this user.

    `<secret>` is a link to a directory of its own, so a reader sees all keys of one version or all of the next. A Secret that is not
    wanted any more goes with its files. Raises OSError.
    """
    versions = directory / _VERSIONS
    for path in (directory, versions):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in {path.name for path in directory.iterdir()} - {_VERSIONS} - wanted.keys():
        (directory / name).unlink()
    for name, content in wanted.items():
        if _read(directory / name) != content:
            _exchange(directory, versions, name, content)
    in_force = {(directory / name).readlink().name for name in wanted}
    for path in versions.iterdir():
        if path.is_symlink():
            path.unlink()
        elif path.name not in in_force:
            shutil.rmtree(path)


def _read(folder: Path) -> dict[str, bytes] | None:
    """What a Secret's files hold; None where they are not there."""
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
