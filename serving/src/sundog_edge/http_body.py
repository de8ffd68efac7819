"""HTTP bodies: read them up to a limit, and encode JSON."""

import json
from typing import Any

import aiohttp
import orjson


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return the whole body, or `max_bytes` + 1 bytes of a larger one."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            break
    return bytes(body[: max_bytes + 1])


def encode_json(document: Any) -> bytes:
    """Return the document as JSON, also with numbers beyond the 64 bits that orjson writes, such as sums of squares."""
    try:
        return orjson.dumps(document)
    except TypeError:
        return json.dumps(document).encode()
