"""What the probes of an edge's pod see: whether the agent lives, is healthy, and is ready."""

import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import aiohttp
import pytest

from split_documents import arms_document
from sundog_edge.agent import agent as loops
from sundog_edge.agent.agent import Agent, AgentOptions
from sundog_edge.counting.evidence import AppliedDocument, ServerCounts
from sundog_edge.errors import HaproxyUnavailable
from sundog_edge.haproxy.workers import Worker, Workers
from sundog_edge.replicas.sync import ReplicaSync
from sundog_edge.security.secrets import SecretsDir
from sundog_edge.split.apply import SplitApplier
from sundog_edge.split.layout import Layout, SlotAssignment
from sundog_edge.state_dir import StateDir

SETTLE_S = 30.0
IN_FORCE = AppliedDocument(arms_document("with-traffic", "without-traffic"), 1.0, {})


class Edge:
    """An agent on a clock that the test moves, without HAProxy; `turn` runs its control loop once."""

    def __init__(self, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
        self.agent = agent
        self.now_s = 1000.0
        self.worker: Worker | None = Worker(1, "abcd-1", 0.0)
        self.is_away = False
        monkeypatch.setattr(loops, "time", SimpleNamespace(monotonic=lambda: self.now_s, time=time.time))
        monkeypatch.setattr(Workers, "refresh", lambda _: self._refresh())

    async def _refresh(self) -> None:
        if self.is_away:
            raise HaproxyUnavailable("away")
        self.agent._workers._known = {self.worker.boot: self.worker} if self.worker else {}

    async def turn(self) -> None:
        try:
            await self.agent._control()
        except HaproxyUnavailable:
            assert self.is_away

    @property
    def health(self) -> tuple[bool, bool, bool]:
        return self.agent.alive, self.agent.healthy, self.agent.ready


@pytest.fixture
async def edge(tmp_path, monkeypatch) -> AsyncIterator[Edge]:
    async def rest(self, *_):
        pass

    for owner, names in ((SplitApplier, ("renew", "check")), (ReplicaSync, ("tick",))):
        for name in names:
            monkeypatch.setattr(owner, name, rest)
    options = AgentOptions(
        *(StateDir.at(tmp_path / "s"), tmp_path / "none", "edge-0", "vision", None, SecretsDir(None)), settle_s=SETTLE_S
    )
    async with aiohttp.ClientSession() as session:
        agent = Agent(options, session)
        yield Edge(agent, monkeypatch)
        agent._collector.stop()


@pytest.mark.parametrize(
    ("silent_s", "health"),
    [(0.0, (True, True)), (4.9, (True, True)), (5.0, (True, False)), (59.9, (True, False)), (60.0, (False, False))],
)
async def test_a_stuck_loop_is_first_unhealthy_and_then_not_alive(edge, silent_s, health):
    await edge.turn()
    edge.now_s += silent_s
    assert edge.health[:2] == health


async def test_an_agent_is_alive_but_not_healthy_while_haproxy_is_away(edge):
    edge.is_away = True
    await edge.turn()
    assert edge.health == (True, False, False)
    edge.is_away, edge.worker = False, None
    await edge.turn()
    assert edge.health == (True, False, False), "the master answers, and has no worker"
    edge.worker = Worker(1, "abcd-1", 0.0)
    await edge.turn()
    assert edge.health == (True, True, False)
    edge.is_away = True
    await edge.turn()
    assert edge.health == (True, False, False)


@pytest.mark.parametrize(
    ("servers", "is_cold", "waited_s", "is_ready"),
    [
        pytest.param({"with-traffic": ServerCounts(up=1)}, False, 0.0, True, id="a healthy replica"),
        pytest.param({"without-traffic": ServerCounts(up=1)}, False, 0.0, False, id="a replica of the other arm"),
        pytest.param({"with-traffic": ServerCounts(down=2)}, False, SETTLE_S - 1, False, id="only unhealthy replicas"),
        pytest.param({}, True, 0.0, True, id="an arm scaled to zero"),
        pytest.param({}, False, SETTLE_S, True, id="no replica in time"),
    ],
)
async def test_an_edge_is_ready_with_the_replicas_of_arms_with_traffic_or_late(
    edge, servers, is_cold, waited_s, is_ready
):
    await edge.turn()
    edge.now_s += SETTLE_S
    await edge.turn()
    assert not edge.agent.ready, "no document is in force, so no time has passed"
    split = edge.agent._split
    split.in_force = IN_FORCE
    slot = SlotAssignment("slot0", "with-traffic", "digits", "/with-traffic.app")
    split.layout = Layout(held=(slot,), cold=("slot0",) if is_cold else ())
    edge.agent._replica_sync.servers = {}
    if not is_cold:
        await edge.turn()
        assert not edge.agent.ready
    edge.agent._replica_sync.servers = servers
    edge.now_s += waited_s
    await edge.turn()
    assert edge.agent.ready is is_ready
    edge.agent._replica_sync.servers = {}
    await edge.turn()
    assert edge.agent.ready is is_ready, "an edge that was ready stays so when its replicas end"
    edge.is_away = True
    await edge.turn()
    assert not edge.agent.ready
