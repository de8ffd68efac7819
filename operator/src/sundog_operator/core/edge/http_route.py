"""The HTTPRoute from a Gateway to a ModelDeployment's Service, and the answer of the Gateway's controller."""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from sundog_operator.api import Endpoint
from sundog_operator.api.conditions import CAMEL_CASE, Conclusion
from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.core.edge.objects import GRPC_PORT, is_made_for, make_own_metadata
from sundog_operator.core.kubernetes import grace_periods, names, pods

GATEWAY_GROUP: Final = "gateway.networking.k8s.io"
API_VERSION: Final = f"{GATEWAY_GROUP}/v1"
ROUTE_ACCEPTED: Final = "RouteAccepted"
_ROUTE_CONDITIONS: Final = ("Accepted", "ResolvedRefs")
"""The conditions that a controller sets for each Gateway: it accepts the route, and it finds the Service."""
_MARGIN: Final = timedelta(seconds=5)
"""A Gateway's clock starts before the edge's, and it has a queue of its own."""
_GRPC_PATHS: Final = ("/inference.GRPCInferenceService", "/grpc.health.v1.Health")
"""Paths of gRPC services that the edge answers."""
_UNITS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}

Json = dict[str, Any]


def make_route(model_deployment: Json, endpoint: Endpoint, service: Mapping[str, Any]) -> Json:
    """Return the route of a ModelDeployment whose endpoint names a Gateway.

    `service` is its entry in the split document. The route names `endpoint.host` alone if the edge answers for it; otherwise another
    ModelDeployment owns it, or it is empty. Its timeout is longer than the edge may take, so that the edge's answer, with its code, comes
    first.
    """
    hosts = service["hosts"]
    longest_s = service["requestTimeoutSeconds"] + grace_periods.replica_wait_s(service)
    meta = make_own_metadata(model_deployment)
    timeouts = {"request": _format_duration(timedelta(seconds=longest_s) + _MARGIN)}
    rules = [
        {
            "matches": [{"path": {"type": "PathPrefix", "value": path}} for path in paths],
            "backendRefs": [{"kind": "Service", "name": meta["name"], "port": port}],
            "timeouts": timeouts,
        }
        for paths, port in ((("/",), 80), (_GRPC_PATHS, GRPC_PORT))
    ]
    spec = {
        "parentRefs": [make_parent_ref(endpoint, meta["namespace"])],
        "hostnames": [endpoint.host] if endpoint.host in hosts else [*hosts],
        "rules": rules,
    }
    meta["annotations"] = {names.ANNOTATION_MADE_AS: pods.fingerprint(spec)}
    return {"apiVersion": API_VERSION, "kind": "HTTPRoute", "metadata": meta, "spec": spec}


def make_parent_ref(endpoint: Endpoint, namespace: str) -> Json:
    """Return the reference to the Gateway that an endpoint of the namespace names."""
    gateway = endpoint.gateway
    section = {"sectionName": gateway.section_name} if gateway.section_name else {}
    where = gateway.namespace or namespace
    return {"group": GATEWAY_GROUP, "kind": "Gateway", "namespace": where, "name": gateway.name, **section}


def evaluate_route(deployment: Json, endpoint: Endpoint, route: Json | None, *, served: bool) -> Conclusion:
    """Return the conclusion about the condition `RouteAccepted`.

    Args:
        deployment: the stored ModelDeployment.
        endpoint: its endpoint, which names a Gateway.
        route: the stored HTTPRoute of its name.
        served: whether the API server serves HTTPRoutes.
    """
    meta = deployment["metadata"]
    wanted = make_parent_ref(endpoint, meta["namespace"])
    if not served:
        return Conclusion(
            "False",
            DeploymentReason.GATEWAY_API_MISSING,
            f"spec.endpoint.gateway: the API server serves no HTTPRoutes of {API_VERSION} to Sundog; install the Gateway API",
        )
    if route is None:
        return Conclusion(
            "Unknown",
            DeploymentReason.NOT_WRITTEN,
            "the HTTPRoute does not exist yet; if this lasts, read the operator's log",
        )
    if not is_made_for(route, deployment):
        found = f"HTTPRoute {meta['name']}: exists and was not made by Sundog; it is left alone. Rename or delete it"
        return Conclusion("False", DeploymentReason.NOT_OWNED, found)
    answers = list(_read_answers(route, wanted))
    if (rejection := next((each for each in answers if each[1]["status"] == "False"), None)) is not None:
        controller, condition = rejection
        return Conclusion(
            "False",
            _find_reason(condition),
            f"{_format_gateway(wanted)}: {_format_message(condition)} ({controller})",
        )
    true = {condition["type"] for _, condition in answers if condition["status"] == "True"}
    if missing := [type_ for type_ in _ROUTE_CONDITIONS if type_ not in true]:
        return Conclusion(
            "Unknown",
            DeploymentReason.NOT_ANSWERED,
            f"{_format_gateway(wanted)}: no controller has set {' and '.join(missing)} of the route yet",
        )
    controllers = ", ".join(sorted({controller for controller, _ in answers}))
    return Conclusion("True", DeploymentReason.ACCEPTED, f"{_format_gateway(wanted)} accepts the route ({controllers})")


def _read_answers(route: Json, wanted: Mapping[str, Any]) -> Iterator[tuple[str, Json]]:
    """Yield (controller, condition) for each condition of the Gateway on the current generation of the route."""
    meta = route["metadata"]
    for parent in (route.get("status") or {}).get("parents", ()):
        defaults = {"group": GATEWAY_GROUP, "kind": "Gateway", "namespace": meta["namespace"]}
        if {**defaults, **parent["parentRef"]} != wanted:
            continue
        for condition in parent["conditions"]:
            current = condition.get("observedGeneration", 0) in {0, meta["generation"]}
            if condition["type"] in _ROUTE_CONDITIONS and current:
                yield parent["controllerName"], condition


def _find_reason(condition: Json) -> str:
    """Return the controller's reason, or `NotAccepted` where our conditions cannot have it."""
    reason: str = condition["reason"]
    return reason if re.fullmatch(CAMEL_CASE, reason) else DeploymentReason.NOT_ACCEPTED


def _format_message(condition: Json) -> str:
    return " ".join(f"{condition['message'] or condition['reason']}".split())


def _format_gateway(wanted: Mapping[str, Any]) -> str:
    section = f", listener {wanted['sectionName']}" if "sectionName" in wanted else ""
    return f"Gateway {wanted['namespace']}/{wanted['name']}{section}"


def _format_duration(length: timedelta) -> str:
    """Return a duration in the Gateway API's form, in hours to milliseconds. It rounds up, because 0s would mean no timeout."""
    rest = -(-length // timedelta(milliseconds=1))
    text = ""
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text
