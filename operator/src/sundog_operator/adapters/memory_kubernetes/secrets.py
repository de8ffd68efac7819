"""Stores Secrets as the API server does: `stringData` becomes base64 in `data`. No message quotes a value."""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from sundog_operator.ports import Object

_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_MAX_BYTES = 1024 * 1024
_TLS = "kubernetes.io/tls"
_TLS_KEYS = ("tls.crt", "tls.key")


def fold_string_data(obj: Object) -> None:
    """Move the texts of `stringData` into `data`, in place. A value that is not text stays, and validation rejects it."""
    obj.setdefault("type", "Opaque")
    if obj.get("data") == {}:
        # Like the real server, which stores no empty object.
        del obj["data"]
    plain = obj.get("stringData")
    if not isinstance(plain, dict) or not all(isinstance(text, str) for text in plain.values()):
        return
    del obj["stringData"]
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in plain.items()}
    if encoded or "data" in obj:
        obj["data"] = {**(obj.get("data") or {}), **encoded}


def find_violations(obj: Object, before: Object | None) -> Iterator[str]:
    """Yield one line per broken rule."""
    for key, found in (obj.get("stringData") or {}).items():
        if not isinstance(found, str):
            yield f"stringData[{key}]: {type(found).__name__}; expected a string. Put it in quotes."
    data = obj.get("data") or {}
    yield from _entry_violations(data)
    if obj.get("type") == _TLS:
        yield from (
            f"data[{key}]: missing; expected in a Secret of type {_TLS}" for key in _TLS_KEYS if key not in data
        )
    if before is not None:
        yield from _change_violations(obj, before)


def _entry_violations(data: dict[str, Any]) -> Iterator[str]:
    size = 0
    for key, text in data.items():
        if not _KEY.fullmatch(key) or key == "." or key.startswith(".."):
            yield f"data[{key}]: invalid key; expected letters, digits, -, _ and ."
        raw = decode_value(text)
        if raw is None:
            yield f"data[{key}]: not base64. Put plain text in stringData."
        size += len(raw or b"")
    if size > _MAX_BYTES:
        yield f"data: {size} bytes; expected at most {_MAX_BYTES}"


def _change_violations(obj: Object, before: Object) -> Iterator[str]:
    if obj.get("type", "Opaque") != before.get("type", "Opaque"):
        yield "type: is immutable"
    if before.get("immutable") and (obj.get("data") != before.get("data") or not obj.get("immutable")):
        yield "data: the Secret is immutable"


def decode_value(text: Any) -> bytes | None:
    """Return the bytes of one entry of `data`; None where it is not base64."""
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        return None
