"""Commands to HAProxy's master: timeouts and retries."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sundog_edge.errors import HaproxyRefused, HaproxySilent
from sundog_edge.haproxy import client
from sundog_edge.haproxy.client import HaproxyClient, WorkerProcess


class Master:
    """A master's socket: the first `silent` connections get no answer, others get `said`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.silent = 0
        self.said = "31  worker  0  0d00h00m01s  2.8\n"
        self.asked: list[str] = []
        self.closed = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readline()).decode().strip())
        if self.silent:
            self.silent -= 1
            await self.closed.wait()
        else:
            writer.write(self.said.encode())
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
    assert await HaproxyClient(master.path).processes() == [WorkerProcess(31, old=False)]
    assert master.asked == ["show proc", "show proc"]


async def test_other_commands_are_sent_once_and_their_timeout_is_raised(master: Master) -> None:
    """HAProxy may have run it."""
    master.silent = 1
    with pytest.raises(HaproxySilent, match=rf"does not answer on {master.path} within 0.05 s"):
        await HaproxyClient(master.path).command("reload", timeout_s=0.05)
    assert master.asked == ["reload"]


async def test_a_reload_has_more_time_than_other_commands(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.RELOAD_S > 10 * client.TIMEOUT_S
    monkeypatch.setattr(client, "RELOAD_S", 0.05)
    master.silent = 1
    with pytest.raises(HaproxySilent, match=r"within 0\.05 s"):
        await HaproxyClient(master.path).reload()


SEPARATED = (
    "add server slot0/a 10.0.0.1:1; disable frontend edge",
    "add server slot0/a 10.0.0.1:1\ndisable frontend edge",
    "add server slot0/a 10.0.0.1:1\rdisable frontend edge",
    "add server slot0/a\\ b 10.0.0.1:1",
    "add server slot0/a 10.0.0.1:1\x00",
    "add server slot0/a << 10.0.0.1:1",
)


@pytest.mark.parametrize("command", SEPARATED)
async def test_text_with_more_than_one_command_is_not_sent(master: Master, command: str) -> None:
    haproxy = HaproxyClient(master.path)
    for send in (haproxy.command(command, 7), haproxy.batch(["show info", command], 7)):
        with pytest.raises(HaproxyRefused, match="was not sent"):
            await send
    assert master.asked == []


@pytest.mark.parametrize("payload", ["a 1\n\ndisable frontend edge\n", "\ndisable frontend edge\n", "a \x00\n"])
async def test_a_payload_that_would_end_early_is_not_sent(master: Master, payload: str) -> None:
    with pytest.raises(HaproxyRefused, match="was not sent"):
        await HaproxyClient(master.path).command(f"add map /s/hosts.map <<\n{payload}", 7)
    with pytest.raises(HaproxyRefused, match="expected no payload among several commands"):
        await HaproxyClient(master.path).batch(["add map /s/hosts.map <<\na 1\n"], 7)
    assert master.asked == []


@pytest.mark.parametrize("entries", [{"a": "1\nb 2"}, {"a\nb": "1"}])
async def test_a_map_entry_that_would_be_two_is_not_sent(master: Master, entries: dict[str, str]) -> None:
    with pytest.raises(HaproxyRefused, match="was not sent"):
        await HaproxyClient(master.path).change_map(7, Path("/s/hosts.map"), {}, entries)
    assert master.asked == []


async def test_an_error_shows_no_value_of_a_map(master: Master) -> None:
    master.said = "entry not found.\n"
    haproxy, path = HaproxyClient(master.path), Path("/s/signing.map")
    refused = [
        haproxy.change_map(7, path, {"newest": "c2VjcmV0"}, {"newest": "czNjcmV0"}),
        haproxy.batch([f"set map {path} newest czNjcmV0 ; show info"], 7),
        haproxy.batch([f"set map {path} newest czNjcmV0 <<\nczNjcmV0\n"], 7),
    ]
    for change in refused:
        with pytest.raises(HaproxyRefused, match=r"set map /s/signing\.map\W") as raised:
            await change
        assert "czNjcmV0" not in str(raised.value)


async def test_a_path_with_other_letters_and_a_payload_are_sent(master: Master) -> None:
    await HaproxyClient(master.path).command("add map /home/josé/s/hosts.map <<\na 1; 2\nb 2\n", 7)
    assert master.asked == ["@!7 add map /home/josé/s/hosts.map <<"]


@pytest.mark.parametrize(
    ("state", "status", "health", "expected"),
    [
        (2, 15, 2, (True, False, False)),
        (2, 12, 1, (True, True, True)),
        (0, 12, 0, (False, True, True)),
        (2, 12, 2, (True, True, False)),
        (0, 8, 0, (False, False, True)),
        (0, 13, 0, (False, False, True)),
        (0, 7, 0, (False, False, True)),
    ],
    ids=["passed", "late once", "late twice", "put back", "refused", "another application", "unreachable"],
)
async def test_a_late_check_is_distinguished_from_a_failed_one(
    master: Master, state: int, status: int, health: int, expected: tuple[bool, bool, bool]
) -> None:
    """Lines of HAProxy 2.8.25."""
    master.said = f"1\n# be_id be_name …\n2 slot0 1 10.0.0.1:1 10.0.0.1 {state} 0 1 1 3 {status} 0 {health} 7 0 0 0 - 1 - 0 0 - - 0\n"
    (found,) = await HaproxyClient(master.path).servers(31)
    assert (found.running, found.slow, found.failing) == expected
    assert (found.slot, found.address) == ("slot0", "10.0.0.1:1")
