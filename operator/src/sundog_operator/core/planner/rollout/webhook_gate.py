"""The request of a step to its webhook."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.core import revisions
from sundog_operator.core.planner.context import holds_rollouts
from sundog_operator.core.planner.facts import RolloutAttempt
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial.rollout import state, windows

Json = dict[str, Any]

_PHASE: Final = "Progressing"
"""Flagger's phase of an active canary."""


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A request to a webhook. The answer stays valid for requests with an equal `about`."""

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
    """Return the webhook request of a rollout's current step; None if it has none, the spec holds it, or windows are closed.

    The document is Flagger's: `{name, namespace, phase, checksum, metadata}`, where metadata has only strings.
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
    return spec is None or holds_rollouts(spec) or windows.next_opening(spec.rollout.windows, now) is not None
