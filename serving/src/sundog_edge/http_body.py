"""Read HTTP bodies up to a limit."""

import aiohttp


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return the whole body, or `max_bytes` + 1 bytes of a larger one."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            break
    return bytes(body[: max_bytes + 1])
