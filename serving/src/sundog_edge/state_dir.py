"""The state directory: all files that HAProxy and the agent share."""

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from sundog_edge.errors import SettingsError

# A Unix socket path has at most 107 characters, and HAProxy first binds a longer temporary name.
MAX_PATH = 75


@dataclass(frozen=True, slots=True)
class StateDir:
    """Paths below one directory."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> "StateDir":
        """Return the state directory at `path`. Create a missing one with private access. Raises SettingsError for an invalid path."""
        root = path.absolute()
        if len(str(root)) > MAX_PATH:
            raise SettingsError(
                f"--state-dir {root}: found {len(str(root))} characters; expected at most {MAX_PATH}, for Unix socket paths"
            )
        if any(character.isspace() or character in "\"'\\#$;" for character in str(root)):
            raise SettingsError(
                f"--state-dir {root}: found a blank, quote, backslash, #, $ or ;, which HAProxy's configuration cannot contain"
            )
        try:
            for name in ("maps", "public_keys", "certificates"):
                (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"--state-dir {root}: cannot be created: {error.strerror}") from None
        return cls(root)

    @property
    def config(self) -> Path:
        """HAProxy's configuration."""
        return self.root / "haproxy.cfg"

    @property
    def candidate(self) -> Path:
        """A configuration that HAProxy checks."""
        return self.root / "haproxy.candidate.cfg"

    @property
    def settings(self) -> Path:
        """HAProxy's start settings."""
        return self.root / "settings.json"

    @property
    def layout(self) -> Path:
        """The last good layout (slots, names of units, servers)."""
        return self.root / "layout.json"

    @property
    def applied(self) -> Path:
        """The split document in force, with the time at which it was applied."""
        return self.root / "applied.json"

    @property
    def split(self) -> Path:
        """The last split document from the API server; only with --config-map."""
        return self.root / "split.json"

    @property
    def secrets(self) -> Path:
        """The last Secrets from the API server; only with --config-map."""
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
        """Socket of HAProxy's master command line."""
        return self.root / "master.sock"

    @property
    def relay_socket(self) -> Path:
        """Socket on which a worker takes requests from its predecessor."""
        return self.root / "relay.sock"

    @property
    def feedback_socket(self) -> Path:
        """Socket on which the agent takes feedback from HAProxy."""
        return self.root / "feedback.sock"

    @property
    def cold_calls_socket(self) -> Path:
        """Socket on which the agent takes gRPC health checks of applications at zero."""
        return self.root / "cold-calls.sock"

    @property
    def mirror_socket(self) -> Path:
        """Socket to which HAProxy sends copies of requests and answers."""
        return self.root / "mirror.sock"

    @property
    def mirrored(self) -> Path:
        """The agent's last snapshot of mirrored requests."""
        return self.root / "mirrored.json"

    @property
    def log_pipe(self) -> Path:
        """The named pipe for HAProxy's log lines."""
        return self.root / "log.pipe"

    def map(self, name: str) -> Path:
        """Return the path of a map file."""
        return self.root / "maps" / f"{name}.map"

    def certificate(self, secret: str) -> Path:
        """Return the path of a Secret's chain and key, as HAProxy loads them."""
        return self.root / "certificates" / f"{secret}.pem"

    @property
    def certificate_list(self) -> Path:
        """List of certificates with their hosts."""
        return self.root / "certificates" / "list.txt"

    def public_key(self, file: str) -> Path:
        """Return the path of a public key that verifies tokens."""
        return self.root / "public_keys" / file


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step: readers see the old or the new content, even after a crash of this process."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def write_if_changed(path: Path, content: bytes) -> None:
    """Write a file as `write_atomically` does, unless it already has this content."""
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)


def read_json(path: Path) -> Any | None:
    """Return the JSON in a file of the edge; None if the file is missing or damaged."""
    try:
        return orjson.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


@dataclass(frozen=True, slots=True)
class HaproxyProcessSettings:
    """Settings of HAProxy's process, which only a restart or a reload changes.

    Attributes:
        https_bind: address for TLS; empty for none.
        max_connections: 0 for as many as the limit of open files allows.
        drain_seconds: least deadline of a replaced worker.
        request_seconds: longest wait for a request's headers and the part of its body that fits `buffer_bytes`.
        client_seconds: longest later silence of the client.
        source_connections: largest number of connections, and of running requests, of one client address; 0 for no limit.
        buffer_bytes: largest request that HAProxy retries and searches for a unit.
        memory_bytes: memory that HAProxy may use; buffers take half.
        trusted_proxies: networks of proxies whose X-Forwarded-For names the client, with blanks between them.
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
    trusted_proxies: str = ""

    def save(self, state: StateDir) -> None:
        """Write the settings for the agent."""
        write_atomically(state.settings, orjson.dumps(asdict(self)))

    @classmethod
    def load(cls, state: StateDir) -> "HaproxyProcessSettings | None":
        """Return the settings of this directory's HAProxy; None before its first start."""
        stored = read_json(state.settings)
        known = cls.__slots__
        # Another version of this program may have written the file.
        return None if stored is None else cls(**{name: value for name, value in stored.items() if name in known})
