"""Applies children, and leaves alone what is already as wanted."""

from sundog_operator.app.world import World
from sundog_operator.core.contains import contains
from sundog_operator.ports import Object


async def ensure(world: World, wanted: Object, stored: Object | None) -> Object:
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


def _owners(obj: Object) -> set[str]:
    return {str(ref["uid"]) for ref in obj["metadata"].get("ownerReferences", ())}


def _without_owners(obj: Object) -> Object:
    """Owner references are a set by uid, which the API server may order as it likes."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "ownerReferences"}
    return {**obj, "metadata": metadata}
