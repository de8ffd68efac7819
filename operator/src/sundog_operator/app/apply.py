"""Applies children, and leaves alone what is already as wanted."""

from collections.abc import Callable, Sequence

from sundog_operator.app.dependencies import Dependencies
from sundog_operator.core.kubernetes.owner_references import add_owners
from sundog_operator.core.kubernetes.subset import contains
from sundog_operator.core.ray.clusters import is_managed_by_sundog
from sundog_operator.errors import AlreadyExists, Conflict
from sundog_operator.ports import Object, Ref


async def ensure(world: Dependencies, wanted: Object, stored: Object | None) -> Object:
    """Apply an object of ours unless the stored one says all of it already. Returns what is stored then.

    Raises DependencyError.
    """
    if (
        stored is not None
        and _owners(stored) == _owners(wanted)
        and contains(_without_owners(stored), _without_owners(wanted))
    ):
        return stored
    return await world.kube.apply(wanted)


async def create_object(world: Dependencies, wanted: Object) -> Object:
    """Make an object that is not there. Raises DependencyError; Conflict where somebody was faster: the next pass sees whose it is."""
    try:
        return await world.kube.create(wanted)
    except AlreadyExists as err:
        raise Conflict(str(err)) from err


async def ensure_created(world: Dependencies, ref: Ref, owners: Sequence[Object], make: Callable[[], Object]) -> None:
    """Make an object that stays as it was first made, and is owned by all of `owners`.

    Raises DependencyError; Conflict where one of its name was not made by us, or somebody wrote it meanwhile.
    """
    stored = await world.kube.get(ref)
    if stored is None:
        await world.kube.create(make())
    elif not is_managed_by_sundog(stored):
        raise Conflict(f"{ref} exists and was not made by Sundog; it is left alone")
    elif (wanted := add_owners(stored, owners)) is not None:
        await world.kube.replace(wanted)


def _owners(obj: Object) -> set[str]:
    return {str(ref["uid"]) for ref in obj["metadata"].get("ownerReferences", ())}


def _without_owners(obj: Object) -> Object:
    """Owner references are a set by uid, which the API server may order as it likes."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "ownerReferences"}
    return {**obj, "metadata": metadata}
