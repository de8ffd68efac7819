"""Answers of gRPC health checks at zero."""

import asyncio
from pathlib import Path

import pytest

from sundog_edge.haproxy.rules import grpc
from sundog_edge.replicas.cold_calls import answer, start_cold_calls

CHECK, READY = f"{grpc.HEALTH}Check", f"{grpc.SERVICE}ModelReady"


def message(text: bytes = b"") -> bytes:
    body = b"\n" + bytes([len(text)]) + text if text else b""
    return b"\x00" + len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"{grpc.SERVICE}ServerLive", message(), 0),
        (f"{grpc.SERVICE}ServerReady", message(), 0),
        (READY, message(b"digits"), 0),
        (READY, message(b"letters"), 5),
        (READY, message(), 5),
        (CHECK, message(), 0),
        (CHECK, message(b"digits"), 0),
        (CHECK, message(b"inference.GRPCInferenceService"), 0),
        (CHECK, message(b"letters"), 5),
        (READY, message(b"digits")[:-2], 3),
        (READY, b"\x00\x00\x00\x00\x02\n", 3),
        (READY, message(b"\xff"), 3),
    ],
)
def test_a_health_check_at_zero_is_answered_as_a_replica_would(path: str, body: bytes, status: int) -> None:
    assert answer(path, "digits", body) == (status, b"\x08\x01" if status == 0 else b"")


@pytest.mark.parametrize(
    ("sent", "ends"),
    [
        (b"content-length: 5\r\n\r\n" + message(), b"\r\n0\r\ngrpc-status: 0\r\n\r\n"),
        (b"transfer-encoding: chunked\r\n\r\n3\r\n\0\0\0\r\n2\r\n\0\0\r\n0\r\n\r\n", b"grpc-status: 0\r\n\r\n"),
        (b"transfer-encoding: chunked\r\n\r\nffffff\r\n", b""),
        (b"transfer-encoding: chunked\r\n\r\nx\r\n", b""),
        (b"content-length: 9999999\r\n\r\n", b""),
    ],
)
async def test_haproxy_gets_the_status_after_the_message(tmp_path: Path, sent: bytes, ends: bytes) -> None:
    server = await start_cold_calls(tmp_path / "s")
    async with server:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(f"POST {CHECK} HTTP/1.1\r\nhost: digits\r\nx-sundog-service: digits\r\n".encode() + sent)
        found = await reader.read()
        assert found.endswith(ends)
        assert bool(found) == bool(ends)
        writer.close()
        await writer.wait_closed()
