"""A change of a map costs only the differences, in an order without dangling references."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.haproxy.client import HaproxyClient

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
