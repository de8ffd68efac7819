"""Reference for HAProxy's rules: the groups of units, and the signature of exposures. Tests compare HAProxy with both."""

import xxhash

from sundog_edge.feedback.exposure import SEPARATOR, VERSION, SignedExposure, _signature
from sundog_edge.split.assignment import GROUP_COUNT

_POSITIVE = 0x7FFF_FFFF_FFFF_FFFF


def group_of_unit(salt: str, unit: bytes) -> int:
    """Return the group of a unit, 0..99, independent of its bucket: XXH64("g:" salt unit), sign bit dropped, modulo 100."""
    return (xxhash.xxh64_intdigest(b"g:" + salt.encode() + unit) & _POSITIVE) % GROUP_COUNT


def sign_exposure(key: bytes, service: str, exposure: SignedExposure, *, reveal: bool = True) -> str:
    """Return the id of an exposure, with its arm only if `reveal`."""
    attempt, epoch, arm, unit, seconds = exposure
    text = SEPARATOR.join((VERSION, attempt, str(epoch), arm if reveal else "", f"{unit:016x}", str(seconds)))
    return f"{text}{SEPARATOR}{_signature(key, service, arm, text)}"
