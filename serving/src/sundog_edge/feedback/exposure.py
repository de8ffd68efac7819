"""Read the signed id of an exposure: attempt, epoch, arm, unit and time. HAProxy writes it.

An id is `1~attempt~epoch~arm~unit~seconds~signature`. The unit is the unsalted 64-bit hash in hexadecimal. The time is Unix time of
arrival. The signature is the first 128 bits of HMAC-SHA256 over `service~arm~1~attempt~epoch~arm~unit~seconds`, as base64url. The id does
not contain the service: it comes back to a service, and an id of another service has a wrong signature. If clients must not know their
arm, the id has no arm either: the second `arm` is empty.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

VERSION = "1"
SEPARATOR = "~"
"""A character that no name in an id contains, and that URLs need not escape."""

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


def verify_exposure(
    keys: Collection[bytes], service: str, text: str, arms: Iterable[str] = ()
) -> SignedExposure | None:
    """Return the exposure of an id that one of the keys signed for the service, else None. An id without an arm has one of `arms`."""
    signed_text, _, signature = text[: MAX_CHARACTERS + 1].rpartition(SEPARATOR)
    match = _SHAPE.fullmatch(signed_text)
    if match is None:
        return None
    # Compared as text: the last character of a signature has unused bits, so several texts decode to the same bytes.
    found = signature.encode(errors="replace")
    candidates = [match["arm"]] if match["arm"] else arms
    # Every candidate is checked, so the duration reveals nothing.
    genuine = [
        arm
        for arm in candidates
        if [key for key in keys if hmac.compare_digest(_signature(key, service, arm, signed_text).encode(), found)]
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
