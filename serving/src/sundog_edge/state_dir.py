"""The state directory: the files that HAProxy and the agent share, and nothing else."""

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from sundog_edge.errors import SettingsError

# Unix socket paths end at 107 characters, and HAProxy binds under a longer temporary name first.
MAX_PATH = 75


@dataclass(frozen=True, slots=True)
class StateDir:
    """Paths below one directory."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> "StateDir":
        """The state directory at `path`, created private where it is missing. Raises SettingsError for a path that cannot work."""
        root = path.absolute()
        if len(str(root)) > MAX_PATH:
            raise SettingsError(
                f"--state-dir {root} has {len(str(root))} characters, at most {MAX_PATH} fit a Unix socket path"
            )
        if any(character.isspace() or character in "\"'\\#$;" for character in str(root)):
            raise SettingsError(
                f"--state-dir {root} has a blank, quote, backslash, #, $ or ;, which HAProxy cannot be told"
            )
        try:
            for name in ("maps", "public_keys", "certificates"):
                (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"--state-dir {root} cannot be created: {error.strerror}") from None
        return cls(root)

    @property
    def config(self) -> Path:
        """HAProxy's configuration."""
        return self.root / "haproxy.cfg"

    @property
    def candidate(self) -> Path:
        """A configuration that is being checked."""
        return self.root / "haproxy.candidate.cfg"

    @property
    def settings(self) -> Path:
        """How HAProxy was started."""
        return self.root / "settings.json"

    @property
    def layout(self) -> Path:
        """The last good layout (slots, names of units, servers)."""
        return self.root / "layout.json"

    @property
    def applied(self) -> Path:
        """The split document in force, with the instant it was applied."""
        return self.root / "applied.json"

    @property
    def split(self) -> Path:
        """The last split document that the API server told, where it comes from there."""
        return self.root / "split.json"

    @property
    def secrets(self) -> Path:
        """The last Secrets that the API server told, where they come from there."""
        return self.root / "secrets.json"

    @property
    def counters(self) -> Path:
        """The agent's last snapshot of the counters."""
        return self.root / "counters.json"

    @property
    def details(self) -> Path:
        """The agent's last snapshot of blocks, groups and samples of units."""
        return self.root / "details.json"

    @property
    def master_socket(self) -> Path:
        """HAProxy's master command line."""
        return self.root / "master.sock"

    @property
    def relay_socket(self) -> Path:
        """Where a worker takes requests from the one that it has replaced."""
        return self.root / "relay.sock"

    @property
    def feedback_socket(self) -> Path:
        """Where the agent takes feedback from HAProxy."""
        return self.root / "feedback.sock"

    @property
    def mirror_socket(self) -> Path:
        """Where HAProxy sends copies of requests and answers."""
        return self.root / "mirror.sock"

    @property
    def mirrored(self) -> Path:
        """The agent's last snapshot of what was mirrored."""
        return self.root / "mirrored.json"

    @property
    def log_pipe(self) -> Path:
        """The named pipe that HAProxy's lines go through."""
        return self.root / "log.pipe"

    def map(self, name: str) -> Path:
        """A map file."""
        return self.root / "maps" / f"{name}.map"

    def certificate(self, secret: str) -> Path:
        """The chain and key of a Secret, as HAProxy loads them."""
        return self.root / "certificates" / f"{secret}.pem"

    @property
    def certificate_list(self) -> Path:
        """Which certificate answers for which host."""
        return self.root / "certificates" / "list.txt"

    def public_key(self, file: str) -> Path:
        """The file of a public key that tokens are signed with."""
        return self.root / "public_keys" / file


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new, also after a crash of this process."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def read_json(path: Path) -> Any | None:
    """The JSON in a file of our own; None where it is missing or damaged, which is treated alike: begin anew."""
    try:
        return orjson.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


@dataclass(frozen=True, slots=True)
class HaproxyProcessSettings:
    """How HAProxy runs: what only a restart or a reload changes. Times in seconds, sizes in bytes. `https_bind` empty is no TLS.

    `drain_seconds` is the least deadline of a worker that leaves. `max_connections` 0 is as many as the limit of open files allows.
    `request_seconds` is for the headers of a request and the part of
    its body that fits `buffer_bytes`, which is also what is retried and searched for a unit; `client_seconds` is for any later silence
    of the client, `source_connections` for one client address, as connections and as requests under way (0: any number).
    `memory_bytes` is what HAProxy may use, of which buffers take half.
    """

    http_bind: str = "127.0.0.1:8080"
    threads: int = 1
    max_connections: int = 0
    drain_seconds: int = 120
    request_seconds: int = 15
    client_seconds: int = 30
    source_connections: int = 8192
    https_bind: str = ""
    buffer_bytes: int = 16_384
    memory_bytes: int = 1 << 30

    def save(self, state: StateDir) -> None:
        """Tell the agent how HAProxy was started."""
        write_atomically(state.settings, orjson.dumps(asdict(self)))

    @classmethod
    def load(cls, state: StateDir) -> "HaproxyProcessSettings | None":
        """The settings of the HAProxy of this state directory; None before its first start."""
        stored = read_json(state.settings)
        known = cls.__slots__
        # Another version of this program may have written the file.
        return None if stored is None else cls(**{name: value for name, value in stored.items() if name in known})
