"""What a step asks a webhook."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.core import revisions
from sundog_operator.core.planner.context import RolloutAttempt
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import state, windows

Json = dict[str, Any]

_PHASE: Final = "Progressing"
"""Flagger's word for a canary that is under way."""


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """What to ask. Of equal `about` it is the same question, whose answer stays good; `timeout_s` is in seconds."""

    about: str
    url: str
    document: Mapping[str, Any]
    timeout_s: float


def make_webhook_request(
    deployment: Json,
    spec: ModelDeploymentSpec | None,
    attempt: RolloutAttempt | None,
    known: Iterable[Revision],
    now: datetime,
) -> WebhookRequest | None:
    """The question of the step that a rollout is at; None where it asks nothing, the spec holds it, or its windows are closed.

    The document is Flagger's: `{name, namespace, phase, checksum, metadata}`, with texts alone in its metadata.
    """
    webhook = state.pending_webhook(attempt.status) if attempt is not None and not is_rollout_held(spec, now) else None
    if attempt is None or webhook is None:
        return None
    meta, step = deployment["metadata"], attempt.status.step
    revision = revisions.find_by_number(known, attempt.revision)
    number = step.index if step else 0
    document = {
        "name": meta["name"],
        "namespace": meta["namespace"],
        "phase": _PHASE,
        "checksum": revision.hash if revision else "",
        "metadata": {
            "revision": str(attempt.revision),
            "experiment": attempt.name,
            "step": str(number),
            "weight": str(state.canary_weight(attempt.status)),
        },
    }
    return WebhookRequest(f"{attempt.uid}/{number}", webhook.url, document, webhook.timeout.total_seconds())


def is_rollout_held(spec: ModelDeploymentSpec | None, now: datetime) -> bool:
    """Whether the spec or its windows hold a rollout."""
    if spec is None or spec.paused or spec.rollout.paused or spec.rollout.dry_run:
        return True
    return windows.next_opening(spec.rollout.windows, now) is not None
