"""HAProxy's datagrams, parsed: one request that was sampled, and how it was answered. Pure."""

import base64
import binascii
import re
from typing import NamedTuple

from sundog_edge.haproxy.rules.shadow import FIELDS

_DATA = re.compile(rb'\[mirror of="([^"]*)"\]')
_NONE = "-"
_PARTS = len(FIELDS) + 2


class MirroredRequest(NamedTuple):
    """What is repeated. `path` has its query and not the route prefix; empty headers were not sent."""

    id: str
    path: str
    content_type: str
    json_length: str
    accept: str
    body: bytes


class MirroredAnswer(NamedTuple):
    """An answer with status 200. `json_length` is how much of it is JSON, where binary tensors follow; else None."""

    content_type: str
    json_length: int | None
    body: bytes


class MirrorRecord(NamedTuple):
    """One request. `skip` says why it cannot be repeated, and is empty where it can; then all else is there.

    `key` is `service/attempt/epoch`; `ended_us` is Unix time and `total_us` what stable took, in microseconds.
    """

    boot: str
    key: str
    skip: str
    ended_us: int
    total_us: int
    request: MirroredRequest
    answer: MirroredAnswer


def parse_record(datagram: bytes) -> MirrorRecord:
    """The record in a datagram. Raises ValueError for one that is none of ours."""
    found = _DATA.search(datagram)
    if found is None:
        raise ValueError("a datagram has no record")
    parts = found[1].split(b" ")
    if len(parts) != _PARTS:
        raise ValueError(f"a record has {len(parts)} fields, not {_PARTS}")
    boot, key, skip, status, termination, outcome, received, total, request_id, prefix, size, answer_size = (
        part.decode() for part in parts[:12]
    )
    path, content_type, json_length, accept, answer_type, answer_json = (_bytes(part) for part in parts[12:18])
    body, answer = _bytes(parts[18]), _bytes(parts[19])
    shown_path = path.decode("ascii", errors="replace")
    request = MirroredRequest(
        request_id,
        shown_path.removeprefix(prefix) or "/",
        _header(content_type),
        _header(json_length),
        _header(accept),
        body,
    )
    length = answer_json.decode("ascii", errors="replace").strip()
    return MirrorRecord(
        boot,
        key,
        _why_not(skip, status, termination, outcome) or _cut(len(body), size, len(answer), answer_size),
        int(received) + int(total),
        int(total),
        request,
        MirroredAnswer(_header(answer_type), int(length) if length.isdecimal() else None, answer),
    )


def _bytes(part: bytes) -> bytes:
    """What a field in base64 holds; each of its slices that is empty is written as a dash."""
    try:
        return base64.b64decode(part.replace(b"-", b""), validate=True)
    except binascii.Error:
        raise ValueError("a record's field is no base64") from None


def _header(value: bytes) -> str:
    return value.decode("latin-1").strip()


def _why_not(skip: str, status: str, termination: str, outcome: str) -> str:
    if skip != _NONE:
        return skip
    return "" if (status, termination, outcome) == ("200", "--", "ok") else "failed"


def _cut(body: int, size: str, answer: int, answer_size: str) -> str:
    """A header block that leaves no room for the body has only a part of it in the buffer."""
    return "" if (str(body), str(answer)) == (size, answer_size) else "size"
