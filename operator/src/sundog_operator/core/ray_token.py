"""The token that all Ray processes of a namespace share with the operator and the edges."""

from collections.abc import Mapping, Sequence
from typing import Any

from sundog_operator.core import names

Json = dict[str, Any]


def make_secret(namespace: str, owners: Sequence[Json], token: str) -> Json:
    """The Secret with a token, owned by the ModelDeployments whose clusters use it."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": names.RAY,
            "namespace": namespace,
            "labels": names.labels(names.RAY),
            "ownerReferences": list(owners),
        },
        "type": "Opaque",
        "stringData": {names.RAY_TOKEN_KEY: token},
    }


def with_owners(stored: Mapping[str, Any], owners: Sequence[Json]) -> Json | None:
    """The stored Secret owned by these as well; None where it is. Owners that are gone are for the garbage collector."""
    known = stored["metadata"].get("ownerReferences") or []
    uids = {ref["uid"] for ref in known}
    more = [ref for ref in owners if ref["uid"] not in uids]
    if not more:
        return None
    return {**stored, "metadata": {**stored["metadata"], "ownerReferences": [*known, *more]}}
