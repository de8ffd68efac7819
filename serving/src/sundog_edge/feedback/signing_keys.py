"""The keys that exposures are signed with: a file of one or two lines of hexadecimal digits, the newest first."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sundog_edge.errors import SecretError

MIN_KEY_BYTES = 16
MAX_FILE_BYTES = 4096
KEY_SETTLE_S = 120.0
"""So long after its file has changed a new key only verifies: by then every edge has it."""

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """`signing` is the key of new exposures, `accepted` are those that an exposure may have; without a key there is no feedback."""

    signing: bytes = b""
    accepted: tuple[bytes, ...] = ()
    problem: str = ""


NO_KEYS = SigningKeys()


def parse_keys(content: bytes) -> tuple[bytes, ...]:
    """The keys in a file's content, the newest first. Raises SecretError that names the line."""
    lines = [line.strip() for line in content.decode(errors="replace").split("\n") if line.strip()]
    if len(lines) not in {1, 2}:
        raise SecretError(f"has {len(lines)} keys; one is expected, or two, the newest first")
    for number, line in enumerate(lines, 1):
        if not _HEX.fullmatch(line) or len(line) < 2 * MIN_KEY_BYTES:
            raise SecretError(f"line {number} is no key: at least {2 * MIN_KEY_BYTES} hexadecimal digits are expected")
    return tuple(bytes.fromhex(line) for line in lines)


class SigningKeyFile:
    """The keys of a file, read anew when it changes. A file that is missing or broken gives no keys and a problem."""

    def __init__(self, file: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._stamp: tuple[int, int, int] | None = None
        self._keys: tuple[bytes, ...] = ()
        self._problem = ""

    def read(self) -> SigningKeys:
        """The keys as they are now."""
        if self._file is None:
            return NO_KEYS
        try:
            status = self._file.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                with self._file.open("rb") as opened:
                    content = opened.read(MAX_FILE_BYTES)
                self._keys, self._problem, self._stamp = parse_keys(content), "", stamp
        except OSError as error:
            self._keys, self._problem, self._stamp = (), f"cannot be read: {error.strerror}", None
        except SecretError as error:
            self._keys, self._problem, self._stamp = (), str(error), stamp
        if not self._keys:
            return SigningKeys(problem=f"--signing-key {self._file} {self._problem}")
        # Another edge may not have read the new key yet, and would not know an exposure that it has signed.
        fresh = self._clock() - stamp[1] / 1e9 < KEY_SETTLE_S
        return SigningKeys(self._keys[-1] if fresh else self._keys[0], self._keys)
