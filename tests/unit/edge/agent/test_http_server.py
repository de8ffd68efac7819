"""The agent's HTTP server."""

import errno
from types import SimpleNamespace

import pytest
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


@pytest.mark.parametrize(
    ("path", "member", "problem"),
    [
        ("/livez", "alive", "the agent's loop is stuck"),
        ("/healthz", "healthy", "HAProxy does not answer, or the agent's loop is stuck"),
        ("/readyz", "ready", "no split document is in force, or its replicas are not known yet"),
    ],
)
async def test_a_probe_answers_503_with_the_problem_if_its_state_is_bad(path: str, member: str, problem: str) -> None:
    agent = SimpleNamespace(alive=True, healthy=True, ready=True)
    async with TestClient(TestServer(make_agent_app(agent))) as client:
        answer = await client.get(path)
        assert (answer.status, await answer.text()) == (200, "ok\n")
        for other in ("alive", "healthy", "ready"):
            setattr(agent, other, other != member)
        answer = await client.get(path)
        assert (answer.status, await answer.text()) == (503, f"{problem}\n")
        for other in ("alive", "healthy", "ready"):
            setattr(agent, other, other == member)
        assert (await client.get(path)).status == 200
