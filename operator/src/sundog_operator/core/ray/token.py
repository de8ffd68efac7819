"""The token that all Ray processes of a namespace share with the operator and the edges."""

from collections.abc import Sequence
from typing import Any

from sundog_operator.core.kubernetes import names

Json = dict[str, Any]


def make_secret(namespace: str, owners: Sequence[Json], token: str) -> Json:
    """Return the Secret with a token. `owners` are the ModelDeployments whose clusters use it."""
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
