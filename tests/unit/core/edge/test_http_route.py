"""The HTTPRoute of a ModelDeployment, and the answers of a Gateway's controller."""

from typing import Any

import pytest

from sundog_operator.api import Condition, Endpoint, ModelDeployment
from sundog_operator.core.edge.http_route import evaluate_route, make_route
from sundog_operator.core.edge.split_document import make_service_entry
from sundog_operator.core.kubernetes import names

HOSTS = ["digits.example.com", "digits.vision.svc"]
MEMBER = {
    "apiVersion": "serving.sundog.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "digits", "namespace": "vision", "uid": "u", "generation": 1},
}
CONTROLLER = "example.com/gateway"


def model_deployment(endpoint: dict[str, Any], **fields: Any) -> ModelDeployment:
    gateway = {"name": "public", "namespace": "infra"}
    obj = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits"},
        "spec": {"model": {"uri": "file:///models/digits"}, "endpoint": {"gateway": gateway, **endpoint}, **fields},
    }
    return ModelDeployment.parse(obj)


def endpoint(**fields: Any) -> Endpoint:
    return model_deployment(fields).spec.endpoint


def make(endpoint: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The route of a service with an endpoint and other fields of its spec, by its entry in the split document."""
    spec = model_deployment(endpoint, **fields).spec
    entry = make_service_entry("vision", "digits", spec, "sundog-0", None)
    return make_route(MEMBER, spec.endpoint, {**entry, "hosts": HOSTS})


def test_a_route_leads_from_the_gateway_to_the_service() -> None:
    route = make({"host": "digits.example.com", "gateway": {"name": "public"}})
    assert (route["apiVersion"], route["kind"]) == ("gateway.networking.k8s.io/v1", "HTTPRoute")
    assert route["metadata"]["name"] == "digits"
    (owner,) = route["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("ModelDeployment", "u", True)
    gateway = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "vision", "name": "public"}
    assert route["spec"] == {
        "parentRefs": [gateway],
        "hostnames": ["digits.example.com"],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"kind": "Service", "name": "digits", "port": 80}],
                "timeouts": {"request": "40s"},
            },
            {
                "matches": [
                    {"path": {"type": "PathPrefix", "value": "/inference.GRPCInferenceService"}},
                    {"path": {"type": "PathPrefix", "value": "/grpc.health.v1.Health"}},
                ],
                "backendRefs": [{"kind": "Service", "name": "digits", "port": 9000}],
                "timeouts": {"request": "40s"},
            },
        ],
    }


def test_a_gateway_of_another_namespace_and_a_listener_are_named() -> None:
    gateway = {"name": "public", "namespace": "infra", "sectionName": "https"}
    (parent,) = make({"gateway": gateway})["spec"]["parentRefs"]
    assert (parent["namespace"], parent["sectionName"]) == ("infra", "https")


@pytest.mark.parametrize("host", ["", "taken.example.com"])
def test_no_host_is_asked_for_that_the_edge_does_not_answer_for(host: str) -> None:
    assert make({"host": host})["spec"]["hostnames"] == HOSTS


@pytest.mark.parametrize(
    ("waits", "answers", "written"),
    [
        ("5s", "30s", "40s"),
        ("0s", "2ms", "5s2ms"),
        ("0s", "1us", "5s1ms"),
        ("23h59m", "23h59m59s", "47h59m4s"),
        ("500ms", "1h", "1h5s500ms"),
        ("12h", "12h", "24h5s"),
    ],
)
def test_the_gateway_waits_a_little_longer_than_the_edge_may_and_writes_it_its_own_way(
    waits: str, answers: str, written: str
) -> None:
    rule, _ = make({"queue": {"timeout": waits}, "requestTimeout": answers})["spec"]["rules"]
    assert rule["timeouts"] == {"request": written}


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"replicas": 0}, "2m35s"),
        ({"autoscaling": {"minReplicas": 0, "maxReplicas": 2, "coldStartTimeout": "20m"}}, "20m35s"),
        ({"autoscaling": {"minReplicas": 0, "maxReplicas": 2, "coldStartTimeout": "1s"}}, "40s"),
        ({"autoscaling": {"minReplicas": 1, "maxReplicas": 2}}, "40s"),
    ],
)
def test_the_gateway_waits_for_the_first_replica_of_a_service_at_zero(fields: dict[str, Any], written: str) -> None:
    rule, _ = make({}, **fields)["spec"]["rules"]
    assert rule["timeouts"] == {"request": written}


def test_what_is_left_out_later_is_distinguished_by_its_mark() -> None:
    gateway = {"name": "public", "sectionName": "https"}
    one = make({"gateway": gateway})["metadata"]["annotations"]
    two = make({"gateway": {"name": "public"}})["metadata"]["annotations"]
    assert one[names.ANNOTATION_MADE_AS] != two[names.ANNOTATION_MADE_AS]


def make_condition(
    type_: str, status: str, reason: str = "Fine", message: str = "", generation: int = 2
) -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
    }


def stored(*conditions: dict[str, Any], parent: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A route of generation 2 with one controller's answers for the Gateway infra/public."""
    route = make(more)
    route["metadata"]["generation"] = 2
    about = parent or {"name": "public", "namespace": "infra"}
    parents = [{"parentRef": about, "controllerName": CONTROLLER, "conditions": list(conditions)}] if conditions else []
    return {**route, "status": {"parents": parents}}


ACCEPTED, RESOLVED = make_condition("Accepted", "True"), make_condition("ResolvedRefs", "True")


def test_a_route_that_is_taken_and_leads_somewhere_is_accepted() -> None:
    assert evaluate_route(MEMBER, endpoint(), stored(ACCEPTED, RESOLVED), served=True) == (
        "True",
        "Accepted",
        "Gateway infra/public accepts the route (example.com/gateway)",
    )


UNANSWERED = "Gateway infra/public: no controller has set Accepted and ResolvedRefs of the route yet"


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (stored(), UNANSWERED),
        ({**stored(), "status": {}}, UNANSWERED),
        (stored(ACCEPTED, RESOLVED, parent={"name": "public"}), UNANSWERED),
        (stored(ACCEPTED, RESOLVED, parent={"name": "other", "namespace": "infra"}), UNANSWERED),
        (stored(ACCEPTED, RESOLVED, parent={"name": "public", "namespace": "infra", "port": 80}), UNANSWERED),
        (
            stored(
                make_condition("Accepted", "True", generation=1), make_condition("ResolvedRefs", "False", generation=1)
            ),
            UNANSWERED,
        ),
        (stored(make_condition("Programmed", "False"), make_condition("Accepted", "Unknown")), UNANSWERED),
        (stored(ACCEPTED), "Gateway infra/public: no controller has set ResolvedRefs of the route yet"),
    ],
)
def test_nobody_answered_for_this_route_as_it_is(route: dict[str, Any], message: str) -> None:
    assert evaluate_route(MEMBER, endpoint(), route, served=True) == ("Unknown", "NotAnswered", message)


@pytest.mark.parametrize(
    ("conditions", "reason", "message"),
    [
        (
            [make_condition("Accepted", "False", "NotAllowedByListeners", "no listener\n takes  it"), RESOLVED],
            "NotAllowedByListeners",
            "Gateway infra/public: no listener takes it (example.com/gateway)",
        ),
        (
            [ACCEPTED, make_condition("ResolvedRefs", "False", "BackendNotFound")],
            "BackendNotFound",
            "Gateway infra/public: BackendNotFound (example.com/gateway)",
        ),
        (
            [make_condition("Accepted", "False", "their_own:word", "m")],
            "NotAccepted",
            "Gateway infra/public: m (example.com/gateway)",
        ),
    ],
)
def test_a_refusal_is_reported_in_the_words_of_the_controller(
    conditions: list[dict[str, Any]], reason: str, message: str
) -> None:
    found = evaluate_route(MEMBER, endpoint(), stored(*conditions), served=True)
    assert found == ("False", reason, message)
    Condition(type="RouteAccepted", status="False", reason=found[1], last_transition_time="2026-03-01T12:00:00Z")  # type: ignore[arg-type]


def test_a_listener_is_named_and_only_its_answer_counts() -> None:
    gateway = {"name": "public", "namespace": "infra", "sectionName": "https"}
    whole = stored(ACCEPTED, RESOLVED, gateway=gateway)
    assert evaluate_route(MEMBER, endpoint(gateway=gateway), whole, served=True)[1] == "NotAnswered"
    listener = stored(ACCEPTED, RESOLVED, gateway=gateway, parent=gateway)
    assert "infra/public, listener https" in evaluate_route(MEMBER, endpoint(gateway=gateway), listener, served=True)[2]


def test_what_is_not_there_yet_and_what_is_not_ours() -> None:
    assert evaluate_route(MEMBER, endpoint(), None, served=True)[:2] == ("Unknown", "NotWritten")
    theirs = {"metadata": {"name": "digits", "namespace": "vision", "labels": {"team": "x"}}}
    status, reason, message = evaluate_route(MEMBER, endpoint(), theirs, served=True)
    assert (status, reason) == ("False", "NotOwned")
    assert message.startswith("HTTPRoute digits: ")


def test_without_the_gateway_api() -> None:
    status, reason, message = evaluate_route(MEMBER, endpoint(), None, served=False)
    assert (status, reason) == ("False", "GatewayAPIMissing")
    assert (
        message
        == "spec.endpoint.gateway: the API server serves no HTTPRoutes of gateway.networking.k8s.io/v1 to Sundog; install the Gateway API"
    )
