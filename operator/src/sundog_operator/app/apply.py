"""Apply objects, and skip those that are already as wanted."""

from collections.abc import Callable, Sequence

from sundog_operator.app.dependencies import Dependencies
from sundog_operator.core.kubernetes.owner_references import add_owners
from sundog_operator.core.kubernetes.subset import contains
from sundog_operator.core.ray.clusters import is_managed_by_sundog
from sundog_operator.core.revisions import owner_uids
from sundog_operator.errors import AlreadyExists, Conflict
from sundog_operator.ports import Object, Ref


async def ensure(deps: Dependencies, desired: Object, stored: Object | None) -> Object:
    """Apply an object unless the stored one already contains it. Return the stored object. Raises DependencyError."""
    if (
        stored is not None
        and set(owner_uids(stored)) == set(owner_uids(desired))
        and contains(_without_owners(stored), _without_owners(desired))
    ):
        return stored
    return await deps.kube.apply(desired)


async def create_object(deps: Dependencies, desired: Object) -> Object:
    """Create an object. Raises DependencyError, and Conflict where it exists by now: the next pass finds out whose it is."""
    try:
        return await deps.kube.create(desired)
    except AlreadyExists as err:
        raise Conflict(str(err)) from err


async def ensure_created(deps: Dependencies, ref: Ref, owners: Sequence[Object], make: Callable[[], Object]) -> None:
    """Create an object that never changes, or add `owners` to it.

    Raises DependencyError, and Conflict where Sundog did not create the stored object or where another client changed it meanwhile.
    """
    stored = await deps.kube.get(ref)
    if stored is None:
        await deps.kube.create(make())
    elif not is_managed_by_sundog(stored):
        raise Conflict(f"{ref}: exists and was not made by Sundog; rename or delete it")
    elif (desired := add_owners(stored, owners)) is not None:
        await deps.kube.replace(desired)


def _without_owners(obj: Object) -> Object:
    """Return an object without its owner references. They are a set by uid, and the API server may reorder them."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "ownerReferences"}
    return {**obj, "metadata": metadata}
