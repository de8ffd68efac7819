"""The HTTPRoute that hangs a ModelDeployment's Service on a Gateway, and what that Gateway's controller answers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sundog_operator.api import Endpoint
from sundog_operator.api.conditions import CAMEL_CASE
from sundog_operator.core.edge.objects import is_made_for, make_own_metadata
from sundog_operator.core.kubernetes import names, pods

GATEWAY_GROUP: Final = "gateway.networking.k8s.io"
API_VERSION: Final = f"{GATEWAY_GROUP}/v1"
ROUTE_ACCEPTED: Final = "RouteAccepted"
_ASKED: Final = ("Accepted", "ResolvedRefs")
"""What a controller says of a route for each Gateway: that it takes it, and that it finds the Service."""
_UNITS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}

Json = dict[str, Any]


def make_route(member: Json, endpoint: Endpoint, hosts: Sequence[str]) -> Json:
    """The route of a ModelDeployment whose endpoint names a Gateway.

    `hosts` are those that the edge answers for. The endpoint's own is all that a Gateway needs; one that the edge does not answer for,
    because it is another's, is not asked for.
    """
    meta = make_own_metadata(member)
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [{"kind": "Service", "name": meta["name"], "port": 80}],
        "timeouts": {"request": _duration(endpoint.queue.timeout + endpoint.request_timeout)},
    }
    spec = {
        "parentRefs": [make_parent_ref(endpoint, meta["namespace"])],
        "hostnames": [endpoint.host] if endpoint.host in hosts else list(hosts),
        "rules": [rule],
    }
    meta["annotations"] = {names.ANNOTATION_MADE_AS: pods.fingerprint(spec)}
    return {"apiVersion": API_VERSION, "kind": "HTTPRoute", "metadata": meta, "spec": spec}


def make_parent_ref(endpoint: Endpoint, namespace: str) -> Json:
    """The reference to the Gateway that an endpoint in that namespace names."""
    gateway = endpoint.gateway
    section = {"sectionName": gateway.section_name} if gateway.section_name else {}
    where = gateway.namespace or namespace
    return {"group": GATEWAY_GROUP, "kind": "Gateway", "namespace": where, "name": gateway.name, **section}


def evaluate_route(deployment: Json, endpoint: Endpoint, route: Json | None, *, served: bool) -> tuple[str, str, str]:
    """(status, reason, message) of what became of the route that the endpoint asks for.

    `route` is what is stored under its name; `served` is whether the API server knows HTTPRoutes.
    """
    meta = deployment["metadata"]
    wanted = make_parent_ref(endpoint, meta["namespace"])
    if not served:
        return (
            "False",
            "GatewayAPIMissing",
            f"spec.endpoint.gateway: no HTTPRoutes of {API_VERSION} are served to Sundog",
        )
    if route is None:
        return "Unknown", "NotWritten", "the HTTPRoute is not there yet; if that lasts, the operator's log says why"
    if not is_made_for(route, deployment):
        found = f"HTTPRoute {meta['name']}: exists and was not made by Sundog; it is left alone. Rename or delete it"
        return "False", "NotOwned", found
    said = list(_said(route, wanted))
    if (refusal := next((each for each in said if each[1]["status"] == "False"), None)) is not None:
        controller, condition = refusal
        return "False", _reason(condition), f"{_name(wanted)}: {_text(condition)} ({controller})"
    told = {condition["type"] for _, condition in said if condition["status"] == "True"}
    if missing := [type_ for type_ in _ASKED if type_ not in told]:
        return "Unknown", "NotAnswered", f"no controller told {' and '.join(missing)} of the route to {_name(wanted)}"
    return "True", "Accepted", f"{_name(wanted)} takes the route ({', '.join(sorted({who for who, _ in said}))})"


def _said(route: Json, wanted: Mapping[str, Any]) -> Iterator[tuple[str, Json]]:
    """(controller, condition) of what was said of the route as it is now for that Gateway."""
    meta = route["metadata"]
    for told in (route.get("status") or {}).get("parents", ()):
        defaults = {"group": GATEWAY_GROUP, "kind": "Gateway", "namespace": meta["namespace"]}
        if {**defaults, **told["parentRef"]} != wanted:
            continue
        for condition in told["conditions"]:
            if condition["type"] in _ASKED and condition.get("observedGeneration", 0) in {0, meta["generation"]}:
                yield told["controllerName"], condition


def _reason(condition: Json) -> str:
    """As the controller gave it, unless its word is none that a condition of ours may have."""
    reason: str = condition["reason"]
    return reason if re.fullmatch(CAMEL_CASE, reason) else "NotAccepted"


def _text(condition: Json) -> str:
    return " ".join(f"{condition['message'] or condition['reason']}".split())


def _name(wanted: Mapping[str, Any]) -> str:
    section = f", listener {wanted['sectionName']}" if "sectionName" in wanted else ""
    return f"Gateway {wanted['namespace']}/{wanted['name']}{section}"


def _duration(length: timedelta) -> str:
    """As the Gateway API writes it: hours to milliseconds, where 0s would mean for ever."""
    rest = -(-length // timedelta(milliseconds=1))
    text = ""
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text
