"""Whether a revision is ready, from what Serve reports of its application."""

import re
from dataclasses import dataclass
from typing import Final

from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import ApplicationState, ServeState
from sundog_operator.core.revisions import Revision

RETRYABLE_REASONS: Final = frozenset(
    {"ModelNotFound", "AccessDenied", "NoSpace", "SourceUnavailable", "LoadTimeout", "WarmupTimeout", "DeployFailed"}
)
"""Reasons that can pass without an edit: a file appears, a right is granted, a disk is cleared, a machine recovers."""

DEPLOYING: Final = "Deploying"
"""The reason of a start that goes on: no failure."""

_SAYS_NOTHING: Final = "Failed to update the deployments"
_TOLD: Final = re.compile(r"sundog: ([A-Z][A-Za-z]+): ([^\n]{1,600})")


@dataclass(frozen=True, slots=True)
class Readiness:
    """State of one revision's replicas.

    Attributes:
        running: replicas in state RUNNING that belong to exactly this revision.
        ready: Serve calls the application and its deployment healthy, and at least one replica runs.
        failed: Serve gave up starting it.
        known: False when Serve could not be asked, which says nothing about the revision.
    """

    running: int
    ready: bool
    failed: bool
    known: bool
    reason: str
    message: str

    @property
    def retryable(self) -> bool:
        """Whether starting it again may help."""
        return self.reason in RETRYABLE_REASONS


NOT_DEPLOYED: Final = Readiness(0, False, False, True, DEPLOYING, "the application is not deployed yet")


def evaluate_readiness(service: str, revision: Revision, serve: ServeState) -> Readiness:
    """Readiness of a revision. An application of that name with another hash does not count."""
    if not serve.known:
        return Readiness(0, False, False, False, "RayUnknown", "Serve could not be asked")
    app = serve.applications.get(names.application(service, revision.number))
    if app is None or _hash(app) != revision.hash:
        return NOT_DEPLOYED
    running = sum(deployment.running for deployment in app.deployments)
    told = _told(app)
    if app.status == "DEPLOY_FAILED" or any(d.status == "DEPLOY_FAILED" for d in app.deployments):
        reason, message = told or ("DeployFailed", _brief(app))
        return Readiness(running, False, True, True, reason, message)
    if app.status == "UNHEALTHY" or any(d.status == "UNHEALTHY" for d in app.deployments):
        reason, message = told or ("Unhealthy", _brief(app))
        return Readiness(running, False, False, True, reason, message)
    if app.status == "RUNNING" and running and _settled(app):
        return Readiness(running, True, False, True, "Ready", f"{_target(app)} running")
    reason, message = told or (DEPLOYING, f"{running} of {_target(app)} running; Serve says {app.status}")
    return Readiness(running, False, False, True, reason, message)


def _target(app: ApplicationState) -> str:
    wanted = sum(deployment.target_replicas for deployment in app.deployments)
    return f"{wanted} replica{'' if wanted == 1 else 's'}"


def _settled(app: ApplicationState) -> bool:
    return bool(app.deployments) and all(d.status in ("HEALTHY", "UPSCALING", "DOWNSCALING") for d in app.deployments)


def _hash(app: ApplicationState) -> str:
    return str((app.config.get("args") or {}).get("revisionHash", ""))


def _told(app: ApplicationState) -> tuple[str, str] | None:
    for text in (*(d.message for d in app.deployments), app.message):
        if found := _TOLD.findall(text):
            reason, message = found[-1]  # the latest of several attempts
            return reason, message.strip()
    return None


def _brief(app: ApplicationState) -> str:
    texts = [*(d.message for d in app.deployments), app.message]
    if any("ActorDiedError" in text for text in texts):
        return "the process of the replica died while it started; Ray's log has what it said last"
    lines = [
        line.strip()
        for text in texts
        for line in text.splitlines()
        if line.strip() and not line.startswith(_SAYS_NOTHING)
    ]
    return lines[-1][:300] if lines else f"Serve says {app.status} and gives no reason"
