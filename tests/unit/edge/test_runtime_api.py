"""Commands to HAProxy's master: who is silent, and who is asked again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sundog_edge.errors import HaproxySilent
from sundog_edge.runtime_api import Haproxy, Process


class Master:
    """A master's socket; `silent` so many connections are never answered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.silent = 0
        self.asked: list[str] = []
        self.closed = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readline()).decode().strip())
        if self.silent:
            self.silent -= 1
            await self.closed.wait()
        else:
            writer.write(b"31  worker  0  0d00h00m01s  2.8\n")
        writer.close()


@pytest.fixture
async def master(tmp_path: Path) -> AsyncIterator[Master]:
    made = Master(tmp_path / "master.sock")
    server = await asyncio.start_unix_server(made.answer, made.path)
    yield made
    made.closed.set()
    server.close()
    await server.wait_closed()


async def test_a_master_that_does_not_answer_the_first_connection_is_asked_again(master: Master) -> None:
    master.silent = 1
    assert await Haproxy(master.path).processes() == [Process(31, old=False)]
    assert master.asked == ["show proc", "show proc"]


async def test_another_command_is_sent_once_and_its_silence_told(master: Master) -> None:
    """It may have been obeyed."""
    master.silent = 1
    with pytest.raises(HaproxySilent, match=rf"does not answer on {master.path} within 0.05 s"):
        await Haproxy(master.path).command("reload", patience_s=0.05)
    assert master.asked == ["reload"]
