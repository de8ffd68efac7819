"""Keys that sign exposures: a file of one or two lines of hexadecimal digits, newest key first."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sundog_edge.errors import SecretError

MIN_KEY_BYTES = 16
MAX_FILE_BYTES = 4096
KEY_SETTLE_S = 120.0
"""A new key only verifies until this long after the change of its file: by then every edge has it."""

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """`signing` is the key for new exposures, `accepted` are the keys that verify. Without keys there is no feedback; see `problem`."""

    signing: bytes = b""
    accepted: tuple[bytes, ...] = ()
    problem: str = ""


NO_KEYS = SigningKeys()


def parse_keys(content: bytes) -> tuple[bytes, ...]:
    """Parse the keys in a file's content, newest first. Raises SecretError, which names the line."""
    lines = [line.strip() for line in content.decode(errors="replace").split("\n") if line.strip()]
    if len(lines) not in {1, 2}:
        raise SecretError(f"has {len(lines)} keys; expected one, or two with the newest first")
    for number, line in enumerate(lines, 1):
        if not _HEX.fullmatch(line) or len(line) < 2 * MIN_KEY_BYTES:
            raise SecretError(f"line {number} is not a key; expected at least {2 * MIN_KEY_BYTES} hexadecimal digits")
    return tuple(bytes.fromhex(line) for line in lines)


class SigningKeyFile:
    """The keys of a file, read again when it changes. A missing or broken file gives no keys and a problem."""

    def __init__(self, file: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._stamp: tuple[int, int, int] | None = None
        self._keys: tuple[bytes, ...] = ()
        self._problem = ""

    def read(self) -> SigningKeys:
        """Return the present keys."""
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
        # Another edge may not have read the new key yet, and would refuse exposures signed with it.
        fresh = self._clock() - stamp[1] / 1e9 < KEY_SETTLE_S
        return SigningKeys(self._keys[-1] if fresh else self._keys[0], self._keys)
