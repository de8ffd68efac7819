"""What every store of feedback does: in memory, in a SQLite file, and in a server of the protocol of Valkey and Redis."""

import asyncio
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, count, repeat
from pathlib import Path

import pytest
import redis

from damaged_files import garbage, overwritten
from feedback_stores import PASSWORD, MemoryStore, RedisServer, redis_server
from ports import free_port
from sundog_edge.errors import SettingsError, StoreUnavailable
from sundog_edge.feedback.events import OutcomeEvent
from sundog_edge.feedback.exposure import SignedExposure
from sundog_edge.feedback.join import FirstExposure, OutcomeBatch, render_feedback_section
from sundog_edge.feedback.open_store import open_store
from sundog_edge.feedback.redis_store import RedisStore
from sundog_edge.feedback.sqlite_store import SqliteStore
from sundog_edge.feedback.store import RETENTION_S, OutcomeStore
from sundog_edge.split.feedback import MAX_OUTCOME_AGE_S
from waiting import eventually

T0 = 1_769_000_000
MILLION = 1_000_000
BIG = 10**15


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def event(
    number: int,
    unit: int,
    value: int = MILLION,
    *,
    metric: str = "m",
    at: int = T0 + 5,
    told: SignedExposure | None = None,
    properties: str = "",
):
    return OutcomeEvent(key(number), unit, told, metric, value, at, properties=properties)


def first(arm: str = "a", epoch: int = 1, at: int = T0) -> FirstExposure:
    return FirstExposure(at * MILLION + 7, epoch, arm)


Opener = Callable[[], Awaitable[OutcomeStore]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens the store once more, as another edge does."""
    stores: list[OutcomeStore] = []
    memory = MemoryStore()
    namespace = f"n{random.randrange(1 << 60)}"

    async def another() -> OutcomeStore:
        if request.param == "memory":
            return memory
        if request.param == "sqlite":
            store = open_store(f"sqlite://{tmp_path}/feedback.db", namespace)
        else:
            port, password, _ = request.getfixturevalue("server")
            store = open_store(f"redis://127.0.0.1:{port}", namespace, password)
        stores.append(store)
        return store

    yield another
    for store in stores:
        await store.close()


@pytest.fixture
async def store(opened: Opener) -> OutcomeStore:
    return await opened()


async def tally(store: OutcomeStore, attempt: str = "s/a") -> dict[str, int]:
    return dict((await store.read([attempt])).tallies[attempt])


async def test_an_empty_store_has_an_id_and_nothing_else(opened: Opener) -> None:
    one, other = await opened(), await opened()
    found = await one.read(["s/a", "s/b"])
    assert found.tallies == {"s/a": {}, "s/b": {}}
    assert found.id
    assert (await other.read([])).id == found.id


async def test_a_units_total_above_a_cap_counts_as_the_cap(opened: Opener) -> None:
    """Sums without a cap stay as they are, and so does the total: a later negative value is taken from it, not from the cap."""
    store, other = await opened(), await opened()
    caps = {"m": (3 * MILLION, 10 * MILLION)}

    async def send(to: OutcomeStore, *events: OutcomeEvent) -> dict[str, int]:
        assert set(await to.write("s/a", OutcomeBatch({1: first("a"), 2: first("a")}, events, caps=caps))) == {
            "accepted"
        }
        found = await tally(store)
        return {name.removeprefix("outcome/m"): found[name] for name in found if name.endswith(("/sum", "/squares"))}

    assert await send(store, event(1, 1, 2 * MILLION), event(2, 1, 3 * MILLION), event(3, 2, -1 * MILLION)) == {
        "/1/a/sum": 4 * MILLION,
        "/1/a/squares": 26 * MILLION**2,
        "@3000000/1/a/sum": 2 * MILLION,
        "@3000000/1/a/squares": 10 * MILLION**2,
        "@10000000/1/a/sum": 4 * MILLION,
        "@10000000/1/a/squares": 26 * MILLION**2,
    }
    await send(other, event(4, 1, 20 * MILLION), event(5, 2, metric="other"))
    later = await send(other, event(6, 1, -24 * MILLION))
    assert (later["@3000000/1/a/sum"], later["@3000000/1/a/squares"]) == (0, 2 * MILLION**2)
    assert (later["/1/a/sum"], later["@10000000/1/a/sum"]) == (0, 0)
    units = await tally(store)
    columns = [units[f"outcome/m{cap}/1/a/{name}"] for cap in ("", "@3000000") for name in ("units", "positive")]
    assert columns == [2, 1, 2, 1]
    assert not [name for name in units if name.startswith("outcome/other@")]


async def test_units_count_for_a_window_once_it_has_passed(opened: Opener) -> None:
    """An event after the window is accepted, but only counts for the sums without one."""
    store, other = await opened(), await opened()
    caps, windows = {"m": (3 * MILLION,)}, {"m": (240,)}

    async def send(to: OutcomeStore, now_s: int, *events: OutcomeEvent, unit: int = 1) -> dict[str, int]:
        exposed = {unit: first("a", at=T0 + unit)}
        batch = OutcomeBatch(exposed, events, caps=caps, windows=windows, now_s=now_s)
        assert await to.write("s/a", batch) == ["accepted"] * len(events)
        return await tally(other)

    waiting = await send(store, T0 + 9, event(1, 1, 5 * MILLION), event(2, 1, at=T0 + 241), event(3, 1, at=T0 + 242))
    assert waiting["outcome/m/1/a/sum"] == 7 * MILLION
    assert not [name for name in waiting if name.startswith(("matured/", "outcome/m@240s", "outcome/m@3000000@"))]
    await send(other, T0 + 20, unit=15)
    found = await send(store, T0 + 252, unit=250)
    assert {name: found[name] for name in found if name.startswith(("matured/", "outcome/m@"))} == {
        "matured/240/1/a": 1,
        "outcome/m@3000000/1/a/units": 1,
        "outcome/m@3000000/1/a/positive": 1,
        "outcome/m@3000000/1/a/sum": 3 * MILLION,
        "outcome/m@3000000/1/a/squares": 9 * MILLION**2,
        "outcome/m@240s/1/a/units": 1,
        "outcome/m@240s/1/a/positive": 1,
        "outcome/m@240s/1/a/sum": 6 * MILLION,
        "outcome/m@240s/1/a/squares": 36 * MILLION**2,
        "outcome/m@3000000@240s/1/a/units": 1,
        "outcome/m@3000000@240s/1/a/positive": 1,
        "outcome/m@3000000@240s/1/a/sum": 3 * MILLION,
        "outcome/m@3000000@240s/1/a/squares": 9 * MILLION**2,
    }
    # What has matured does not wait any more; a late report of its window counts at once.
    later = await send(other, T0 + 600, event(4, 1, MILLION, at=T0 + 100))
    assert later["outcome/m@240s/1/a/sum"] == 7 * MILLION
    assert later["matured/240/1/a"] == 3
    assert not [name for name in later if name.startswith("waiting/")]


async def test_units_that_come_back_between_two_times_count_once_these_have_passed(opened: Opener) -> None:
    """Both ends count. Reports come in any order; neither an early event nor another epoch changes what comes later."""
    store, other = await opened(), await opened()
    kept = OutcomeBatch(windows={"m": (240,)}, delayed_windows={"m": ((60, 240),), "paid": ((60, 240), (90, 240))})
    came_back = {1: (60,), 2: (240,), 3: (100, 5), 4: (5, 100, 230)}
    stayed_away = {5: (59,), 6: (241,), 7: ()}
    for unit, seconds in {**came_back, **stayed_away}.items():
        for place, after in enumerate(seconds):
            own = event(10 * unit + place, unit, at=T0 + after)
            batch = replace(kept, firsts={unit: first("a")}, events=(own,), now_s=T0 + 9)
            assert await store.write("s/a", batch) == ["accepted"]
            # Sent again to another edge, which sees the unit in a later epoch.
            later = replace(batch, firsts={unit: first("b", 2, T0 + 50)}, caps={"paid": (5,)})
            assert await other.write("s/a", later) == ["duplicate"]
    paid = [event(90 + at, 1, at * MILLION, metric="paid", at=T0 + at) for at in (59, 70, 95)]
    await other.write("s/a", replace(kept, firsts={7: first("a")}, events=paid, caps={"paid": (5 * MILLION,)}))
    waiting = await tally(store)
    assert (waiting["outcome/m/1/a/units"], waiting["delayed"]) == (6, waiting["units"] + waiting["events"])
    assert not [
        name for name in waiting if name.startswith(("matured/", "outcome/m@", "outcome/paid@60-", "exposed/2"))
    ]
    await store.write("s/a", replace(kept, now_s=T0 + 252))
    found = await tally(other)
    assert found["matured/240/1/a"] == 7
    assert {name: found[name] for name in found if name.startswith("outcome/") and name.endswith(("units", "sum"))} == {
        "outcome/m/1/a/units": 6,
        "outcome/m/1/a/sum": 9 * MILLION,
        "outcome/m@240s/1/a/units": 5,
        "outcome/m@240s/1/a/sum": 8 * MILLION,
        "outcome/m@60-240s/1/a/units": len(came_back),
        "outcome/m@60-240s/1/a/sum": 5 * MILLION,
        "outcome/paid/1/a/units": 1,
        "outcome/paid/1/a/sum": 224 * MILLION,
        "outcome/paid@5000000/1/a/units": 1,
        "outcome/paid@5000000/1/a/sum": 5 * MILLION,
        "outcome/paid@60-240s/1/a/units": 1,
        "outcome/paid@60-240s/1/a/sum": 165 * MILLION,
        "outcome/paid@5000000@60-240s/1/a/units": 1,
        "outcome/paid@5000000@60-240s/1/a/sum": 5 * MILLION,
        "outcome/paid@90-240s/1/a/units": 1,
        "outcome/paid@90-240s/1/a/sum": 95 * MILLION,
        "outcome/paid@5000000@90-240s/1/a/units": 1,
        "outcome/paid@5000000@90-240s/1/a/sum": 5 * MILLION,
    }
    assert found["outcome/m@60-240s/1/a/positive"] == len(came_back)


async def test_the_products_of_a_units_two_totals_are_summed(opened: Opener) -> None:
    """The two totals may come in any order, by any edge, in one batch or in several."""
    store, other = await opened(), await opened()
    products = [("m", "other")]

    async def send(to: OutcomeStore, *events: OutcomeEvent) -> int | None:
        batch = OutcomeBatch({1: first("a"), 2: first("a")}, events, products=products)
        assert {*await to.write("s/a", batch)} == {"accepted"}
        return (await tally(store)).get("product/m*other/1/a")

    assert await send(store, event(1, 1, 2 * MILLION), event(2, 2, 3 * MILLION)) is None
    assert await send(other, event(3, 1, 10 * MILLION, metric="other"), event(4, 1, MILLION)) == 30 * MILLION**2
    both = event(5, 2, -1 * MILLION, metric="other"), event(6, 2, 4 * MILLION)
    assert await send(store, *both) == (30 - 7) * MILLION**2
    assert await send(other, event(7, 1, metric="third")) == 23 * MILLION**2
    # Beyond 64 bits.
    assert await send(other, event(8, 1, 10**15), event(9, 1, 10**15, metric="other")) > 10**29


async def test_totals_from_before_the_exposure_are_a_covariate(opened: Opener) -> None:
    """They name the unit and a time of the 30 days before; a report that names an exposure cannot be older than that."""
    store, other = await opened(), await opened()
    told = SignedExposure("a", 1, "a", 1, T0)
    events = (
        event(1, 1, 3 * MILLION, at=T0 - 86_400),
        event(2, 1, 4 * MILLION, at=T0 - MAX_OUTCOME_AGE_S),
        event(3, 1, at=T0 - MAX_OUTCOME_AGE_S - 1),
        event(4, 1, at=T0 - 60),
        event(5, 1, at=T0 - 3600, told=told),
        event(6, 1, at=T0 - 3600, metric="other"),
        event(7, 1, 10 * MILLION),
    )
    batch = OutcomeBatch({1: first("a")}, events[:2], covariates=[("m", "m")])
    assert await store.write("s/a", batch) == ["accepted"] * 2
    results = await other.write("s/a", replace(batch, firsts={}, events=events))
    assert results == ["duplicate", "duplicate", "late", "late", "late", "late", "accepted"]
    found = await tally(store)
    assert (found["outcome/m</1/a/sum"], found["outcome/m</1/a/squares"]) == (7 * MILLION, 49 * MILLION**2)
    assert (found["outcome/m/1/a/sum"], found["product/m*m</1/a"]) == (10 * MILLION, 70 * MILLION**2)
    assert found["early"] == 1
    assert [each.metric async for each in store.outcomes("s/a")] == ["m<", "m<", "m"]


async def test_outcomes_are_joined_with_first_exposures(opened: Opener) -> None:
    store, other = await opened(), await opened()
    assert await store.write("s/a", OutcomeBatch({1: first("a"), 2: first("b", 2), (1 << 64) - 1: first("b", 2)})) == []
    # The first that was recorded stays.
    await other.write("s/a", OutcomeBatch({1: first("b", 9), 3: first("a")}))
    events = (
        event(1, 1, 2 * MILLION),
        event(2, 1, -5 * MILLION),
        event(3, 2, 0),
        event(4, (1 << 64) - 1, 3),
        event(5, 7),
        event(1, 1, 2 * MILLION),
        event(6, 3, at=T0 - 1),
        event(7, 3, at=T0 + MAX_OUTCOME_AGE_S + 1),
        event(8, 3, at=T0),
        event(9, 3, at=T0 + MAX_OUTCOME_AGE_S, metric="other"),
    )
    results = await other.write("s/a", OutcomeBatch(events=events, refused={"invalid": 2, "future": 1, "unknown": 3}))
    assert results == [*["accepted"] * 4, "unknown", "duplicate", "late", "late", "accepted", "accepted"]
    assert await tally(store) == {
        "exposed/1/a": 2,
        "exposed/2/b": 2,
        "units": 4,
        "events": 6,
        "outcome/m/1/a/units": 2,
        "outcome/m/1/a/positive": 2,
        "outcome/m/1/a/sum": -2 * MILLION,
        "outcome/m/1/a/squares": 10 * MILLION**2,
        "outcome/m/2/b/units": 2,
        "outcome/m/2/b/positive": 1,
        "outcome/m/2/b/sum": 3,
        "outcome/m/2/b/squares": 9,
        "outcome/other/1/a/units": 1,
        "outcome/other/1/a/positive": 1,
        "outcome/other/1/a/sum": MILLION,
        "outcome/other/1/a/squares": MILLION**2,
        "unknown": 4,
        "duplicate": 1,
        "late": 2,
        "invalid": 2,
        "future": 1,
        "sequence": 3,
    }
    assert await tally(other) == await tally(store)


async def test_what_comes_again_in_another_batch_is_a_duplicate(opened: Opener) -> None:
    store, other = await opened(), await opened()
    batch = OutcomeBatch({1: first()}, (event(1, 1), event(2, 1)))
    assert await store.write("s/a", batch) == ["accepted", "accepted"]
    assert await other.write("s/a", batch) == ["duplicate", "duplicate"]
    found = await tally(store)
    assert (found["outcome/m/1/a/sum"], found["duplicate"], found["events"]) == (2 * MILLION, 2, 2)


async def test_attempts_know_nothing_of_each_other(store: OutcomeStore) -> None:
    await store.write("s/a", OutcomeBatch({1: first()}, (event(1, 1),)))
    assert await store.write("s/b", OutcomeBatch(events=(event(1, 1),))) == ["unknown"]
    assert await store.write("s/b", OutcomeBatch({1: first("b")}, (event(1, 1),))) == ["accepted"]
    assert (await tally(store))["exposed/1/a"] == 1


async def test_a_write_that_changes_nothing_leaves_the_sequence(store: OutcomeStore) -> None:
    await store.write("s/a", OutcomeBatch({1: first()}))
    assert await store.write("s/a", OutcomeBatch({1: first("b")})) == []
    assert (await tally(store))["sequence"] == 1


async def test_sums_of_large_values_are_exact(store: OutcomeStore) -> None:
    await store.write("s/a", OutcomeBatch({1: first(), 2: first()}))
    for number in range(30):
        await store.write("s/a", OutcomeBatch(events=(event(number, 1 + number % 2, BIG - number),)))
    sums = [sum(BIG - number for number in range(start, 30, 2)) for start in (0, 1)]
    found = await tally(store)
    assert found["outcome/m/1/a/sum"] == sum(sums)
    assert found["outcome/m/1/a/squares"] == sum(own**2 for own in sums) > 1 << 100


async def test_requests_are_units_that_are_not_kept(store: OutcomeStore) -> None:
    exposure = SignedExposure("a", 4, "b", 9, T0)
    batch = OutcomeBatch(
        events=(event(1, 9, told=exposure), event(2, 10, told=exposure._replace(unit=10))), sticky=False
    )
    assert await store.write("s/a", batch) == ["accepted", "accepted"]
    found = await tally(store)
    assert (found["outcome/m/4/b/units"], found.get("units"), found.get("exposed/4/b")) == (2, None, None)


async def test_a_signed_exposure_is_known_before_its_request_was_counted(store: OutcomeStore) -> None:
    exposure = SignedExposure("a", 4, "b", 9, T0)
    assert await store.write("s/a", OutcomeBatch(events=(event(1, 9, told=exposure),))) == ["accepted"]
    await store.write("s/a", OutcomeBatch({9: first("a", 5)}, (event(2, 9),)))
    found = await tally(store)
    assert (found["exposed/4/b"], found["outcome/m/4/b/sum"]) == (1, 2 * MILLION)
    assert "exposed/5/a" not in found


async def test_beyond_its_bounds_a_store_counts_and_keeps_nothing(store: OutcomeStore) -> None:
    bounds = {"max_units": 2, "max_events": 2}
    exposure = SignedExposure("a", 4, "b", 9, T0)
    await store.write("s/a", OutcomeBatch({unit: first() for unit in range(5)}, dropped=10, **bounds))
    results = await store.write("s/a", OutcomeBatch(events=tuple(event(n, n) for n in range(3)), **bounds))
    assert results == ["accepted", "accepted", "unknown"]
    assert await store.write("s/a", OutcomeBatch(events=(event(9, 0), event(1, 1)), **bounds)) == [
        "overflow",
        "duplicate",
    ]
    assert await store.write("s/a", OutcomeBatch(events=(event(10, 9, told=exposure),), **bounds)) == ["overflow"]
    found = await tally(store)
    assert (found["units"], found["events"], found["overflow"], found["unknown"]) == (2, 2, 15, 1)


async def test_what_is_kept_can_be_read_as_it_came(store: OutcomeStore) -> None:
    firsts = {unit * 0x9E3779B97F4A7C15 & (1 << 64) - 1: first("ab"[unit % 2], unit % 3) for unit in range(2500)}
    await store.write("s/a", OutcomeBatch(firsts))
    units = [*firsts]
    for start in range(0, 1200, 300):
        told = tuple(event(n, units[n], n - 600, at=T0 + n, metric="mn"[n % 2]) for n in range(start, start + 300))
        await store.write("s/a", OutcomeBatch(events=(*told, event(start, units[start]))))
    assert {each.unit: each[1:] for each in [each async for each in store.exposures("s/a")]} == firsts
    outcomes = [each async for each in store.outcomes("s/a")]
    assert outcomes == [
        (units[n], "mn"[n % 2], firsts[units[n]].epoch, firsts[units[n]].arm, n - 600, T0 + n, "") for n in range(1200)
    ]
    assert [each async for each in store.exposures("s/b")] == [each async for each in store.outcomes("s/b")] == []


async def test_properties_are_stored_until_their_bytes_reach_the_limit(store: OutcomeStore) -> None:
    """An outcome counts with or without its properties."""
    plan = '{"plan":"é"}'
    with_plan = tuple(event(number, number, properties=plan) for number in range(3))
    batch = OutcomeBatch({unit: first() for unit in range(5)}, max_property_bytes=2 * len(plan.encode()))
    assert await store.write("s/a", replace(batch, events=(event(3, 3), *with_plan))) == ["accepted"] * 4
    assert await store.write("s/a", replace(batch, events=(with_plan[0], event(4, 4)))) == ["duplicate", "accepted"]
    found = await tally(store)
    assert (found["events"], found["outcome/m/1/a/sum"], found["propertiesDropped"]) == (5, 5 * MILLION, 1)
    stored = [(each.unit, each.properties) async for each in store.outcomes("s/a")]
    assert stored == [(3, ""), (0, plan), (1, plan), (2, ""), (4, "")]
    await store.write("s/b", OutcomeBatch({1: first()}, (event(1, 1, properties=plan),)))
    assert render_feedback_section("a", "x", found)["propertiesDropped"] == 1
    assert "propertiesDropped" not in render_feedback_section("b", "x", await tally(store, "s/b"))


async def test_edges_of_an_earlier_release_share_a_file_with_properties(tmp_path: Path) -> None:
    """They insert rows of eight columns, and what they remove takes its properties with it."""
    place = tmp_path / "feedback.db"
    store = SqliteStore(place)
    events = tuple(event(number, 1, properties='{"plan":"pro"}') for number in range(3))
    await store.write("s/a", OutcomeBatch({1: first()}, events))
    with closing(sqlite3.connect(place)) as earlier, earlier:
        earlier.execute("INSERT INTO events VALUES (1, 4, ?, 'm', 1, 'a', 7, 8)", (bytes(8),))
        earlier.execute("DELETE FROM events WHERE attempt = 1 AND number <= 2")
        assert earlier.execute("SELECT number FROM properties").fetchall() == [(3,)]
    assert [each.properties async for each in store.outcomes("s/a")] == ['{"plan":"pro"}', ""]
    await store.close()


async def test_an_attempt_that_nobody_names_is_forgotten_after_a_week(opened: Opener) -> None:
    store, other = await opened(), await opened()
    for attempt in ("s/a", "s/b", "s/c"):
        await store.write(attempt, OutcomeBatch({1: first()}, (event(1, 1),)))
    await store.name(["s/a", "s/b"], T0)
    await other.name(["s/a"], T0 + RETENTION_S)
    assert (await tally(store, "s/b"))["units"] == 1
    await other.name(["s/a"], T0 + RETENTION_S + 1)
    assert (await tally(store, "s/a"))["units"] == 1
    assert await tally(store, "s/b") == await tally(store, "s/c") == {}
    # Nothing of it is left that could make a new event a duplicate.
    assert await store.write("s/b", OutcomeBatch({1: first()}, (event(1, 1),))) == ["accepted"]


async def test_edges_that_write_at_the_same_time_count_each_event_once(opened: Opener) -> None:
    stores = [await opened() for _ in range(4)]
    numbers = list(range(120))

    async def report(store: OutcomeStore, seed: int) -> list[str]:
        generator, results = random.Random(seed), []
        own = generator.sample(numbers, len(numbers))
        while own:
            some, own = own[:7], own[7:]
            events = tuple(event(number, number % 11, number) for number in some)
            results += await store.write("s/a", OutcomeBatch({unit: first() for unit in range(11)}, events))
        return results

    results = list(chain(*await asyncio.gather(*(report(store, seed) for seed, store in enumerate(stores)))))
    assert (results.count("accepted"), results.count("duplicate")) == (120, 360)
    found = await tally(stores[0])
    assert found["outcome/m/1/a/sum"] == sum(numbers)
    assert found["outcome/m/1/a/squares"] == sum(sum(range(unit, 120, 11)) ** 2 for unit in range(11))
    assert (found["units"], found["exposed/1/a"], found["duplicate"]) == (11, 11, 360)


async def test_edges_that_open_a_new_file_at_the_same_time_all_write_to_it(tmp_path: Path) -> None:
    for attempt in range(25):
        stores = [SqliteStore(tmp_path / f"{attempt}.db") for _ in range(8)]
        batches = (OutcomeBatch({1: first()}, (event(number, 1),)) for number in range(8))
        results = await asyncio.gather(*map(SqliteStore.write, stores, repeat("s/a"), batches), return_exceptions=True)
        assert results == [["accepted"]] * 8
        await asyncio.gather(*(store.close() for store in stores))


async def test_the_stream_of_events_is_bounded_and_the_sums_are_not(tmp_path: Path, server: RedisServer) -> None:
    port, password, _ = server
    small = SqliteStore(tmp_path / "small.db", stream_events=10)
    stream = RedisStore("127.0.0.1", port, password, "bounded", stream_events=10)
    for store in (small, stream):
        for start in range(0, 500, 5):
            await store.write(
                "s/a", OutcomeBatch({1: first()}, tuple(event(number, 1) for number in range(start, start + 5)))
            )
        assert (await tally(store))["events"] == 500
        await store.close()
    with sqlite3.connect(tmp_path / "small.db") as connection:
        assert connection.execute("SELECT count(*), max(number) FROM events").fetchone() == (10, 500)
    connection.close()
    with redis.Redis(port=port, password=PASSWORD) as plain:
        # Valkey and Redis trim whole nodes of a hundred entries.
        assert 10 <= plain.xlen("sundog:{bounded}:s/a:events") <= 110


async def test_a_store_reports_that_it_is_away_and_comes_back(tmp_path: Path, unused_port: int) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    password = folder / "password"
    store = open_store(f"redis://127.0.0.1:{unused_port}", "n", password)
    password.write_text("wrong")
    with pytest.raises(StoreUnavailable, match=f"feedback store 127.0.0.1:{unused_port}"):
        await store.read(["s/a"])
    with redis_server(folder, unused_port):
        assert await store.write("s/a", OutcomeBatch({1: first()}, (event(1, 1),))) == ["accepted"]
    with pytest.raises(StoreUnavailable):
        await store.write("s/a", OutcomeBatch(events=(event(2, 1),)))
    with redis_server(folder, unused_port):
        # What was acknowledged outlived the server; what was not can be sent again.
        assert await store.write("s/a", OutcomeBatch(events=(event(1, 1), event(2, 1)))) == ["duplicate", "accepted"]
        password.write_text("wrong")
        other = open_store(f"redis://127.0.0.1:{unused_port}", "n", password)
        with pytest.raises(StoreUnavailable) as raised:
            await other.read([])
        assert "wrong" not in str(raised.value)
        await other.close()
        await store.close()


async def test_what_the_shipped_server_accepted_outlives_its_sudden_end(tmp_path: Path, unused_port: int) -> None:
    """The server is killed between writes of four edges. Its settings matter too: the kernel keeps what was not yet on disk."""
    accepted: set[int] = set()
    numbers = count()

    async def report(store: OutcomeStore, pid: int) -> None:
        for number in numbers:
            results = await store.write("s/a", OutcomeBatch({number % 7: first()}, (event(number, number % 7),)))
            assert results == ["accepted"]
            accepted.add(number)
            if len(accepted) == 100:
                os.kill(pid, signal.SIGKILL)

    with redis_server(tmp_path, unused_port) as (port, password, pid):
        with redis.Redis(port=port, password=PASSWORD) as plain:
            found = plain.config_get("append*", "no-appendfsync-on-rewrite", "maxmemory-policy")
        assert found | {"appendonly": "yes", "appendfsync": "always"} == found
        assert found | {"no-appendfsync-on-rewrite": "no", "maxmemory-policy": "noeviction"} == found
        stores = [open_store(f"redis://127.0.0.1:{port}", "n", password) for _ in range(4)]
        ends = await asyncio.gather(*(report(store, pid) for store in stores), return_exceptions=True)
        assert [*map(type, ends)] == [StoreUnavailable] * 4
    assert len(accepted) >= 100
    with redis_server(tmp_path, unused_port):
        again = [
            (number, *await stores[0].write("s/a", OutcomeBatch(events=(event(number, number % 7),))))
            for number in range(next(numbers))
        ]
        assert {number for number, result in again if result == "duplicate"} >= accepted
        assert {result for _, result in again} <= {"accepted", "duplicate"}
        found_tally = await tally(stores[0])
        assert found_tally["events"] == len(again)
        assert found_tally["outcome/m/1/a/sum"] == len(again) * MILLION
        for store in stores:
            await store.close()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of a mebibyte in memory. Skips where that is not allowed."""
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        pytest.skip("mount is not installed")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run([unmount, folder], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Fill a disk to the last byte. A server that saves at its end has space again by then, also if the test fails."""
    filler = disk / "filler"
    with filler.open("wb", 0) as file, suppress(OSError):
        while file.write(bytes(512)):
            pass
    try:
        yield
    finally:
        filler.unlink()


def large_batch() -> OutcomeBatch:
    """Return one that no small disk takes. Another one may have its first event."""
    return OutcomeBatch({unit: first() for unit in range(1, 600)}, tuple(event(n, n) for n in range(600)))


@contextmanager
def full_disk(folder: Path) -> Iterator[str]:
    """Fill a disk to the last byte. Yields the reason that SQLite gives."""
    with filled(folder):
        yield "database or disk is full"


@contextmanager
def limited_files(folder: Path) -> Iterator[str]:
    """Let no file of this process grow beyond the store's log. Yields the reason that SQLite gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(file.stat().st_size for file in folder.iterdir()), hard))
    try:
        yield "disk I/O error"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("without_room", [full_disk, limited_files])
async def test_a_full_disk_takes_nothing_and_loses_nothing(
    without_room: Callable[[Path], AbstractContextManager[str]], tmp_path: Path
) -> None:
    large = large_batch()
    with ExitStack() as stack:
        folder = stack.enter_context(small_disk(tmp_path)) if without_room is full_disk else tmp_path
        store = SqliteStore(folder / "feedback.db")
        assert await store.write("s/a", OutcomeBatch({0: first()}, (event(0, 0),))) == ["accepted"]
        before = await tally(store)
        with without_room(folder) as reason:
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match=f"feedback store .*feedback.db: {reason}"):
                    await store.write("s/a", large)
        assert await tally(store) == before
        # What was refused can be sent again.
        assert await store.write("s/a", large) == ["duplicate", *["accepted"] * 599]
        await store.close()


async def test_a_file_that_cannot_be_a_store_is_reported_and_tried_again(tmp_path: Path) -> None:
    place = tmp_path / "folder" / "feedback.db"
    store = SqliteStore(place)
    with pytest.raises(StoreUnavailable, match=r"feedback store .*: .*No such file or directory"):
        await store.read([])
    place.mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match="unable to open"):
        await store.write("s/a", OutcomeBatch({1: first()}))
    place.rmdir()
    assert (await store.read(["s/a"])).tallies == {"s/a": {}}
    assert place.stat().st_mode & 0o077 == 0
    await store.close()


def _attempts(place: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(place)) as connection:
        return connection.execute("SELECT name FROM attempts").fetchall()


async def test_what_is_only_asked_for_is_not_made(tmp_path: Path) -> None:
    place = tmp_path / "asked.db"
    store = SqliteStore(place)
    assert (await store.read(["s/a", "s/b"])).tallies == {"s/a": {}, "s/b": {}}
    await store.write("s/c", OutcomeBatch({1: first()}))
    await store.close()
    assert _attempts(place) == [("s/c",)]


async def test_a_path_may_have_what_urls_have(tmp_path: Path) -> None:
    place = tmp_path / "a?b=1#c%20d.db"
    store = open_store(f"sqlite://{place}", "n")
    await store.read([])
    await store.close()
    assert place.exists()


async def test_a_full_server_takes_nothing_and_forgets_nothing(tmp_path: Path, unused_port: int) -> None:
    with redis_server(tmp_path, unused_port) as (port, password, _):
        store = open_store(f"redis://127.0.0.1:{port}", "n", password)
        await store.write("s/a", OutcomeBatch({1: first()}, (event(1, 1),)))
        before = await tally(store)
        with redis.Redis(port=port, password=PASSWORD) as plain:
            plain.config_set("maxmemory-policy", "noeviction")
            plain.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailable, match="used memory > 'maxmemory'"):
                await store.write("s/a", OutcomeBatch({2: first()}, (event(2, 1),)))
            plain.config_set("maxmemory", 0)
        assert await tally(store) == before
        assert await store.write("s/a", OutcomeBatch({2: first()}, (event(1, 1), event(2, 1)))) == [
            "duplicate",
            "accepted",
        ]
        await store.close()


async def test_the_shipped_server_whose_disk_is_full_ends_and_loses_nothing(tmp_path: Path, unused_port: int) -> None:
    """What it would take in memory alone, it must not acknowledge."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk):
        with redis_server(disk, unused_port) as (port, password, pid):
            store = open_store(f"redis://127.0.0.1:{port}", "n", password)
            assert await store.write("s/a", OutcomeBatch({0: first()}, (event(0, 0),))) == ["accepted"]
            before = await tally(store)
            with filled(disk):
                with pytest.raises(StoreUnavailable, match=rf"^feedback store 127\.0\.0\.1:{port}: "):
                    await store.write("s/a", large_batch())
                eventually(lambda: not running_process(pid), "the end of the server")
        with redis_server(disk, unused_port):
            assert await tally(store) == before
            assert await store.write("s/a", large_batch()) == ["duplicate", *["accepted"] * 599]
            assert (await tally(store))["events"] == 600
            await store.close()


def running_process(pid: int) -> bool:
    """Return whether a process has neither ended nor become a zombie."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@dataclass(frozen=True)
class OwnServer:
    """How a server of the administrator writes to its disk.

    Attributes:
        settings: for `CONFIG SET`.
        status: of `INFO persistence`, whether the last write succeeded.
        save: starts one that fails on a full disk.
        reason: what the server says of it.
    """

    settings: dict[str, str]
    status: str
    save: Callable[[redis.Redis], object]
    reason: str

    def is_saved(self, plain: redis.Redis) -> bool:
        found = plain.info("persistence")
        return not found["rdb_bgsave_in_progress"] and found[self.status] == "ok"


OWN_SERVERS = {
    # The server takes the write that fails, and refuses later ones.
    "log": OwnServer(
        {"appendfsync": "everysec"},
        "aof_last_write_status",
        lambda plain: plain.set("foreign", bytes(100_000)),
        "MISCONF Errors writing to the AOF file",
    ),
    "snapshots": OwnServer(
        {"appendonly": "no", "save": "3600 1"},
        "rdb_last_bgsave_status",
        lambda plain: plain.bgsave(),
        "MISCONF .* is configured to save RDB snapshots",
    ),
}


@pytest.mark.parametrize("how", OWN_SERVERS)
async def test_a_server_that_cannot_write_to_its_full_disk_takes_nothing_and_forgets_nothing(
    how: str, tmp_path: Path, unused_port: int
) -> None:
    own, disk = OWN_SERVERS[how], tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk), redis_server(disk, unused_port) as (port, password, _):
        store = open_store(f"redis://127.0.0.1:{port}", "n", password)
        with redis.Redis(port=port, password=PASSWORD) as plain:
            for name, value in own.settings.items():
                plain.config_set(name, value)
            assert await store.write("s/a", OutcomeBatch({0: first()}, (event(0, 0),))) == ["accepted"]
            before = await tally(store)
            with filled(disk):
                own.save(plain)
                eventually(lambda: plain.info("persistence")[own.status] != "ok", "a write that fails")
                refused = rf"^feedback store 127\.0\.0\.1:{port}: .*{own.reason}"
                for work in (store.write("s/a", large_batch()), store.write("s/a", large_batch()), store.read(["s/a"])):
                    with pytest.raises(StoreUnavailable, match=refused):
                        await work
            if how == "snapshots":
                plain.bgsave()
            eventually(lambda: own.is_saved(plain), "a write that succeeds")
        assert await tally(store) == before
        assert await store.write("s/a", large_batch()) == ["duplicate", *["accepted"] * 599]
        found = await tally(store)
        assert (found["events"], found["outcome/m/1/a/sum"]) == (600, 600 * MILLION)
        await store.close()


async def test_what_is_not_ours_in_a_server_is_told_as_one_that_does_not_answer(server: RedisServer) -> None:
    port, password, _ = server
    store = open_store(f"redis://127.0.0.1:{port}", "foreign", password)
    with redis.Redis(port=port, password=PASSWORD) as plain:
        plain.hset("sundog:{foreign}:s/a:tally", "units", "many")
        plain.hset("sundog:{foreign}:s/b:units", (7).to_bytes(8, "big"), "what?")
        plain.xadd("sundog:{foreign}:s/b:events", {"unit": "u"})
        plain.set("sundog:{foreign}:s/d:tally", "no hash")
    for work in (
        store.read(["s/a"]),
        store.write("s/a", OutcomeBatch({1: first()})),
        store.write("s/b", OutcomeBatch(events=(event(1, 7),))),
        anext(store.exposures("s/b")),
        anext(store.outcomes("s/b")),
        store.read(["s/d"]),
    ):
        with pytest.raises(StoreUnavailable, match=r"feedback store 127\.0\.0\.1"):
            await work
    await store.write("s/c", OutcomeBatch({1: first()}))
    await store.close()


async def test_a_password_that_is_no_text_is_reported_and_does_not_end_the_agent(
    tmp_path: Path, server: RedisServer
) -> None:
    password = tmp_path / "password"
    password.write_bytes(b"\xff\xfe\x00")
    store = open_store(f"redis://127.0.0.1:{server[0]}", "n", password)
    with pytest.raises(StoreUnavailable):
        await store.read([])
    password.write_text(PASSWORD)
    assert (await store.read([])).tallies == {}
    await store.close()


GUIDE = Path(__file__).parents[3] / "docs/guides/multi-tenancy.md"


def documented_user(server: RedisServer, name: str) -> None:
    """Add the user of that name to the server, as the guide does."""
    (line,) = re.findall(rf"^(ACL SETUSER {name} .*)$", GUIDE.read_text(), re.MULTILINE)
    with redis.Redis(port=server.port, password=PASSWORD) as plain:
        plain.execute_command(*line.replace("PASSWORD", f"password-of-{name}").split())


async def test_a_user_of_a_namespace_does_all_that_edges_do_and_reaches_no_other_namespace(
    tmp_path: Path, server: RedisServer
) -> None:
    documented_user(server, "vision-edges")
    username, password = tmp_path / "username", tmp_path / "password"
    username.write_text("vision-edges\n")
    password.write_text("password-of-vision-edges\n")
    vision, speech = (
        open_store(f"redis://127.0.0.1:{server.port}", namespace, password, username)
        for namespace in ("vision", "speech")
    )
    await vision.name(["s/old"], T0 - 2 * RETENTION_S)
    batch = OutcomeBatch({1: first()}, (event(1, 1, properties='{"a":1}'),), caps={"m": (3 * MILLION, 10 * MILLION)})
    for attempt in ("s/a", "s/old"):
        assert await vision.write(attempt, batch) == ["accepted"]
    assert (await vision.read(["s/a"])).tallies["s/a"]
    assert [unit async for unit, *_ in vision.exposures("s/a")] == [1]
    assert [each.unit async for each in vision.outcomes("s/a")] == [1]
    await vision.name(["s/a"], T0)
    assert (await vision.read(["s/old"])).tallies == {"s/old": {}}
    await vision.close()

    for work in (speech.read(["s/a"]), speech.write("s/a", batch), anext(speech.exposures("s/a"))):
        with pytest.raises(StoreUnavailable, match="permission"):
            await work
    await speech.close()
    password.write_text(PASSWORD)
    with pytest.raises(StoreUnavailable, match="username-password"):
        await vision.read([])


def test_a_user_of_a_namespace_runs_the_commands_of_ray_on_its_keys_alone(server: RedisServer) -> None:
    """Ray 2.60 sends these, and `DEL DUMMY` at each connection. A rejected one would end its head."""
    documented_user(server, "vision-ray")
    with redis.Redis(port=server.port, username="vision-ray", password="password-of-vision-ray") as ray:
        ray.execute_command("DEL", "DUMMY")
        for command in ("PING", "INFO SENTINEL", "INFO CLUSTER", "SCAN 0 MATCH RAYvision.1a2b@*"):
            ray.execute_command(*command.split())
        for command in (
            *("HSET {} k v", "HSETNX {} k v", "HGET {} k", "HMGET {} k", "HGETALL {}", "HSCAN {} 0"),
            *("HEXISTS {} k", "HDEL {} k", "INCRBY {}Counter 1", "DEL {}", "UNLINK {}"),
        ):
            ray.execute_command(*command.format("RAYvision.1a2b@JOB").split())
            for other in ("RAYvision-2.1a2b@JOB", "RAYspeech.1a2b@JOB", "sundog:{vision}:attempts"):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    ray.execute_command(*command.format(other).split())
        for command in (
            "FLUSHALL",
            "KEYS *",
            "CONFIG GET *",
            "ACL LIST",
            "EVAL return(1) 0",
            "FUNCTION FLUSH",
            "PUBLISH a b",
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                ray.execute_command(*command.split())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "feedback.db",
        "sqlite:",
        "sqlite:///",
        "sqlite://host/path",
        "redis://host",
        "redis://host:x",
        "redis://:1",
        "http://host:1",
    ],
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^--store: found .*; expected sqlite:///PATH or redis://HOST:PORT$"):
        open_store(url, "n")


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError) as raised:
        open_store("redis://:secret@host:6379", "n")
    assert "secret" not in str(raised.value)


@pytest.fixture
def unused_port() -> int:
    return free_port()


@pytest.mark.parametrize("damage", [garbage, overwritten])
async def test_a_corrupt_file_is_moved_aside_and_a_new_store_begins(
    tmp_path: Path, damage: Callable[[Path], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "feedback.db"
    store = SqliteStore(path)
    await store.write("s/a", OutcomeBatch({1: first()}, [event(1, 1)], {}))
    before = (await store.read(["s/a"])).id
    await store.close()
    content = damage(path)
    store, other = SqliteStore(path), SqliteStore(path)
    for each in (store, other, store):
        with suppress(StoreUnavailable):
            await each.read(["s/a"])
    found = await store.read(["s/a"])
    assert (found.id != before, found.tallies) == (True, {"s/a": {}}), "the operator sees another store"
    assert (await other.read(["s/a"])).id == found.id, "the second edge moves nothing"
    await other.write("s/a", OutcomeBatch({1: first()}, [event(1, 1)], {}))
    assert (await store.read(["s/a"])).tallies != {"s/a": {}}
    assert moved_aside(path) == content
    assert [record for record in caplog.records if "moved to" in record.getMessage()]
    await store.close()
    await other.close()


def moved_aside(path: Path) -> bytes | None:
    """Return the content of the file that was moved aside, once at most; None without one."""
    found = [each for each in path.parent.glob(f"{path.name}.corrupt-*") if not each.name.endswith(("-wal", "-shm"))]
    assert len(found) <= 1
    return found[0].read_bytes() if found else None


@pytest.mark.parametrize("damage", [Path.mkdir, Path.touch], ids=["a directory", "empty"])
async def test_a_store_that_is_not_corrupt_stays(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "feedback.db"
    damage(path)
    store = SqliteStore(path)
    with suppress(StoreUnavailable):
        await store.read(["s/a"])
    assert moved_aside(path) is None
    await store.close()
