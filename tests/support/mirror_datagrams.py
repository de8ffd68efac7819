"""HAProxy's datagrams with a request and its answer, for tests of the mirror."""

import base64
from typing import Any


def encoded(value: bytes) -> bytes:
    """Encode a body like HAProxy, in two slices."""
    halves = [base64.b64encode(value[:6000]), base64.b64encode(value[6000:])]
    return b"".join(half or b"-" for half in halves)


def datagram(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "boot": "b1-7",
        "key": "digits/att/3",
        "skip": "-",
        "status": "200",
        "termination": "--",
        "outcome": "ok",
        "received": "1700000000000000",
        "total": "2500",
        "id": "r-1",
        "prefix": "/digits-r7.app",
        "size": "2",
        "answer_size": "3",
        "path": b"/digits-r7.app/v2/infer?a=%22",
        "type": b"application/json",
        "json": b"",
        "accept": b'x "y]',
        "answer_type": b"application/json",
        "answer_json": b"",
        "body": b"{}",
        "answer": b"[1]",
        **changes,
    }
    written = [encoded(value) if isinstance(value, bytes) else value.encode() for value in fields.values()]
    return b'<133>1 - - haproxy 1 - [mirror of="' + b" ".join(written) + b'"] line of the log\n'
