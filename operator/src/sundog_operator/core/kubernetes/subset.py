"""Check that stored JSON contains all wanted JSON."""

from collections.abc import Mapping
from typing import Any


def contains(found: Any, wanted: Any) -> bool:
    """Return whether JSON `found` contains all of `wanted`.

    Servers add defaults and fields of their own, so further keys of a mapping do not matter. Lists must match item by item.
    """
    # Most parts are equal, and one comparison is cheaper than the recursion.
    if found == wanted:
        return True
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(key in found and contains(found[key], wanted[key]) for key in wanted)
    return (
        isinstance(wanted, list)
        and isinstance(found, list)
        and len(found) == len(wanted)
        and all(map(contains, found, wanted))
    )
