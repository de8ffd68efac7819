"""Split documents for tests of the edge: the parts as plain JSON, and whole documents parsed."""

import json
from typing import Any

from sundog_edge.split.document import SplitDocument, parse_document

NAMESPACE = "vision"
HOSTILE_VALUE = 'a b|c"%[src]\\'
"""The value of a header in a match, with the syntax of maps and rules."""


def arm_fields(
    application: str = "digits-r1", name: str = "stable", revision: int = 1, **changes: Any
) -> dict[str, Any]:
    """Return an arm with all buckets."""
    return {
        "name": name,
        "application": application,
        "routePrefix": f"/{application}.app",
        "revision": revision,
        "weight": 100,
        "ranges": [[0, 10_000]],
        **changes,
    }


def service_fields(*arms: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a service with these arms, by default with `arm_fields()`. Each request is a unit."""
    return {
        "name": "digits",
        "cluster": "c",
        "attempt": "att",
        "salt": "salt",
        "unit": {"kind": "request"},
        "epoch": 0,
        "arms": [*(arms or (arm_fields(),))],
        "requestTimeoutSeconds": 30,
        "maxRequestBytes": 99,
        "maxOngoingRequests": 4,
        **changes,
    }


def document_fields(*services: dict[str, Any]) -> dict[str, Any]:
    """Return a document of generation 1 with these services and the cluster `c`, which does not answer."""
    clusters = {"c": {"dashboard": "http://127.0.0.1:1"}}
    return {"version": 1, "namespace": NAMESPACE, "generation": 1, "clusters": clusters, "services": [*services]}


def parsed(*services: dict[str, Any]) -> SplitDocument:
    """Return the parsed document of these services."""
    return parse_document(json.dumps(document_fields(*services)).encode(), NAMESPACE)


def header_unit(name: str = "x-user-id") -> dict[str, str]:
    """Return a unit that is the value of a header."""
    return {"kind": "header", "name": name}


def arms_document(*applications: str, header: str = "", services: int = 1, **changes: Any) -> SplitDocument:
    """Return a document of the service `digits` with the arms a0, a1, …, of which a0 has all buckets, and of services without arms."""
    arms = [
        arm_fields(application, f"a{number}", number, **({"weight": 0, "ranges": []} if number else {}))
        for number, application in enumerate(applications)
    ]
    common = {"epoch": 3, "requestTimeoutSeconds": 2.5, **({"unit": header_unit(header)} if header else {})}
    digits = service_fields(*arms, **{"hosts": ["digits.vision.svc"], **common, **changes})
    empty = [service_fields(**common, name=f"empty{number}", arms=[]) for number in range(1, services)]
    return SplitDocument.model_validate(document_fields(digits, *empty))


def matching_document(*headers: str, arm: str = "a1", **changes: Any) -> SplitDocument:
    """Return an `arms_document` of two arms, one of which gets requests in which all of these headers have HOSTILE_VALUE."""
    match = {"arm": arm, "headers": dict.fromkeys(headers, HOSTILE_VALUE)} if headers else None
    return arms_document("digits-r7", "digits-r8", match=match, **changes)
