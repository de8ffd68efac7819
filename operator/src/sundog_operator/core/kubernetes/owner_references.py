"""Owner references of objects that are created once and keep their content while their owners change."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]


def add_owners(stored: Mapping[str, Any], owners: Sequence[Json]) -> Json | None:
    """Return the stored object with these owners added; None where it has them all. The garbage collector removes deleted owners."""
    known = stored["metadata"].get("ownerReferences") or []
    uids = {ref["uid"] for ref in known}
    missing = [ref for ref in owners if ref["uid"] not in uids]
    if not missing:
        return None
    return {**stored, "metadata": {**stored["metadata"], "ownerReferences": [*known, *missing]}}
