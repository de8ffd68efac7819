"""Reads HTTP bodies completely, up to a limit."""

import aiohttp


async def read_body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the whole body, or `most` + 1 bytes of a larger one.

    `read(most)` of aiohttp returns the bytes that have arrived by then, which may be fewer.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            break
    return bytes(body[: most + 1])
