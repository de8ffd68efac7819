"""The directory with all files of local mode: sockets, tokens, logs, ports, and the lock of the running instance."""

import contextlib
import fcntl
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from sundog_operator.errors import SundogError

_SOCKET_PATH_BYTES: Final = 103 if sys.platform == "darwin" else 107
# The longest path that Ray appends to its temporary directory: a session with a pid of 7 digits, and a socket.
_RAY_SOCKET: Final = "/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead"
_FORBIDDEN: Final = "\"'\\#$"
_RAY_DIRECTORY: Final = "/ray/99"
MAX_PATH_BYTES: Final = _SOCKET_PATH_BYTES - len(_RAY_SOCKET) - len(_RAY_DIRECTORY)
_LOCK_ATTEMPTS: Final = 100
_LOCK_RETRY_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class DirectoryProblem:
    """Why a state directory is unusable, and the action for the user."""

    found: str
    fix: str = "choose another path"

    def __str__(self) -> str:
        return f"{self.found}: {self.fix}"


class StateDirectoryError(SundogError):
    """The state directory is unusable."""


class AnotherInstance(StateDirectoryError):
    """Another process uses the state directory. `pid` is None where it is unknown."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(
            f"state directory {path} is in use by pid {pid or 'unknown'}: "
            "stop that instance by `sundog local down`, or start another one with --instance or --state-dir"
        )
        self.pid = pid


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """Paths below an absolute state directory. Links are not resolved, because a short link helps against a path that is too long."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> "StateDirectory":
        """Return the state directory at a path. A relative path starts at the working directory."""
        return cls(Path(os.path.abspath(path.expanduser())))  # noqa: PTH100 resolve() would follow links

    @property
    def processes(self) -> Path:
        """Directory with one JSON file per started process."""
        return self.path / "processes"

    @property
    def logs(self) -> Path:
        """Directory with the output of the processes."""
        return self.path / "logs"

    @property
    def ray(self) -> Path:
        """Directory with one directory per RayCluster."""
        return self.path / "ray"

    @property
    def edge(self) -> Path:
        """Directory with one directory per edge."""
        return self.path / "edge"

    @property
    def ray_token(self) -> Path:
        """File with the token of every Ray cluster."""
        return self.path / "ray-token"

    @property
    def signing_key(self) -> Path:
        """File with the key with which the edges sign request ids, 32 bytes in hex."""
        return self.path / "signing-key"

    @property
    def cache(self) -> Path:
        """Directory of downloaded models, which the model server creates."""
        return self.path / "cache"

    @property
    def lock(self) -> Path:
        """File that the running instance locks; it has its pid."""
        return self.path / "instance.lock"

    def problem(self) -> DirectoryProblem | None:
        """Return why the directory is unusable; None when it is usable."""
        size = len(os.fsencode(self.path))
        if size > MAX_PATH_BYTES:
            return DirectoryProblem(
                f"state directory {self.path} is {size} bytes long; expected at most {MAX_PATH_BYTES}, because of the"
                " Unix sockets in it",
                "choose a shorter path, or a short link to it",
            )
        if any(character.isspace() or character in _FORBIDDEN for character in str(self.path)):
            return DirectoryProblem(
                f"state directory {self.path} contains a blank, quote, backslash, # or $, which HAProxy's"
                " configuration does not allow"
            )
        if not self.path.exists():
            return None
        status = self.path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return DirectoryProblem(f"state directory {self.path} is not a directory")
        if status.st_uid != os.geteuid():
            return DirectoryProblem(
                f"state directory {self.path} belongs to user id {status.st_uid}, expected {os.geteuid()}"
            )
        return None

    def prepare(self) -> None:
        """Create missing directories and files, private to this user. Raises StateDirectoryError."""
        if (problem := self.problem()) is not None:
            raise StateDirectoryError(str(problem))
        try:
            for path in (self.path, self.processes, self.logs, self.ray, self.edge):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            _ensure_random(self.ray_token)
            _ensure_random(self.signing_key)
        except OSError as err:
            raise StateDirectoryError(f"state directory {self.path} cannot be written: {err.strerror}") from err

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the directory for this process. Raises AnotherInstance.

        The kernel releases the lock when its holder ends, so a killed instance leaves no lock.
        """
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._acquire(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _acquire(self, descriptor: int) -> None:
        """Take the lock. Retry while another process only tests it in `is_held`, which is no other instance."""
        for _ in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self.is_held():
                    break
                time.sleep(_LOCK_RETRY_S)
            else:
                return
        raise AnotherInstance(self.path, self.holder())

    def holder(self) -> int | None:
        """Return the pid in the lock file, running or not."""
        try:
            return int(self.lock.read_text())
        except (OSError, ValueError):
            return None

    def is_held(self) -> bool:
        """Return whether a process holds the lock of this directory."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def _ensure_random(path: Path) -> None:
    """Create a file with 32 random bytes in hex, private to this user. An existing file stays."""
    if path.exists():
        path.chmod(0o600)
        return
    write_atomically(path, secrets.token_hex(32).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file atomically, private to this user."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)


def read_json(path: Path) -> dict[str, object] | None:
    """Return the JSON object in a file; None without a file or an object in it."""
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
