"""Parse HAProxy's datagrams: one sampled request and its answer each. Pure."""

import base64
import binascii
import re
from typing import NamedTuple

from sundog_edge.haproxy.rules.shadow import FIELDS

_DATA = re.compile(rb'\[mirror of="([^"]*)"\]')
_NONE = "-"
_PARTS = len(FIELDS) + 2


class MirroredRequest(NamedTuple):
    """The request to repeat. `path` has the query, but not the route prefix. Empty headers were not sent."""

    id: str
    path: str
    content_type: str
    json_length: str
    accept: str
    body: bytes


class MirroredAnswer(NamedTuple):
    """An answer with status 200. `json_length`: bytes of JSON before binary tensors; None without tensors."""

    content_type: str
    json_length: int | None
    body: bytes


class MirrorRecord(NamedTuple):
    """One request. `skip` is the reason not to repeat it; if empty, all other fields are valid.

    `key` is `service/attempt/epoch`. `ended_us` is Unix time and `total_us` the duration of stable's answer, in microseconds.
    """

    boot: str
    key: str
    skip: str
    ended_us: int
    total_us: int
    request: MirroredRequest
    answer: MirroredAnswer


def parse_record(datagram: bytes) -> MirrorRecord:
    """Parse the record in a datagram. Raises ValueError for another format."""
    found = _DATA.search(datagram)
    if found is None:
        raise ValueError("datagram: found no record")
    parts = found[1].split(b" ")
    if len(parts) != _PARTS:
        raise ValueError(f"record: found {len(parts)} fields; expected {_PARTS}")
    boot, key, skip, status, termination, outcome, received, total, request_id, prefix, size, answer_size = (
        part.decode() for part in parts[:12]
    )
    path, content_type, json_length, accept, answer_type, answer_json = (_decode(part) for part in parts[12:18])
    body, answer = _decode(parts[18]), _decode(parts[19])
    path_text = path.decode("ascii", errors="replace")
    request = MirroredRequest(
        request_id,
        path_text.removeprefix(prefix) or "/",
        _header(content_type),
        _header(json_length),
        _header(accept),
        body,
    )
    length = answer_json.decode("ascii", errors="replace").strip()
    return MirrorRecord(
        boot,
        key,
        _find_skip_reason(skip, status, termination, outcome)
        or _check_sizes(len(body), size, len(answer), answer_size),
        int(received) + int(total),
        int(total),
        request,
        MirroredAnswer(_header(answer_type), int(length) if length.isdecimal() else None, answer),
    )


def _decode(part: bytes) -> bytes:
    """Decode a base64 field. HAProxy writes a dash for each of its empty slices."""
    try:
        return base64.b64decode(part.replace(b"-", b""), validate=True)
    except binascii.Error:
        raise ValueError("field of a record: expected base64") from None


def _header(value: bytes) -> str:
    return value.decode("latin-1").strip()


def _find_skip_reason(skip: str, status: str, termination: str, outcome: str) -> str:
    if skip != _NONE:
        return skip
    return "" if (status, termination, outcome) == ("200", "--", "ok") else "failed"


def _check_sizes(body: int, size: str, answer: int, answer_size: str) -> str:
    """Return `size` if the copy is incomplete: large headers may leave too little space for the body in the buffer."""
    return "" if (str(body), str(answer)) == (size, answer_size) else "size"
