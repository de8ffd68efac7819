"""Ask the webhook of a rollout's step in the background."""

from typing import Final

from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.keys import Key
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.planner.requeue import EVIDENCE_POLL_S
from sundog_operator.core.planner.rollout.webhook_gate import WebhookRequest

RETRY_S: Final = EVIDENCE_POLL_S
"""Seconds between two requests, as between two evaluations."""


def ask_webhook(deps: Dependencies, key: Key, question: WebhookRequest | None) -> WebhookResult | None:
    """Return the last answer to a ModelDeployment's question; None without an answer or a question. Never waits."""
    slot = f"confirm {key}"
    if question is None:
        deps.webhook_requests.forget(slot)
        return None
    return deps.webhook_requests.poll(
        slot,
        question.about,
        lambda: deps.webhooks.post(question.url, question.document, question.timeout_s),
        enough=lambda answer: answer.confirms,
        again_s=lambda _: RETRY_S,
        now=deps.clock.monotonic(),
    )
