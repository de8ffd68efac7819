"""The split: the same bucket as the Python reference, sticky, monotone, changed without a reload."""

import asyncio
import random
from collections import Counter

import pytest

from sundog_edge.split.assignment import arm_of_bucket, build_segments, unit_bucket, unit_hash
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

ADVERSARIAL = [
    b"a",
    b"0",
    b"-1",
    b"a,b",
    b"a, b",
    b'"quoted"',
    b"%00%0a",
    b"a|b!c;d",
    b"%[rand(5)]",
    b"\xc3\xa9\xe2\x82\xac",
    b"\xff\xfe\x80",
    b"inner  blanks\tand tab",
    b"$HOME ${HOME}",
    b"x" * 31,
    b"x" * 32,
    b"x" * 33,
    b"y" * 9000,
    b"digits-salt:",
    b"null",
]


def table_of_eleven(seed: int) -> list[list[list[int]]]:
    """As many arms as can be, with several ranges each, at odd places."""
    cuts = sorted(random.Random(seed).sample(range(1, 10_000), 65))
    ranges: list[list[list[int]]] = [[] for _ in range(11)]
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, 10_000], strict=True)):
        ranges[number % 11].append([start, end])
    return ranges


def units_at(salt: str, wanted: set[int]) -> list[bytes]:
    """Units whose buckets are the wanted ones: the edges of ranges."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < len(wanted):
        unit = b"u%d" % number
        place = unit_bucket(salt, unit)
        if place in wanted:
            found.setdefault(place, unit)
        number += 1
    return list(found.values())


async def arms_of(edge, units, path="/digits/") -> list[str]:
    """The arm that each unit gets, asked over raw connections so that any byte can be sent."""

    async def ask(mine: list[tuple[int, bytes]], into: dict[int, str]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.http_port)
        for place, unit in mine:
            writer.write(b"GET %s HTTP/1.1\r\nhost: a\r\nx-user-id: %s\r\n\r\n" % (path.encode(), unit))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if b": " in line)
            await reader.readexactly(int(fields[b"content-length"]))
            into[place] = fields[b"x-sundog-arm"].decode()
        writer.close()

    numbered = list(enumerate(units))
    into: dict[int, str] = {}
    await asyncio.gather(*(ask(numbered[start::8], into) for start in range(8)))
    return [into[place] for place in range(len(numbered))]


def random_units(count: int, seed: int) -> list[bytes]:
    """Header values of every length and of every byte that HTTP allows in one."""
    generator = random.Random(seed)
    allowed = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
    made = (
        bytes(generator.choices(allowed, k=min(int(generator.expovariate(0.03)) + 1, 2000))) for _ in range(2 * count)
    )
    return [unit for value in made if (unit := value.strip(b" \t"))][:count]


async def test_haproxy_and_the_reference_agree_on_ten_thousand_units(edge, serve):
    ranges = table_of_eleven(1)
    # No replica is needed to be told one's arm.
    serve.targets = {"digits-r0": []}
    await edge.apply(edge.service("digits", [edge.arm(f"a{n}", "digits-r0", own) for n, own in enumerate(ranges)]))
    salt = "digits-salt"
    bounds = {place for own in ranges for start, end in own for place in (start, end - 1)}
    generator = random.Random(2)
    units = [
        *ADVERSARIAL,
        *units_at(salt, bounds),
        *random_units(7000, 3),
        *(b"%d" % generator.randrange(-(1 << 70), 1 << 70) for _ in range(1000)),
        *(b"user-%d" % number for number in range(2000)),
    ]
    assert len(units) >= 10_000
    table = build_segments([[(start, end) for start, end in own] for own in ranges])
    expected = [f"a{arm_of_bucket(table, unit_bucket(salt, unit))}" for unit in units]
    assert await arms_of(edge, units) == expected
    evidence = await edge.settled(len(units))
    assert {row["unit"] for row in evidence["counters"]} == {"sticky"}
    assert {row["arm"]: row["assigned"] for row in evidence["counters"]} == Counter(expected)
    (sample,) = (await edge.evidence("detail=units"))["units"]
    below = {f"{number:016x}" for number in map(unit_hash, units) if number < int(sample["tau"], 16)}
    assert {number for number, *_ in sample["units"]} == below
    assert 0 < len(below) <= 1000


async def test_a_missing_or_empty_unit_is_split_at_random_and_counted_as_anonymous(edge, serve, digits):
    await edge.apply(
        edge.service(
            "digits",
            [
                edge.arm("stable", "digits-r7", [[0, 5000]]),
                edge.arm("canary", "digits-r8", [[5000, 10_000]], revision=8),
            ],
        )
    )
    arms = Counter(await arms_of(edge, [b""] * 600))
    # Four standard deviations of a fair coin thrown 600 times.
    assert abs(arms["canary"] - 300) < 49
    rows = (await edge.settled(600))["counters"]
    assert {row["unit"] for row in rows} == {"anonymous"}


async def test_kind_request_ignores_headers(edge, digits):
    both = [edge.arm("stable", "digits-r7", [[0, 5000]]), edge.arm("canary", "digits-r8", [[5000, 10_000]], revision=8)]
    await edge.apply(edge.service("digits", both, unit={"kind": "request"}))
    arms = Counter(await arms_of(edge, [b"the-same"] * 200))
    assert len(arms) == 2
    assert {row["unit"] for row in (await edge.settled(200))["counters"]} == {"anonymous"}


async def test_a_ramp_is_sticky_monotone_and_needs_no_reload(edge, digits):
    units = [b"user-%d" % number for number in range(300)]
    pids = {boot["pid"] for boot in (await edge.evidence())["boots"] if not boot["draining"] and not boot["endedAt"]}
    on_canary: set[bytes] = set()
    for epoch, end in enumerate([500, 2500, 5000, 10_000], start=1):
        stable = [[end, 10_000]] if end < 10_000 else []
        await edge.apply(
            edge.service(
                "digits",
                [edge.arm("stable", "digits-r7", stable), edge.arm("canary", "digits-r8", [[0, end]], revision=8)],
                epoch=epoch,
            )
        )
        arms = await arms_of(edge, units)
        assert arms == await arms_of(edge, units)
        now = {unit for unit, name in zip(units, arms, strict=True) if name == "canary"}
        assert on_canary <= now
        assert now == {unit for unit in units if unit_bucket("digits-salt", unit) < end}
        on_canary = now
    evidence = await edge.settled(len(units) * 8)
    assert {boot["pid"] for boot in evidence["boots"] if not boot["draining"] and not boot["endedAt"]} == pids
    for epoch in range(1, 5):
        assert sum(row["assigned"] for row in evidence["counters"] if row["epoch"] == epoch) == 2 * len(units)


async def test_weights_change_under_load_without_a_failed_request(edge, digits):
    async with edge.load() as load:
        await load.more(200)
        for epoch, end in enumerate([1000, 3000, 10_000, 0], start=1):
            stable = [[end, 10_000]] if end < 10_000 else []
            canary = [[0, end]] if end else []
            await edge.apply(
                edge.service(
                    "digits",
                    [edge.arm("stable", "digits-r7", stable), edge.arm("canary", "digits-r8", canary, revision=8)],
                    epoch=epoch,
                )
            )
            await load.more(200)
    assert load.failed == {}
    evidence = await edge.settled(load.sent)
    assert sum(row["lost"] for row in evidence["counters"]) == 0
    by_epoch = {
        epoch: {row["arm"] for row in evidence["counters"] if row["epoch"] == epoch and row["assigned"]}
        for epoch in range(5)
    }
    assert by_epoch == {0: {"stable"}, 1: {"stable", "canary"}, 2: {"stable", "canary"}, 3: {"canary"}, 4: {"stable"}}


async def test_services_have_their_own_salt_and_their_own_limits(edge, serve, replicas):
    one = await replicas("digits-r0")
    two = await replicas("other-r0")
    serve.targets = {"digits-r0": [one.address], "other-r0": [two.address]}
    halves = ([[0, 5000]], [[5000, 10_000]])
    await edge.apply(
        edge.service("digits", [edge.arm(f"a{n}", "digits-r0", own) for n, own in enumerate(halves)]),
        edge.service("other", [edge.arm(f"a{n}", "other-r0", own) for n, own in enumerate(halves)], maxRequestBytes=10),
    )
    await edge.up("digits", a0=1)
    await edge.up("other", a0=1)
    units = [b"user-%d" % number for number in range(200)]
    first, second = await arms_of(edge, units), await arms_of(edge, units, path="/other/")
    assert first == [f"a{int(unit_bucket('digits-salt', unit) >= 5000)}" for unit in units]
    assert second == [f"a{int(unit_bucket('other-salt', unit) >= 5000)}" for unit in units]
    assert first != second
    async with edge.session.post(f"{edge.url}/other/", data=b"x" * 11) as response:
        assert response.status == 413
    async with edge.session.post(f"{edge.url}/digits/", data=b"x" * 11) as response:
        assert response.status == 200


async def test_a_large_document_fits_through_the_command_line(edge, serve, replicas):
    one = await replicas("last-r0")
    serve.targets = {"last-r0": [one.address]}
    many = [edge.service(f"s{number}", [], hosts=[f"s{number}.{'x' * 150}.svc"]) for number in range(300)]
    await edge.apply(*many, edge.service("last", [edge.arm("stable", "last-r0", [[0, 10_000]])]))
    await edge.up("last", stable=1)

    async def answered() -> bool:
        return (await edge.get("/last/")).status == 200

    await edge.comes_true(answered, "an answer of the last service")
    assert (await edge.get("/x", headers={"host": f"s299.{'x' * 150}.svc"})).status == 503
