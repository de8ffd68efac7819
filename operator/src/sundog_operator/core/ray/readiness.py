"""Decide from Serve's report whether a revision is ready."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from sundog_operator.api.reasons import Cause, DeploymentReason, StartFailure
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import ApplicationState, ServeState
from sundog_operator.core.revisions import Revision

RETRYABLE_REASONS: Final[frozenset[str]] = frozenset(
    {
        StartFailure.MODEL_NOT_FOUND,
        StartFailure.ACCESS_DENIED,
        StartFailure.NO_SPACE,
        StartFailure.SOURCE_UNAVAILABLE,
        StartFailure.LOAD_TIMEOUT,
        StartFailure.WARMUP_TIMEOUT,
        StartFailure.DEPLOY_FAILED,
    }
)
"""Reasons that can pass without an edit: a file appears, a permission is granted, a disk is cleared, a machine recovers."""

_GENERIC_MESSAGE: Final = "Failed to update the deployments"
_RUNTIME_ERROR: Final = re.compile(r"sundog: ([A-Z][A-Za-z]+): ([^\n]{1,600})")


@dataclass(frozen=True, slots=True)
class Readiness:
    """State of one revision's replicas.

    Attributes:
        running: replicas of exactly this revision in state RUNNING.
        ready: Serve reports the application and its deployment as healthy, and at least one replica runs or none is wanted.
        failed: Serve has given up the start.
        known: False when Serve did not answer, which is no information about the revision.
    """

    running: int
    ready: bool
    failed: bool
    known: bool
    reason: str
    message: str

    @property
    def retryable(self) -> bool:
        """Whether another start may succeed."""
        return self.reason in RETRYABLE_REASONS


NOT_DEPLOYED: Final = Readiness(
    0, False, False, True, DeploymentReason.DEPLOYING, "Serve has not deployed the application yet"
)


def remove_conflicting_revisions(
    service: str, known: Iterable[Revision], serve: ServeState, in_use: Collection[int]
) -> list[Revision]:
    """Return the revisions without those in use whose application runs other content.

    Such a ControllerRevision was replaced, for example by one from a backup. Its application must stay as it is.
    """
    kept = []
    for revision in known:
        app = serve.applications.get(names.application(service, revision.number))
        if app is None or revision.number not in in_use or _hash(app) in ("", revision.hash):
            kept.append(revision)
    return kept


def evaluate_readiness(service: str, revision: Revision, serve: ServeState) -> Readiness:
    """Return the readiness of a revision. An application of its name with another hash does not count."""
    if not serve.known:
        return Readiness(0, False, False, False, DeploymentReason.RAY_UNKNOWN, "Serve does not answer")
    app = serve.applications.get(names.application(service, revision.number))
    if app is None or _hash(app) != revision.hash:
        return NOT_DEPLOYED
    running = sum(deployment.running for deployment in app.deployments)
    runtime_error = _find_runtime_error(app)
    if app.status == "DEPLOY_FAILED" or any(d.status == "DEPLOY_FAILED" for d in app.deployments):
        reason, message = runtime_error or Cause(StartFailure.DEPLOY_FAILED, _summarize(app))
        return Readiness(running, False, True, True, reason, message)
    if app.status == "UNHEALTHY" or any(d.status == "UNHEALTHY" for d in app.deployments):
        reason, message = runtime_error or Cause(DeploymentReason.UNHEALTHY, _summarize(app))
        return Readiness(running, False, False, True, reason, message)
    if app.status == "RUNNING" and not running and _is_settled(app) and not _count_wanted(app):
        return Readiness(
            0, True, False, True, DeploymentReason.READY, "scaled to zero; the next request starts a replica"
        )
    if app.status == "RUNNING" and running and _is_settled(app):
        return Readiness(running, True, False, True, DeploymentReason.READY, f"{_format_target(app)} running")
    progress = f"{running} of {_format_target(app)} running; Serve reports {app.status}"
    reason, message = runtime_error or Cause(DeploymentReason.DEPLOYING, progress)
    return Readiness(running, False, False, True, reason, message)


def _count_wanted(app: ApplicationState) -> int:
    return sum(deployment.target_replicas for deployment in app.deployments)


def _format_target(app: ApplicationState) -> str:
    wanted = _count_wanted(app)
    return f"{wanted} replica{'' if wanted == 1 else 's'}"


def _is_settled(app: ApplicationState) -> bool:
    return bool(app.deployments) and all(d.status in ("HEALTHY", "UPSCALING", "DOWNSCALING") for d in app.deployments)


def _hash(app: ApplicationState) -> str:
    return str((app.config.get("args") or {}).get("revisionHash", ""))


def _find_runtime_error(app: ApplicationState) -> Cause | None:
    """Return the model server's error in Serve's messages; None without one."""
    for text in (*(d.message for d in app.deployments), app.message):
        if found := _RUNTIME_ERROR.findall(text):
            reason, message = found[-1]  # the latest of several attempts
            return Cause(reason, message.strip())
    return None


def _summarize(app: ApplicationState) -> str:
    texts = [*(d.message for d in app.deployments), app.message]
    if any("ActorDiedError" in text for text in texts):
        return "the replica's process died during its start; read its last lines in Ray's log"
    lines = [
        line.strip()
        for text in texts
        for line in text.splitlines()
        if line.strip() and not line.startswith(_GENERIC_MESSAGE)
    ]
    return lines[-1][:300] if lines else f"Serve reports {app.status} without a reason"
