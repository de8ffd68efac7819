"""Create the ResourceClaimTemplates of revisions whose pods claim devices."""

import logging

from sundog_operator.api.installation import Installation
from sundog_operator.app.apply import create_object
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import accelerators, device_claims, names
from sundog_operator.core.ray.clusters import is_foreign
from sundog_operator.core.revisions import Revision, is_owned_by, owner_reference
from sundog_operator.errors import Conflict, DependencyError, Invalid, NotServed
from sundog_operator.ports import CONTROLLER_REVISION, RESOURCE_CLAIM_TEMPLATE, Object, Ref

log = logging.getLogger("sundog.operator")


async def ensure_claim_template(
    deps: Dependencies, model_deployment: Object, revision: Revision, installation: Installation
) -> None:
    """Create the template of a revision's pods, unless it exists or the revision claims no devices.

    The ControllerRevision owns it, so that it goes with the revision. Without the API nothing is created, and the ModelDeployment's
    status says so: other ModelDeployments share the RayCluster, and must not wait.

    Raises DependencyError, and Conflict where the object of that name is not Sundog's, or not this revision's.

    Args:
        deps: the dependencies.
        model_deployment: the metadata of the ModelDeployment.
        revision: one of its revisions.
        installation: the administrator's settings.
    """
    gpu = revisions.spec_of(revision).resources.gpu
    devices = accelerators.replica_devices(gpu)
    if devices is None or not devices.is_claimed:
        return
    namespace, name = model_deployment["namespace"], names.application(model_deployment["name"], revision.number)
    ref = Ref(RESOURCE_CLAIM_TEMPLATE, namespace, name)
    try:
        stored = await deps.kube.get(ref)
    except NotServed as err:
        log.debug("%s: not created: %s", ref, err)
        return
    if is_foreign(stored):
        raise Conflict(f"{ref}: exists and was not made by Sundog; rename or delete it")
    owner = await deps.kube.get(Ref(CONTROLLER_REVISION, namespace, name))
    if stored is not None and owner is not None and not is_owned_by(stored, owner["metadata"]["uid"]):
        # A ModelDeployment of the same name was deleted, and the garbage collector is not done. Its devices may be others.
        raise Conflict(f"{ref}: belongs to a deleted revision; waiting until Kubernetes has deleted it")
    if stored is None and owner is not None:
        reference = owner_reference(owner, controller=False)
        template = device_claims.make_claim_template(namespace, name, reference, gpu, installation.gpu.aliases)
        try:
            await create_object(deps, template)
        except Invalid as err:
            raise DependencyError(f"{ref}: {err}") from err
