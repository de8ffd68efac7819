"""The HTTPRoute of a ModelDeployment on a real API server with the Gateway API's own CRDs; the Gateway's controller is this test."""

from collections.abc import Iterator
from typing import Any

import pytest

from charting.lifecycle import MDEP, RECREATE, TEAM, Life, beginning
from real_kubernetes import gateway_api
from real_kubernetes.cluster import Cluster
from real_kubernetes.gateway_api import HTTP_ROUTES
from real_kubernetes.kubectl import Kubectl

GATEWAY = {"name": "public", "namespace": "infra", "sectionName": "https"}
HOST = "digits.example.com"


@pytest.fixture(scope="module")
def life(api_server: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """An operator on an API server that knows no Gateways yet."""
    if api_server.instance is None:
        pytest.skip("what runs in pods is stood in for, and the cluster given has pods")
    gateway_api.remove_crds(api_server.kubectl)
    # While its kind is on the way out, a route is refused: that is no want of a right.
    with beginning(api_server, tmp_path_factory.mktemp("gateway"), name="gateway") as begun:
        yield begun
    gateway_api.remove_crds(api_server.kubectl)


@pytest.fixture
def kubectl(api_server: Cluster) -> Kubectl:
    return api_server.kubectl


def routed(**endpoint: Any) -> dict[str, Any]:
    return {**RECREATE, "endpoint": {"host": HOST, "gateway": GATEWAY, **endpoint}}


def route(kubectl: Kubectl) -> dict[str, Any]:
    found: list[dict[str, Any]] = kubectl.get("-n", TEAM, HTTP_ROUTES)["items"]
    return found[0] if found else {}


def told(life: Life, type_: str) -> str:
    (message,) = [c["message"] for c in life.status()["conditions"] if c["type"] == type_]
    return str(message)


def test_a_route_comes_with_the_gateway_api_follows_the_endpoint_and_goes(life: Life, kubectl: Kubectl) -> None:
    life.apply(1, **routed())
    life.until_serves(1)
    assert life.condition("RouteAccepted") == ("False", "GatewayAPIMissing")
    assert life.condition("Ready") == ("True", "Serving")
    assert "GatewayAPIMissing: spec.endpoint.gateway" in told(life, "Ready")

    gateway_api.apply_crds(kubectl)
    life.until(lambda: life.condition("RouteAccepted") == ("Unknown", "NotAnswered"), "a route without an answer")
    made = route(kubectl)
    assert made["metadata"]["name"] == "digits"
    assert made["spec"]["hostnames"] == [HOST]
    (parent,) = made["spec"]["parentRefs"]
    assert parent == {"group": "gateway.networking.k8s.io", "kind": "Gateway", **GATEWAY}
    rule, grpc = made["spec"]["rules"]
    assert (rule["backendRefs"][0]["name"], rule["backendRefs"][0]["port"]) == ("digits", 80)
    assert grpc["backendRefs"][0]["port"] == 9000
    ports = {port["port"]: port for port in kubectl.get("-n", TEAM, "service", "digits")["spec"]["ports"]}
    assert (ports[9000]["appProtocol"], ports[9000]["targetPort"]) == ("kubernetes.io/h2c", ports[80]["targetPort"])
    assert rule["timeouts"] == {"request": "40s"}
    owned = kubectl.get("-n", TEAM, HTTP_ROUTES, "digits", "--show-managed-fields")["metadata"]
    assert {entry["manager"]: entry["operation"] for entry in owned["managedFields"]} == {"sundog": "Apply"}
    assert [owner["name"] for owner in owned["ownerReferences"]] == ["digits"]

    message = "no listener of it takes routes of this namespace"
    gateway_api.answer(kubectl, TEAM, "digits", accepted=False, reason="NotAllowedByListeners", message=message)
    life.until(lambda: life.condition("RouteAccepted") == ("False", "NotAllowedByListeners"), "a refusal")
    words = f"Gateway infra/public, listener https: {message} ({gateway_api.CONTROLLER})"
    assert told(life, "RouteAccepted") == words
    life.until(lambda: words in told(life, "Ready"), "the refusal beside what serves")
    assert life.condition("Ready") == ("True", "Serving")
    gateway_api.answer(kubectl, TEAM, "digits", accepted=True, reason="Accepted")
    life.until(lambda: life.condition("RouteAccepted") == ("True", "Accepted"), "an acceptance")
    assert route(kubectl)["metadata"]["generation"] == made["metadata"]["generation"], "nothing was written since"

    bare = {key: value for key, value in GATEWAY.items() if key != "sectionName"}
    life.apply(1, **routed(requestTimeout="1m", gateway=bare))
    life.until(lambda: route(kubectl)["spec"]["rules"][0]["timeouts"] == {"request": "1m10s"}, "the new timeout")
    assert "sectionName" not in route(kubectl)["spec"]["parentRefs"][0]
    life.until(lambda: life.condition("RouteAccepted") == ("Unknown", "NotAnswered"), "an answer that is out of date")

    life.apply(1, **RECREATE)
    life.until(lambda: not route(kubectl), "no route")
    life.until(lambda: life.condition("RouteAccepted") == ("Absent", ""), "no word of a route")
    life.apply(1, **routed())
    life.until(lambda: bool(route(kubectl)), "a route again")
    gateway_api.remove_crds(kubectl)
    life.until(lambda: life.condition("RouteAccepted") == ("False", "GatewayAPIMissing"), "no Gateway API any more")
    assert life.condition("Ready") == ("True", "Serving")
    gateway_api.apply_crds(kubectl)
    life.until(lambda: bool(route(kubectl)), "a route, the Gateway API being back")
    gateway_api.answer(kubectl, TEAM, "digits", accepted=True, reason="Accepted")
    life.until(lambda: life.condition("RouteAccepted") == ("True", "Accepted"), "an acceptance, which a watch tells")
    kubectl("-n", TEAM, "delete", MDEP, "digits")
    life.until(lambda: not route(kubectl), "no route after its ModelDeployment")
