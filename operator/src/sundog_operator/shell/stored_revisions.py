"""Stored revisions of a ModelDeployment, for the verbs that need more than its status."""

from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.core.revisions import Revision
from sundog_operator.ports import CONTROLLER_REVISION, Object
from sundog_operator.shell.server_connection import ServerConnection


async def list_revisions(server: ServerConnection, deployment: Object) -> list[Revision]:
    """Return the stored revisions of a ModelDeployment. Raises Forbidden without permission to list ControllerRevisions."""
    meta = deployment["metadata"]
    stored = await server.kube.list(CONTROLLER_REVISION, server.namespace, {names.LABEL_MODEL_DEPLOYMENT: meta["name"]})
    known = (revisions.parse_controller_revision(each) for each in stored if revisions.is_owned_by(each, meta["uid"]))
    return [revision for revision in known if revision is not None]
