"""Who owns what is made once, and stays as it was made while its owners come and go."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]


def add_owners(stored: Mapping[str, Any], owners: Sequence[Json]) -> Json | None:
    """The stored object owned by these as well; None where it is. Owners that are gone are for the garbage collector."""
    known = stored["metadata"].get("ownerReferences") or []
    uids = {ref["uid"] for ref in known}
    more = [ref for ref in owners if ref["uid"] not in uids]
    if not more:
        return None
    return {**stored, "metadata": {**stored["metadata"], "ownerReferences": [*known, *more]}}
