"""The agent's HTTP server."""

import errno

from aiohttp.test_utils import TestClient, TestServer

from sundog_edge.agent.http_server import make_agent_app


class Agent:
    """An agent whose disk is full."""

    async def evidence(self, query):
        raise OSError(errno.ENOSPC, "No space left on device", "/s/counters.json")


async def test_unwritable_counters_are_not_shown_and_the_answer_has_the_reason():
    async with TestClient(TestServer(make_agent_app(Agent()))) as client:
        answer = await client.get("/evidence")
        assert answer.status == 503
        assert await answer.text() == (
            "the counters cannot be written: [Errno 28] No space left on device: '/s/counters.json'\n"
        )
