"""Commands to HAProxy: timeouts, retries, and changes of maps, which cost only the differences and leave no dangling reference."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


MAP = Path("/m/x.map")


ENTRIES = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["1", "2", "3"]))


class Recorder(HaproxyClient):
    """A worker's map, changed by commands."""

    def __init__(self, entries: dict[str, str]) -> None:
        super().__init__(Path("/none"))
        self.entries = dict(entries)
        self.prepared: dict[str, str] = {}
        self.sent: list[str] = []

    async def _send(self, text: str, pid: int | None, timeout_s: float = 5.0) -> str:
        self.sent.append(text)
        answers = [
            self._one(part.removeprefix(f"@!{pid} ")) for part in (text.split("; ") if "<<" not in text else [text])
        ]
        return "".join(answers)

    def _one(self, text: str) -> str:
        match text.split(maxsplit=4):
            case ["prepare", "map", _]:
                return "New version created: 7\n"
            case ["add", "map", "@7", *_]:
                self.prepared |= _pairs(text)
            case ["add", "map", *_]:
                self.entries |= _pairs(text)
            case ["commit", "map", "@7", _]:
                self.entries = self.prepared
            case ["set", "map", _, key, value]:
                assert key in self.entries
                self.entries[key] = value
            case ["del", "map", _, key]:
                del self.entries[key]
        return ""


def _pairs(payload: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in payload.split("\n")[1:] if line)


@given(ENTRIES, ENTRIES)
async def test_the_map_gets_the_desired_content(before, after):
    haproxy = Recorder(before)
    await haproxy.change_map(1, MAP, before, after)
    assert haproxy.entries == after
    differs = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    assert bool(haproxy.sent) == bool(differs)


async def test_one_entry_of_thousands_is_one_command():
    before = {f"k{number}": "1" for number in range(10_000)}
    haproxy = Recorder(before)
    await haproxy.change_map(1, MAP, before, {**before, "k77": "2"})
    assert haproxy.sent == [f"set map {MAP} k77 2"]


async def test_a_map_with_many_changes_is_replaced_in_one_step():
    before = {f"k{number}": "1" for number in range(1000)}
    haproxy = Recorder(before)
    await haproxy.change_map(1, MAP, before, dict.fromkeys(before, "2"))
    assert haproxy.entries == dict.fromkeys(before, "2")
    assert haproxy.sent[0].startswith("prepare map")
    assert haproxy.sent[-1].startswith("commit map")


@pytest.mark.parametrize("value", ["a b", "a;b", "a\\b", "a#b", "<<", '"a"', "'a'", "é"])
async def test_a_value_that_cannot_be_a_word_is_sent_as_payload(value):
    haproxy = Recorder({"a": "1", "b": "1"})
    await haproxy.change_map(1, MAP, {"a": "1", "b": "1"}, {"a": value, "b": "1"})
    assert not [command for command in haproxy.sent if command.startswith("set map")]
    assert haproxy.entries == {"a": value, "b": "1"}


async def test_ordinary_values_are_set_in_place():
    for value in (
        "salt|jsonPath:$.a[0]|5000|6|100000|0f|ro",
        "slot1!digits/a/0/stable/assigned!/digits-r7.app!7!stable!250000",
    ):
        haproxy = Recorder({"a": "1"})
        await haproxy.change_map(1, MAP, {"a": "1"}, {"a": value})
        assert haproxy.sent == [f"set map {MAP} a {value}"]


@pytest.mark.parametrize("entries", [1, 100, 5000])
async def test_every_command_fits_a_buffer(entries):
    haproxy = Recorder({})
    await haproxy.change_map(1, MAP, {}, {f"key-{number}": "v" * 200 for number in range(entries)})
    assert len(haproxy.entries) == entries
    assert max(map(len, haproxy.sent)) < 16_000
