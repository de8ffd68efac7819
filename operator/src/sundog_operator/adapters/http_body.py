"""Answers of others, read to their end."""

import aiohttp


async def read_body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole body, or `most` + 1 bytes of one that is larger.

    `read(most)` of aiohttp gives what has come by then, which is all of it only where the answer is small and the machine idle.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            break
    return bytes(body[: most + 1])
