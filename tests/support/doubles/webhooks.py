"""Webhook receivers: each gives a fixed answer, hangs, or does not exist."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from sundog_operator.core.observed import WebhookResult
from sundog_operator.ports import Clock


class FakeWebhooks:
    """`ports.Webhooks`.

    Attributes:
        answers: URL → the status that it answers. One without is not there.
        hanging: URLs that take what is posted and answer nothing.
        received: (URL, document) of all that was posted to what is there, in order.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.answers: dict[str, int] = {}
        self.hanging: set[str] = set()
        self.received: list[tuple[str, dict[str, Any]]] = []

    async def post(self, url: str, document: Mapping[str, Any], timeout_s: float) -> WebhookResult:
        received = (url, json.loads(json.dumps(document)))
        if url in self.hanging:
            self.received.append(received)
            await self._clock.sleep(timeout_s)
            return WebhookResult(problem=f"did not answer within {timeout_s:g} s")
        if url not in self.answers:
            return WebhookResult(problem="cannot be connected to")
        self.received.append(received)
        return WebhookResult(self.answers[url])

    def posted(self, url: str) -> list[dict[str, Any]]:
        """Return the documents that one receiver got."""
        return [document for place, document in self.received if place == url]

    async def turn(self) -> None:
        """Let posts that are under way go as far as they can without time."""
        for _ in range(3):
            await asyncio.sleep(0)
