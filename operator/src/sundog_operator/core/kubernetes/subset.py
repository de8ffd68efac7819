"""Check that stored JSON contains all wanted JSON."""

from collections.abc import Mapping
from typing import Any


def contains(found: Any, expected: Any) -> bool:
    """Return whether JSON `found` contains all of `expected`.

    Servers add defaults and fields of their own, so further keys of a mapping do not matter. Lists must match item by item.
    """
    # Most parts are equal, and one comparison is cheaper than the recursion.
    if found == expected:
        return True
    if isinstance(expected, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and contains(found[key], expected[key]) for key in expected
        )
    return (
        isinstance(expected, list)
        and isinstance(found, list)
        and len(found) == len(expected)
        and all(map(contains, found, expected))
    )
