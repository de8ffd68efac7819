"""What the documentation shows of posts is what is posted, and whole rollouts post it to a real HTTP server."""

import asyncio
import functools
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from doubles.cluster import Cluster
from fake_ray_head import end
from sundog_operator.adapters.webhooks import AddressPolicy, HttpWebhooks
from waiting import PATIENCE_S

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "rollout-rules.md"


class Receiver:
    """Confirms when it is told to, and keeps what comes."""

    def __init__(self) -> None:
        self.url = ""
        self.confirms = False
        self.asked: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []

    async def confirm(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        return web.Response(status=202 if self.confirms else 403)

    async def hear(self, request: web.Request) -> web.Response:
        self.told.append(await request.json())
        return web.Response(status=204)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made, app = Receiver(), web.Application()
    app.router.add_post("/confirm", made.confirm)
    app.router.add_post("/hear", made.hear)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await end(runner)


async def rolled_out(receiver: Receiver) -> Cluster:
    """Revision 2 is promoted, once the receiver has refused and then confirmed."""
    cluster = Cluster()
    cluster.world = replace(cluster.world, webhooks=HttpWebhooks(AddressPolicy(allow_loopback=True)))
    rollout = {
        "steps": [{"weight": 25, "gate": "time", "minDuration": "5s"}, {"webhook": {"url": f"{receiver.url}/confirm"}}],
        "notify": [{"webhook": f"{receiver.url}/hear", "events": ["started", "promoted"]}],
    }
    await cluster.apply(rollout=rollout)
    await cluster.until(functools.partial(cluster.serves, 1))
    await cluster.apply("file:///models/v2", rollout=rollout)
    for _ in range(200):
        await cluster.round()
        if under_way := cluster.world.webhook_requests.pending:
            await asyncio.wait(under_way, timeout=PATIENCE_S)
        receiver.confirms = bool(receiver.asked)
        if len(receiver.told) == 2:
            break
    return cluster


async def test_a_rollout_is_confirmed_and_reported_over_http(receiver: Receiver) -> None:
    cluster = await rolled_out(receiver)
    assert len(receiver.asked) == 2
    assert [document["event"] for document in receiver.told] == ["started", "promoted"]
    assert (await cluster.weights())[2] == 100


async def test_the_page_shows_what_is_posted(receiver: Receiver) -> None:
    await rolled_out(receiver)
    question, notice = shown_documents()
    assert shape(question) == shape(receiver.asked[0])
    assert shape(notice) == shape(receiver.told[0])


def shown_documents() -> list[dict[str, Any]]:
    """Return the JSON documents that the page shows: of a step, and of a notification."""
    return [
        json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    ]


def shape(document: dict[str, Any]) -> dict[str, Any]:
    return {key: shape(value) if isinstance(value, dict) else type(value) for key, value in document.items()}
