"""Polling of clusters."""

import asyncio

from serve_clusters import GOOD, SLOW, Client
from sundog_edge.replicas import serve_poller
from sundog_edge.replicas.serve_poller import ServePoller
from sundog_edge.split.document import Cluster
from waiting import PATIENCE_S


async def test_a_hanging_cluster_delays_no_other_and_has_one_poll_at_a_time(monkeypatch):
    monkeypatch.setattr(serve_poller, "POLL_WAIT_S", 0.01)
    client = Client()
    answers = ServePoller(client)
    await answers.poll({"good": GOOD, "slow": SLOW})
    first, client.parse_s = answers.version, 0.25
    # Later rounds do not wait for it at all.
    monkeypatch.setattr(serve_poller, "POLL_WAIT_S", None)
    async with asyncio.timeout(PATIENCE_S):
        await answers.poll({"good": GOOD, "slow": SLOW})
    assert answers.cost_s == 0.25, "not the time of other tasks"
    assert client.asked == {"http://good": 2, "http://slow": 1}
    assert answers.version is first
    client.port = 2
    await answers.poll({"good": GOOD, "slow": SLOW})
    assert answers.targets == {"good": {"digits-r1": ("127.0.0.1:2",)}}
    assert answers.version is not first
    client.go_on.set()
    await answers.poll({"good": GOOD, "slow": SLOW})
    await answers.poll({"good": GOOD, "slow": SLOW})
    assert client.asked["http://slow"] == 2
    assert answers.cost_s == 0


async def test_an_application_at_zero_is_known_until_its_cluster_is_gone(monkeypatch):
    monkeypatch.setattr(serve_poller, "POLL_WAIT_S", 0.01)
    client = Client()
    answers = ServePoller(client)
    await answers.poll({"good": GOOD})
    first, client.at_zero = answers.version, frozenset({"digits-r1"})
    await answers.poll({"good": GOOD})
    assert answers.applications_at_zero == {"digits-r1"}
    assert answers.version is not first
    await answers.poll({})
    assert answers.applications_at_zero == frozenset()


async def test_a_hanging_cluster_that_left_the_document_is_dropped(monkeypatch):
    monkeypatch.setattr(serve_poller, "POLL_WAIT_S", 0.01)
    client = Client()
    answers = ServePoller(client)
    await answers.poll({"good": GOOD, "slow": SLOW})
    before = answers.version
    await answers.poll({"slow": SLOW})
    assert answers.targets == {}
    assert answers.version is not before
    await answers.poll({})
    assert client.asked == {"http://good": 1, "http://slow": 1}


async def test_all_ports_of_all_clusters_count(monkeypatch):
    monkeypatch.setattr(serve_poller, "POLL_WAIT_S", 0.01)
    answers = ServePoller(Client())
    await answers.poll({"good": GOOD, "again": GOOD})
    assert answers.count == 2


class Names:
    """A name server whose answers the test changes."""

    def __init__(self, monkeypatch) -> None:
        self.asked = 0
        self.address = "10.0.0.1"
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", self.getaddrinfo)

    async def getaddrinfo(self, host, port, **_):
        self.asked += 1
        if not self.address:
            raise OSError("no such name")
        return [(0, 0, 0, "", (self.address, port))]


HEAD = Cluster(dashboard="http://good", fallback="sundog-0-head-svc.vision.svc:8000")


async def test_the_address_of_a_head_is_resolved_again_at_intervals(monkeypatch):
    names, client = Names(monkeypatch), Client()
    answers = ServePoller(client)
    for _ in range(3):
        await answers.poll({"sundog-0": HEAD})
    assert (answers.fallbacks, names.asked) == ({"sundog-0": "10.0.0.1:8000"}, 1)
    first = answers.version
    monkeypatch.setattr(serve_poller, "RESOLVE_S", 0.0)
    names.address = "10.0.0.2"
    await answers.poll({"sundog-0": HEAD})
    assert answers.fallbacks == {"sundog-0": "10.0.0.2:8000"}
    assert answers.version is not first
    names.address = ""
    await answers.poll({"sundog-0": HEAD})
    assert answers.fallbacks == {"sundog-0": "10.0.0.2:8000"}, "a name server that is away takes no address away"


async def test_the_address_of_a_silent_head_is_resolved_again(monkeypatch):
    names, client = Names(monkeypatch), Client()
    answers = ServePoller(client)
    client.go_on.set()
    silent = SLOW.model_copy(update={"fallback": HEAD.fallback})
    monkeypatch.setattr(client, "targets", lambda _: Client.targets(client, SLOW))
    for _ in range(3):
        await answers.poll({"sundog-0": silent})
    assert names.asked == 3
