"""Paths of an instance's state directory."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from sundog_operator.adapters.local.state_directory import (
    MAX_PATH_BYTES,
    StateDirectory,
    StateDirectoryError,
    read_json,
    write_atomically,
)

STATE_DIR_VARIABLE: Final = "SUNDOG_STATE_DIR"
DEFAULT_INSTANCE: Final = "default"
KUBECONFIG_FILE: Final = "kubeconfig"
_PROBLEMS: Final = "problems.json"
_LINKS: Final = Path("/tmp")  # noqa: S108 the folder of links below it is checked to be private


def choose_state_dir(state_dir: Path | None, instance: str | None, environment: Mapping[str, str]) -> Path:
    """Return the state directory: the option, the variable, or one per instance below the XDG state folder."""
    if state_dir is not None:
        return StateDirectory.at(state_dir).path
    if instance is None and (named := environment.get(STATE_DIR_VARIABLE)):
        return StateDirectory.at(Path(named)).path
    base = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return StateDirectory.at(Path(base) / "sundog" / (instance or DEFAULT_INSTANCE)).path


def shorten_path(path: Path) -> Path:
    """Return a path to a state directory that is short enough for Unix sockets below it: itself, or the path of a short link."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    return _LINKS / f"sundog-{os.geteuid()}" / digest


def prepare_state_dir(path: Path) -> StateDirectory:
    """Create the state directory, and a short link to it if its path is too long. Raises StateDirectoryError."""
    short = shorten_path(path)
    if short != path:
        _link(short, path)
    state = StateDirectory.at(short)
    state.prepare()
    return state


def remove_short_link(path: Path) -> None:
    """Remove the short link to an unused state directory, and the folder of links if it is empty then."""
    short = shorten_path(path)
    if short == path:
        return
    with contextlib.suppress(OSError):
        if short.is_symlink():
            short.unlink()
        # Fails while other links are there.
        short.parent.rmdir()


def find_state_dir(path: Path) -> StateDirectory:
    """Return the state directory as a running instance uses it, without creating it."""
    return StateDirectory.at(shorten_path(path))


def write_manifest_problems(path: Path, problems: Sequence[str]) -> None:
    """Save the problems of an instance's manifests, one line each, for other commands."""
    write_atomically(path / _PROBLEMS, orjson.dumps({"version": 1, "problems": list(problems)}))


def read_problems(path: Path) -> list[str]:
    """Return the saved problems of an instance's manifests; empty if none are saved."""
    problems = (read_json(path / _PROBLEMS) or {}).get("problems")
    return [str(each) for each in problems] if isinstance(problems, list) else []


def _link(link: Path, target: Path) -> None:
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        link.parent.mkdir(mode=0o700, exist_ok=True)
        status = link.parent.lstat()
        # All users can write to /tmp: a folder of another user could hold links to anywhere.
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise StateDirectoryError(f"{link.parent} is not a private folder of yours. Remove it, or give --state-dir")
        if link.is_symlink() and link.readlink() != target:
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(target, target_is_directory=True)
    except OSError as err:
        raise StateDirectoryError(f"state directory {target}: {err.filename}: {err.strerror}") from err
