"""The one directory below which local mode keeps everything: sockets, tokens, logs, ports, and who runs in it."""

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
# The longest that Ray appends to its temporary directory: a session with a pid of 7 digits, and a socket.
_RAY_SOCKET: Final = "/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead"
_REFUSED: Final = "\"'\\#$"
_RAY_DIRECTORY: Final = "/ray/99"
MAX_PATH_BYTES: Final = _SOCKET_PATH_BYTES - len(_RAY_SOCKET) - len(_RAY_DIRECTORY)
_TRIES: Final = 100
_PAUSE_S: Final = 0.01


class StateDirectoryError(SundogError):
    """The state directory cannot be used."""


class AnotherInstance(StateDirectoryError):
    """Another process runs in the state directory. `pid` is None where it did not tell."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(
            f"state directory {path} is in use by pid {pid or 'unknown'}: end that process, or choose another directory"
        )
        self.pid = pid


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """Paths below an absolute state directory. Links are kept: a short one is the way out of too long a path."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> "StateDirectory":
        """The state directory at a path, relative ones taken from the working directory."""
        return cls(Path(os.path.abspath(path.expanduser())))  # noqa: PTH100 resolve() would follow links

    @property
    def processes(self) -> Path:
        """One JSON file per process that was started."""
        return self.path / "processes"

    @property
    def logs(self) -> Path:
        """Output of the processes."""
        return self.path / "logs"

    @property
    def ray(self) -> Path:
        """One directory per RayCluster."""
        return self.path / "ray"

    @property
    def edge(self) -> Path:
        """One directory per edge."""
        return self.path / "edge"

    @property
    def ray_token(self) -> Path:
        """The token of every Ray cluster of this directory."""
        return self.path / "ray-token"

    @property
    def signing_key(self) -> Path:
        """The key by which the edges of this directory sign request ids, 32 bytes in hex."""
        return self.path / "signing-key"

    @property
    def cache(self) -> Path:
        """Models that replicas downloaded. The model server makes it."""
        return self.path / "cache"

    @property
    def lock(self) -> Path:
        """Locked by the process that runs in this directory; holds its pid."""
        return self.path / "instance.lock"

    def problem(self) -> str:
        """Why the directory cannot be used; empty when it can."""
        size = len(os.fsencode(self.path))
        if size > MAX_PATH_BYTES:
            return (
                f"state directory {self.path} is {size} bytes long, at most {MAX_PATH_BYTES} leave room for the Unix"
                " sockets below it: choose a shorter path, or a short link to it"
            )
        if any(character.isspace() or character in _REFUSED for character in str(self.path)):
            return (
                f"state directory {self.path} has a blank, quote, backslash, # or $, which HAProxy's configuration"
                " cannot hold: choose another path"
            )
        if not self.path.exists():
            return ""
        status = self.path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return f"state directory {self.path} is not a directory"
        if status.st_uid != os.geteuid():
            return f"state directory {self.path} belongs to user id {status.st_uid}, expected {os.geteuid()}"
        return ""

    def prepare(self) -> None:
        """Create what is missing, private to this user. Raises StateDirectoryError."""
        if problem := self.problem():
            raise StateDirectoryError(problem)
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
        """Be the one process that runs in this directory. Raises AnotherInstance.

        The kernel drops the lock with its holder, so a killed instance leaves none behind.
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
        """Lock for this process alone. Who only looks, in `is_held`, is no other instance, and gone in an instant."""
        for _ in range(_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self.is_held():
                    break
                time.sleep(_PAUSE_S)
            else:
                return
        raise AnotherInstance(self.path, self.holder())

    def holder(self) -> int | None:
        """The pid in the lock file, whether it still runs or not."""
        try:
            return int(self.lock.read_text())
        except (OSError, ValueError):
            return None

    def is_held(self) -> bool:
        """Whether some process runs in this directory."""
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
    """A file with 32 random bytes in hex, made once and private to this user."""
    if path.exists():
        path.chmod(0o600)
        return
    write_atomically(path, secrets.token_hex(32).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file, private to this user; a reader sees the old content or the new."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)


def read_json(path: Path) -> dict[str, object] | None:
    """The JSON object in a file; None where there is no file or no object in it."""
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
