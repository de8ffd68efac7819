"""Steps of the sync, and the log of replicas."""

import errno
import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from serve_clusters import GOOD, Client
from sundog_edge.errors import HaproxyRefused, HaproxyUnavailable
from sundog_edge.haproxy.client import RequestLoad, ServerState
from sundog_edge.haproxy.workers import Worker
from sundog_edge.replicas import sync
from sundog_edge.replicas.plan import ServeTargets
from sundog_edge.replicas.serve_poller import ServePoller
from sundog_edge.replicas.sync import ReplicaSync
from sundog_edge.split.layout import Layout, SlotAssignment, SlotServer


def test_edges_poll_at_random_times():
    calm = ReplicaSync(None, None, None, ServePoller(Client()))
    pauses = [calm.poll_delay_s for _ in range(50)]
    low, high = ((1 + sign * sync.POLL_JITTER) * sync.POLL_S for sign in (-1, 1))
    assert low <= min(pauses) < max(pauses) <= high
    assert len({*pauses}) == len(pauses)


@pytest.mark.parametrize(
    ("servers", "milliseconds"),
    [(0, 500), (1, 500), (64, 500), (65, 1000), (128, 1000), (129, 2000), (256, 2000), (257, 4000), (100_000, 4000)],
)
def test_the_more_servers_there_are_the_less_often_each_is_checked(servers, milliseconds):
    assert sync.check_interval_ms(servers) == milliseconds


def test_changes_of_a_replica_are_logged_with_its_application():
    holding = SlotAssignment("slot2", "digits-r7", "digits", "/digits-r7")
    names = ("stays", "comes", "fails", "drains", "went")
    stays, comes, fails, drains, went = (SlotServer("slot2", name, name, 0) for name in names)
    call = SlotServer("slot2", "call", "call", 0, check_port=1)
    lines = sync.health_changes(
        holding, (stays, fails, drains, went, call), (stays, comes), {"stays", "comes", "fails"}
    )
    assert lines == [
        (logging.INFO, "replica comes of digits-r7 (slot2) answers"),
        (logging.INFO, "replica drains of digits-r7 (slot2) leaves"),
        (
            logging.WARNING,
            "replica fails of digits-r7 (slot2) is down: it refuses connections or fails its health check",
        ),
        (logging.INFO, "replica went of digits-r7 (slot2) leaves"),
    ]


class Haproxy:
    """One worker's servers, and the commands that it got."""

    def __init__(self) -> None:
        self.present: list[ServerState] = []
        self.commands: list[str] = []
        self.sessions = 0
        self.away = False

    async def load(self, pid, slots=None):
        return RequestLoad(dict.fromkeys(slots or (), self.sessions), {})

    async def servers(self, pid, slots=None):
        if self.away:
            raise HaproxyUnavailable("HAProxy does not answer")
        return self.present

    async def batch(self, commands, pid):
        self.commands += commands


class Split:
    """A service that may scale to zero, and an error of its held slots, if any."""

    def __init__(self, error: Exception | None = None) -> None:
        arm = SimpleNamespace(application="digits-r1", maxOngoingRequests=None)
        service = SimpleNamespace(
            name="digits",
            cluster="good",
            arms=(arm,),
            maxOngoingRequests=4,
            requestTimeoutSeconds=30.0,
            queue=None,
            coldStartSeconds=120.0,
        )
        self.layout = Layout(held=(SlotAssignment("slot0", "digits-r1", "digits", "/digits-r1"),))
        self.in_force = SimpleNamespace(document=SimpleNamespace(services=(service,)))
        self.error = error

    async def set_cold(self, slots, now):
        if self.error is not None:
            raise self.error

    def record_servers(self, servers, leaving):
        pass


async def make_sync(split: Split) -> tuple[ReplicaSync, Haproxy, ServePoller, Client]:
    client, haproxy = Client(), Haproxy()
    poller = ServePoller(client)
    await poller.poll({"good": GOOD})
    workers = SimpleNamespace(all=[Worker(1, "a-1", 0.0)])
    return ReplicaSync(haproxy, workers, split, poller), haproxy, poller, client


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), HaproxyRefused("no"), HaproxyUnavailable("away")]
)
async def test_servers_follow_serve_although_the_held_slots_cannot_be_set(error):
    split = Split(error)
    synced, haproxy, _, _ = await make_sync(split)
    with pytest.raises(type(error)) as raised:
        await synced.tick()
    assert raised.value is error
    assert any(command.startswith("add server slot0/127.0.0.1:1 ") for command in haproxy.commands)
    split.error = None
    await synced.tick()


@pytest.mark.parametrize(("cold_s", "known"), [(120.0, True), (None, False)])
async def test_calls_of_a_service_that_may_scale_to_zero_have_serves_own_proxy_as_backup(monkeypatch, cold_s, known):
    split = Split()
    split.layout = replace(split.layout, grpc=True, cold=("slot0",))
    split.in_force.document.services[0].coldStartSeconds = cold_s
    synced, haproxy, poller, client = await make_sync(split)
    poller.fallbacks["good"] = "10.0.0.1:8000"

    async def woken(cluster):
        return ServeTargets({"digits-r1": ("10.0.0.2:3",)}, {"digits-r1": {"10.0.0.2:4": 3}}, frozenset(), 9000)

    monkeypatch.setattr(client, "targets", woken)
    await poller.poll({"good": GOOD})
    await synced.tick()
    proxies = [each for each in haproxy.commands if each.startswith("add server slot0-grpc/fallback-10.0.0.1:9000 ")]
    assert [" port 8000 " in each for each in proxies] == [True] * known
    # Calls that wait need no check of the first replica either.
    assert "set server slot0-grpc/10.0.0.2:4 health up" in haproxy.commands


async def test_a_change_that_a_step_could_not_make_is_made_by_a_later_one():
    synced, haproxy, poller, client = await make_sync(Split())
    haproxy.present = [ServerState("slot0", "127.0.0.1:1", "127.0.0.1:1", True, False, False, 1)]
    await synced.tick()
    synced._next_sweep_at = math.inf
    assert haproxy.commands == []
    client.port = 2
    await poller.poll({"good": GOOD})
    haproxy.away = True
    with pytest.raises(HaproxyUnavailable):
        await synced.tick()
    haproxy.away = False
    synced._next_step_at = 0.0
    await synced.tick()
    assert any(command.startswith("add server slot0/127.0.0.1:2 ") for command in haproxy.commands)


async def test_the_replicas_of_an_application_that_left_do_not_drain_while_requests_wait_for_them():
    split = Split()
    synced, haproxy, _, _ = await make_sync(split)
    haproxy.present = [ServerState("slot0", "127.0.0.1:1", "127.0.0.1:1", True, False, False, 1)]
    await synced.tick()
    synced._next_sweep_at, haproxy.sessions = math.inf, 2
    split.layout = Layout(leaving=split.layout.held)
    for _ in range(2):
        synced._next_step_at = 0.0
        await synced.tick()
    assert haproxy.commands == []
    synced._next_step_at, haproxy.sessions = 0.0, 0
    await synced.tick()
    assert haproxy.commands == ["set server slot0/127.0.0.1:1 state maint"]


async def test_a_replica_that_goes_to_zero_is_logged_as_leaving(caplog):
    caplog.set_level(logging.INFO)
    synced, haproxy, poller, client = await make_sync(Split())
    haproxy.present = [ServerState("slot0", "127.0.0.1:1", "127.0.0.1:1", True, False, False, 1)]
    await synced.tick()
    synced._next_sweep_at, client.targets = math.inf, no_replica
    await poller.poll({"good": GOOD})
    await synced.tick()
    assert "set server slot0/127.0.0.1:1 state drain" in haproxy.commands
    assert [(each.levelname, each.message) for each in caplog.records] == [
        ("INFO", "replica 127.0.0.1:1 of digits-r1 (slot0) answers"),
        ("INFO", "replica 127.0.0.1:1 of digits-r1 (slot0) leaves"),
    ]


async def test_a_refusal_that_repeats_is_logged_once(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    synced, haproxy, _, _ = await make_sync(Split())
    refuses = True

    async def batch(commands, pid):
        del commands, pid
        if refuses:
            raise HaproxyRefused("Server still has connections")

    monkeypatch.setattr(haproxy, "batch", batch)

    async def tick(times):
        for _ in range(times):
            synced._next_sweep_at = 0.0
            await synced.tick()

    await tick(3)
    assert [each.message for each in caplog.records] == ["Server still has connections"]
    refuses = False
    await tick(1)
    refuses = True
    await tick(2)
    assert [each.message for each in caplog.records] == ["Server still has connections"] * 2


async def no_replica(cluster):
    del cluster
    return ServeTargets({"digits-r1": ()}, {}, frozenset({"digits-r1"}))
