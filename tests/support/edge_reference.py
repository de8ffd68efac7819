"""Reference for HAProxy's rules: the hashes that assign units, and the signature of exposures. Tests compare HAProxy with both."""

from collections.abc import Sequence

import xxhash

from sundog_edge.feedback.exposure import SEPARATOR, VERSION, SignedExposure, _signature
from sundog_edge.split.assignment import BUCKET_COUNT, GROUP_COUNT, Segment

_POSITIVE = 0x7FFF_FFFF_FFFF_FFFF


def bucket_of_unit(salt: str, unit: bytes) -> int:
    """Return the bucket of a unit: XXH64(salt ":" unit, seed 0), sign bit dropped, modulo 10 000.

    `unit` is the header value as HAProxy sees it: raw bytes without leading and trailing blanks. HAProxy's integers are signed, so with
    the sign bit its modulo could be negative. The bias of the modulo is below 1e-14.
    """
    return (xxhash.xxh64_intdigest(salt.encode() + b":" + unit) & _POSITIVE) % BUCKET_COUNT


def group_of_unit(salt: str, unit: bytes) -> int:
    """Return the group of a unit, 0..99, independent of its bucket: XXH64("g:" salt unit), sign bit dropped, modulo 100."""
    return (xxhash.xxh64_intdigest(b"g:" + salt.encode() + unit) & _POSITIVE) % GROUP_COUNT


def find_arm(table: Sequence[Segment], bucket: int) -> int | None:
    """Return the arm of a bucket; None for an empty table."""
    return next((segment.arm for segment in table if bucket < segment.end), None)


def sign_exposure(key: bytes, service: str, exposure: SignedExposure, *, reveal: bool = True) -> str:
    """Return the id of an exposure, with its arm only if `reveal`."""
    attempt, epoch, arm, unit, seconds = exposure
    text = SEPARATOR.join((VERSION, attempt, str(epoch), arm if reveal else "", f"{unit:016x}", str(seconds)))
    return f"{text}{SEPARATOR}{_signature(key, service, arm, text)}"
