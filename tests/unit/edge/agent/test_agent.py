"""The agent's loop: a failed task does not stop the others."""

import asyncio
import contextlib
import errno
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest

from edge_log_lines import end_line
from feedback_stores import MemoryStore
from split_documents import document_fields, header_unit, service_fields
from sundog_edge.agent import agent as loops
from sundog_edge.agent.agent import Agent, AgentOptions
from sundog_edge.agent.periodic_task import PeriodicTask
from sundog_edge.counting.collector import CounterCollector
from sundog_edge.counting.evidence import AppliedDocument
from sundog_edge.counting.log_pipe import open_for_haproxy
from sundog_edge.errors import HaproxyRefused, HaproxyUnavailable
from sundog_edge.feedback.join import FirstExposure
from sundog_edge.haproxy.workers import Worker, Workers
from sundog_edge.mirror.counts import MirrorCounts
from sundog_edge.replicas.sync import ReplicaSync
from sundog_edge.security.secrets import SecretsDir
from sundog_edge.split import apply as split_apply
from sundog_edge.split.apply import SplitApplier
from sundog_edge.split.document import parse_document
from sundog_edge.split.layout import Layout, fit_layout
from sundog_edge.state_dir import StateDir
from waiting import comes_true

ROUNDS = 30
STEPS = ("apply", "renew", "enable_grpc", "check")
DOCUMENT = document_fields()


@pytest.fixture
def turns(monkeypatch) -> Counter[str]:
    """Turns of each task of the loop, without HAProxy and without pauses."""
    counted: Counter[str] = Counter()

    def turn(name: str):
        async def take(self, *_):
            counted[name] += 1

        return take

    for owner, names in ((SplitApplier, STEPS), (Workers, ("refresh",)), (ReplicaSync, ("tick",))):
        for name in names:
            monkeypatch.setattr(owner, name, turn(name))
    for pause in ("CONTROL_PERIOD_S", "SECRETS_PERIOD_S", "RETRY_S"):
        monkeypatch.setattr(loops, pause, 0.0)
    return counted


@pytest.mark.parametrize("broken", STEPS)
async def test_replicas_are_synced_while_another_task_keeps_failing(tmp_path, monkeypatch, caplog, turns, broken):
    async def refused(self, *_):
        turns[broken] += 1
        raise HaproxyRefused(f"{broken} is refused")

    monkeypatch.setattr(SplitApplier, broken, refused)
    split = tmp_path / "split.json"
    split.write_text(json.dumps(DOCUMENT))
    options = AgentOptions(StateDir.at(tmp_path / "s"), split, "edge-0", "vision", None, SecretsDir(None))
    async with aiohttp.ClientSession() as session:
        agent = Agent(options, session)
        agent._poller.calls = {"sundog": {"digits-r7": {"127.0.0.1:1": 2}}}
        running = asyncio.create_task(agent.run())

        async def enough() -> bool:
            assert not running.done()
            # The document in force is not applied again.
            asked = [name for name in STEPS if name == broken or name != "apply"]
            return all(turns[name] >= ROUNDS for name in ("tick", *asked))

        try:
            await comes_true(enough, "many turns of all steps")
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert messages == [f"{broken} is refused"]


async def test_replicas_of_a_new_document_are_synced_in_the_same_turn(tmp_path, monkeypatch, turns):
    order: list[str] = []

    async def apply(self, document, now):
        order.append("apply")
        self.in_force = object()

    async def tick(self):
        order.append("tick")

    monkeypatch.setattr(SplitApplier, "apply", apply)
    monkeypatch.setattr(ReplicaSync, "tick", tick)
    split = tmp_path / "split.json"
    split.write_text(json.dumps(DOCUMENT))
    options = AgentOptions(StateDir.at(tmp_path / "s"), split, "edge-0", "vision", None, SecretsDir(None), settle_s=0.0)
    async with aiohttp.ClientSession() as session:
        agent = Agent(options, session)
        try:
            await agent._control()
            await agent._control()
        finally:
            agent._collector.stop()
    assert order == ["tick", "apply", "tick", "tick"]


async def test_an_edge_that_cannot_sync_replicas_is_not_settled(tmp_path, monkeypatch, turns):
    async def refused(self):
        raise HaproxyRefused("no")

    options = AgentOptions(
        StateDir.at(tmp_path / "s"), tmp_path / "none", "e", "n", None, SecretsDir(None), settle_s=1e-9
    )
    async with aiohttp.ClientSession() as session:
        with monkeypatch.context() as broken:
            broken.setattr(ReplicaSync, "tick", refused)
            agent = Agent(options, session)
        agent._split.in_force = SimpleNamespace(document=SimpleNamespace(services=()))
        try:
            for _ in range(3):
                await agent._control()
            assert not agent._settled
            agent._replica_task = PeriodicTask(agent._replica_sync.tick)
            await agent._control()
            assert agent._settled
        finally:
            agent._collector.stop()


def taking_feedback(attempt: str) -> dict[str, object]:
    taking = {"unit": header_unit(), "feedback": {"metrics": ["converted"]}}
    return document_fields(service_fields(attempt=attempt, epoch=1, **taking))


class Edge:
    """State directory and pipe of an edge before the start of its agent, with attempt d-1 in force."""

    def __init__(self, folder: Path) -> None:
        self.state = StateDir.at(folder / "s")
        self.split = folder / "split.json"
        self.store = MemoryStore()
        self.options = AgentOptions(
            *(self.state, self.split, "edge-0", "vision", None, SecretsDir(None)), settle_s=0.0, store=self.store
        )
        self.pipe = open_for_haproxy(self.state.log_pipe)
        content = taking_feedback("d-1")
        layout = fit_layout(Layout(), parse_document(json.dumps(content).encode(), "vision"))
        self.state.layout.write_text(json.dumps(layout.as_json()))
        self.state.applied.write_text(json.dumps({"document": content, "appliedAt": 1.0, "since": {}}))

    def answer(self, attempt: str, unit: int) -> None:
        """Write HAProxy's line of an ended request."""
        row = f"digits/{attempt}/1/stable/assigned/sticky"
        os.write(self.pipe, end_line(row, boot="abcd-1", unit=unit) + b"\n")


@pytest.fixture
def edge(tmp_path) -> Iterator[Edge]:
    edge = Edge(tmp_path)
    yield edge
    os.close(edge.pipe)


async def test_waiting_lines_give_first_exposures_while_haproxy_is_away(edge):
    edge.answer("d-1", unit=5)
    async with aiohttp.ClientSession() as session:
        agent = Agent(edge.options, session)
        running = asyncio.create_task(agent.run())

        async def counted() -> bool:
            assert not running.done()
            return bool(agent._collector.ledger.boots)

        try:
            await comes_true(counted, "the line is counted")
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        await agent.intake.finish()
    assert edge.store.attempts["digits/d-1"].firsts == {5: FirstExposure(1_000_000_000, 1, "stable")}


async def test_first_exposures_are_tracked_while_a_document_is_applied(edge, monkeypatch, turns):
    seen: dict[str, list[int]] = {}

    async def apply(self, document, now):
        # One worker already has the new document, another does not.
        edge.answer("d-1", unit=5)
        edge.answer("d-2", unit=6)
        await agent._collector.drain()
        seen.update({attempt: [*own.waiting] for attempt, own in agent.intake.first_seen.items()})
        self.in_force = AppliedDocument(document, now, {})

    monkeypatch.setattr(SplitApplier, "apply", apply)
    edge.split.write_text(json.dumps(taking_feedback("d-2")))
    async with aiohttp.ClientSession() as session:
        agent = Agent(edge.options, session)
        try:
            await agent._control()
            assert seen == {"digits/d-1": [5], "digits/d-2": [6]}
            edge.answer("d-2", unit=7)
            await agent._collector.drain()
            assert {attempt: [*own.waiting] for attempt, own in agent.intake.first_seen.items()} == {
                "digits/d-2": [6, 7]
            }
        finally:
            agent._collector.stop()


@pytest.fixture
async def following(tmp_path, turns) -> AsyncIterator[tuple[Agent, Path]]:
    """An agent without HAProxy, whose control loop the test calls, and the file of its split document."""
    split = tmp_path / "split.json"
    split.write_text(json.dumps(DOCUMENT))
    options = AgentOptions(StateDir.at(tmp_path / "s"), split, "edge-0", "vision", None, SecretsDir(None))
    async with aiohttp.ClientSession() as session:
        agent = Agent(options, session)
        yield agent, split
        agent._collector.stop()


def failing(monkeypatch, errors: list[Exception]) -> list[int]:
    """Make the next attempts to apply a document fail. Return the generations of all attempts."""
    attempts: list[int] = []

    async def apply(self, document, now):
        attempts.append(document.generation)
        if errors:
            raise errors.pop(0)
        self.in_force = AppliedDocument(document, now, {})

    monkeypatch.setattr(SplitApplier, "apply", apply)
    return attempts


FULL_DISK = OSError(errno.ENOSPC, "No space left on device", "/s/applied.json")
NO_PROCESS = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.mark.parametrize("error", [FULL_DISK, NO_PROCESS, HaproxyRefused("no"), HaproxyUnavailable("away")])
async def test_a_failed_document_is_retried_and_its_error_is_shown_until_then(following, monkeypatch, error):
    agent, split = following
    attempts = failing(monkeypatch, [])
    await agent._control()
    split.write_text(json.dumps({**DOCUMENT, "generation": 2}))
    attempts.clear()
    failing_twice = failing(monkeypatch, [error, error])
    for _ in range(2):
        await agent._control()
        document = (await agent.evidence())["document"]
        assert document["generation"] == 1
        assert document["error"] == f"generation 2 cannot be applied; still retrying: {error}"
    await agent._control()
    document = (await agent.evidence())["document"]
    assert (document["generation"], document["error"]) == (2, "")
    await agent._control()
    assert failing_twice == [2, 2, 2]


async def test_requests_in_flight_are_left_out_while_haproxy_cannot_be_asked(following, monkeypatch):
    agent, split = following
    split.write_text(json.dumps(taking_feedback("d-1")))
    failing(monkeypatch, [])
    await agent._control()

    async def in_flight() -> dict[str, int] | None:
        return (await agent.evidence())["services"]["digits"].get("inFlight")

    assert await in_flight() is None, "no worker is listed"
    agent._workers._known = {"abcd-1": Worker(1, "abcd-1", 0.0)}
    assert await in_flight() is None, "no master listens"

    async def read(self, *_):
        return {}

    monkeypatch.setattr(CounterCollector, "settle", read)
    monkeypatch.setattr(ReplicaSync, "running", read)
    assert await in_flight() == {"digits-r1": 0}


async def test_counts_of_services_that_no_document_has_named_for_a_day_are_forgotten(following, monkeypatch):
    agent, split = following
    split.write_text(json.dumps(taking_feedback("d-1")))
    failing(monkeypatch, [])
    await agent._control()
    ledger, mirrored = agent._collector.ledger, agent._mirror_supervisor
    for service in ("digits", "left"):
        ledger.gone.refused[service] = {"auth": 1}
        agent.intake.results[service, "accepted"] = 1
        mirrored._gone[service] = (1, MirrorCounts())
    await agent._forget()
    assert {*ledger.gone.refused} == {*mirrored.by_service} == {"digits", "left"}
    ledger.named_at = dict.fromkeys(ledger.named_at, 0.0)
    await agent._forget()
    assert {*ledger.gone.refused} == {*mirrored.by_service} == {"digits"}
    assert {*agent.intake.results} == {("digits", "accepted")}


async def test_a_changed_document_is_applied_without_the_pause_of_the_failed_one(following, monkeypatch):
    agent, split = following
    monkeypatch.setattr(loops, "RETRY_S", 1000.0)
    monkeypatch.setattr(loops, "MAX_RETRY_S", 1000.0)
    attempts = failing(monkeypatch, [FULL_DISK])
    for _ in range(3):
        await agent._control()
    assert attempts == [1]
    split.write_text(json.dumps({**DOCUMENT, "generation": 2}))
    await agent._control()
    assert attempts == [1, 2]
    assert agent._error == ""


def test_the_pause_before_a_retry_grows_to_ten_seconds():
    assert [loops.retry_delay_s(failures) for failures in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 10, 10]


async def test_the_error_of_an_unreadable_document_ends_when_it_is_readable(following, monkeypatch):
    agent, split = following
    attempts = failing(monkeypatch, [])
    await agent._control()
    content = split.read_bytes()
    split.unlink()
    split.mkdir()
    await agent._control()
    assert agent._error == f"split document {split} cannot be read: Is a directory"
    split.rmdir()
    split.write_bytes(content)
    await agent._control()
    assert (agent._error, attempts) == ("", [1])


async def test_an_unwritable_document_is_not_in_force(tmp_path, monkeypatch):
    async def put(self, *_):
        pass

    def full(path, content):
        raise FULL_DISK

    state = StateDir.at(tmp_path / "s")
    moved = SplitApplier(None, None, state, SecretsDir(None))
    monkeypatch.setattr(SplitApplier, "_put", put)
    document = parse_document(json.dumps(DOCUMENT).encode(), "vision")
    with monkeypatch.context() as disk:
        disk.setattr(split_apply, "write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            await moved.apply(document, 1.0)
    assert moved.in_force is None
    await moved.apply(document, 2.0)
    assert SplitApplier(None, None, state, SecretsDir(None)).in_force == moved.in_force
