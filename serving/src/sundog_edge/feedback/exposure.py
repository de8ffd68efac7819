"""The id of an exposure: which arm of which attempt a unit had, and when, signed by the edge. HAProxy writes it, this module reads it.

An id is `1~attempt~epoch~arm~unit~seconds~signature`: the unit is the unsalted 64-bit hash in hexadecimal, the instant is Unix time of
arrival, and the signature the first 128 bits of HMAC-SHA256 over `service~arm~1~attempt~epoch~arm~unit~seconds`, as base64url. The
service is signed and not told: it is known by where the id comes back, and an id of another service has a wrong signature. Where
clients must not know their arm, the arm is signed and not told either: the second one is empty.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

VERSION = "1"
SEPARATOR = "~"
"""Neither in any name that an id holds nor in need of escape in a URL."""

SIGNATURE_BYTES = 16
MAX_CHARACTERS = 256
_SHAPE = re.compile(
    r"1~(?P<attempt>[A-Za-z0-9._-]{1,63})~(?P<epoch>[0-9]{1,19})~(?P<arm>[a-z0-9-]{0,63})"
    r"~(?P<unit>[0-9a-f]{16})~(?P<seconds>[0-9]{1,12})"
)


class SignedExposure(NamedTuple):
    """One exposure. `unit` is the hash; `seconds` is Unix time."""

    attempt: str
    epoch: int
    arm: str
    unit: int
    seconds: int


def sign_exposure(key: bytes, service: str, exposure: SignedExposure, *, reveal: bool = True) -> str:
    """The id of an exposure; only one that is to `reveal` it tells the arm."""
    attempt, epoch, arm, unit, seconds = exposure
    text = SEPARATOR.join((VERSION, attempt, str(epoch), arm if reveal else "", f"{unit:016x}", str(seconds)))
    return f"{text}{SEPARATOR}{_signature(key, service, arm, text)}"


def verify_exposure(
    keys: Collection[bytes], service: str, text: str, arms: Iterable[str] = ()
) -> SignedExposure | None:
    """The exposure of an id that one of the keys has signed for the service, else None. Of an id that tells no arm it is one of `arms`."""
    told, _, signature = text[: MAX_CHARACTERS + 1].rpartition(SEPARATOR)
    match = _SHAPE.fullmatch(told)
    if match is None:
        return None
    # As text: the last character of a signature has bits to spare, so several would stand for the same bytes.
    found = signature.encode(errors="replace")
    candidates = [match["arm"]] if match["arm"] else arms
    # All of them, whatever the first says: how long it takes tells nothing.
    genuine = [
        arm
        for arm in candidates
        if [key for key in keys if hmac.compare_digest(_signature(key, service, arm, told).encode(), found)]
    ]
    if not genuine:
        return None
    return SignedExposure(
        match["attempt"], int(match["epoch"]), genuine[0], int(match["unit"], 16), int(match["seconds"])
    )


def _signature(key: bytes, service: str, arm: str, text: str) -> str:
    message = SEPARATOR.join((service, arm, text)).encode(errors="replace")
    digest = hmac.digest(key, message, hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:SIGNATURE_BYTES]).decode().rstrip("=")
