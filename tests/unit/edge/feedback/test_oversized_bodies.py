"""A too large body is read to its end, within limits."""

import asyncio

import pytest

from sundog_edge.feedback import oversized_bodies
from waiting import PATIENCE_S


class Body:
    """Returns the pieces, then its end; or hangs."""

    def __init__(self, *pieces: bytes, ends: bool = True) -> None:
        self.pieces = list(pieces)
        self.ends = ends

    async def readany(self) -> bytes:
        if self.pieces:
            return self.pieces.pop(0)
        if not self.ends:
            await asyncio.Event().wait()
        return b""


async def test_the_whole_body_is_read():
    body = Body(b"a", b"b", b"c")
    await oversized_bodies.drain_body(body)
    assert body.pieces == []


async def test_at_most_the_limit_is_read(monkeypatch):
    monkeypatch.setattr(oversized_bodies, "MAX_BYTES", 4)
    body = Body(b"abc", b"def", b"ghi", b"jkl")
    await oversized_bodies.drain_body(body)
    assert body.pieces == [b"ghi", b"jkl"]


@pytest.mark.parametrize("bound", ["BODY_TIMEOUT_S", "IDLE_TIMEOUT_S"])
async def test_a_slow_client_reaches_a_timeout(monkeypatch, bound):
    monkeypatch.setattr(oversized_bodies, "BODY_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(oversized_bodies, "IDLE_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(oversized_bodies, bound, 0.001)
    body = Body(b"abc", ends=False)
    await oversized_bodies.drain_body(body)
    assert body.pieces == []
