"""Asks the webhooks of steps, beside the passes that wait for their answers."""

from typing import Final

from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.keys import Key
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.planner.requeue import EVIDENCE_POLL_S
from sundog_operator.core.planner.webhook_gate import WebhookRequest

RETRY_S: Final = EVIDENCE_POLL_S
"""Between two questions: as between two looks at the evidence."""


def ask_webhook(world: Dependencies, key: Key, question: WebhookRequest | None) -> WebhookResult | None:
    """What a ModelDeployment's question was answered last; None where there is none yet, or nothing is asked. Never waits."""
    slot = f"confirm {key}"
    if question is None:
        world.posts.forget(slot)
        return None
    return world.posts.ask(
        slot,
        question.about,
        lambda: world.webhooks.post(question.url, question.document, question.timeout_s),
        enough=lambda answer: answer.confirms,
        again_s=lambda _: RETRY_S,
        now=world.clock.monotonic(),
    )
