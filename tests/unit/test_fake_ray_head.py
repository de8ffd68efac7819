"""The servers of tests end with every connection, also with one that comes as they end."""

import asyncio
import socket

import pytest

from fake_ray_head import end, listen, replica
from ports import free_port
from waiting import PATIENCE_S


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_comes_as_a_server_ends_ends_with_it(turns: int) -> None:
    port = free_port()
    runner = await listen(replica("digits", "/digits.app"), port)
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        await end(runner)
        assert await asyncio.to_thread(_is_over, client), "the connection outlives its server"


def _is_over(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
