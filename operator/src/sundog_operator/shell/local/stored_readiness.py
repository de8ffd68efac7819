"""The stored readiness at the start of an instance."""

from datetime import datetime

from sundog_operator.api import format_timestamp
from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.ports import MODEL_DEPLOYMENT, Kubernetes, Object, ref_of


async def mark_unready(kube: Kubernetes, now: datetime) -> None:
    """Set each stored `Ready` of a ModelDeployment to False. Call it only while no process of the instance runs."""
    unready = {
        "status": "False",
        "reason": str(DeploymentReason.NO_HEALTHY_REPLICA),
        "message": "the local instance starts: no replica runs yet",
        "lastTransitionTime": format_timestamp(now),
    }
    for stored in await kube.list(MODEL_DEPLOYMENT):
        status = stored.get("status") or {}
        known = status.get("conditions") or []
        conditions = [each | unready if _is_ready(each) else each for each in known]
        if conditions != known:
            version = stored["metadata"]["resourceVersion"]
            await kube.patch_status(ref_of(stored), {**status, "conditions": conditions}, resource_version=version)


def _is_ready(condition: Object) -> bool:
    return (condition.get("type"), condition.get("status")) == ("Ready", "True")
