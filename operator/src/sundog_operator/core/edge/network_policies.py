"""NetworkPolicies of a namespace with an edge.

There is one for the edges, one for all Ray pods, one for Ray heads, one for Ray workers, and one for Ray's stores. While the edges have a
store, there is one for it too. The policies need a network plugin that enforces them. Kubelet probes always pass.

They have no owners: the garbage collector would delete them with the last ModelDeployment, while pods still end their requests. The
operator deletes them after the last pod.
"""

from typing import Any, Final

from sundog_operator.api.installation import NetworkPolicySettings
from sundog_operator.core.edge import feedback_store, objects
from sundog_operator.core.kubernetes import metadata_services, names
from sundog_operator.core.ray import valkey

OPERATOR_NAME: Final = "sundog-operator"
DASHBOARD_PORT: Final = 8265
METRICS_PORT: Final = 8080
SERVE_PORTS: Final = ((8000, 8000), (9000, 9000), (30000, 31000), (40000, 41000))
"""Serve's own proxy on the head, and the replicas' ports for HTTP and gRPC. None of them authenticates callers."""

_ALL_ADDRESSES: Final = {4: "0.0.0.0/0", 6: "::/0"}
DNS_PORT: Final = 53

_IN_RAY_CLUSTER: Final = [{"key": "ray.io/cluster", "operator": "Exists"}]
_RAY_PODS: Final = {"matchLabels": names.PART_OF_SUNDOG, "matchExpressions": _IN_RAY_CLUSTER}
"""Pods of Sundog's RayClusters. The policies ignore other RayClusters of the namespace."""

_HEADS: Final = {
    "matchLabels": {**names.PART_OF_SUNDOG, "ray.io/node-type": "head"},
    "matchExpressions": _IN_RAY_CLUSTER,
}
_WORKERS: Final = {
    "matchLabels": {**names.PART_OF_SUNDOG, "ray.io/node-type": "worker"},
    "matchExpressions": _IN_RAY_CLUSTER,
}
_STORES: Final = {"matchLabels": {names.LABEL_NAME: names.VALKEY}}
_EDGES: Final = {"podSelector": {"matchLabels": objects.EDGE_SELECTOR}}

Json = dict[str, Any]


def make_policies(namespace: str, settings: NetworkPolicySettings) -> list[Json]:
    """Return the policies of a namespace with an edge."""
    operator = _make_peer(settings.operator_namespace, OPERATOR_NAME)
    scrapers = [dict(peer) for peer in settings.metrics_from]
    ray = {"podSelector": _RAY_PODS}
    edge = [
        {"ports": [_make_port(objects.HTTP_PORT), _make_port(objects.HTTPS_PORT)]},
        {"ports": [_make_port(objects.AGENT_PORT)], "from": [operator, *scrapers]},
    ]
    egress = [*_make_egress(), _make_api_server_rule(settings)]
    ray_ingress = [
        {"from": [ray]},
        {"ports": [_make_port(DASHBOARD_PORT)], "from": [operator, _EDGES]},
        {"ports": [_make_port(*ports) for ports in SERVE_PORTS], "from": [_EDGES]},
        *([{"ports": [_make_port(METRICS_PORT)], "from": scrapers}] if scrapers else []),
    ]
    store = [{"ports": [_make_port(valkey.PORT)], "from": [ray]}]
    return [
        _make_policy(namespace, names.EDGE, _EDGES["podSelector"], ingress=edge, egress=egress),
        _make_policy(namespace, names.RAY, _RAY_PODS, ingress=ray_ingress),
        # A model holds Ray's token and so can run a task in the head. Heads therefore have the same egress limits as workers.
        _make_policy(namespace, names.RAY_HEADS, _HEADS, egress=egress),
        _make_policy(namespace, names.RAY_WORKERS, _WORKERS, egress=_make_egress()),
        _make_policy(namespace, names.VALKEY, _STORES, ingress=store, egress=[_make_dns_rule()]),
    ]


def make_store_policy(namespace: str) -> Json:
    """Return the policy of the edges' store. The store answers only the edges of its namespace."""
    ingress = [{"ports": [_make_port(valkey.PORT)], "from": [_EDGES]}]
    made = _make_policy(
        namespace,
        names.EDGE_STORE,
        {"matchLabels": feedback_store.STORE_SELECTOR},
        ingress=ingress,
        egress=[_make_dns_rule()],
    )
    made["metadata"]["labels"] = names.labels(names.EDGE_STORE)
    return made


def _make_egress() -> list[Json]:
    """Return the egress of edges, heads and workers: DNS, and every address except those of metadata services."""
    blocks = [
        {"ipBlock": {"cidr": cidr, "except": metadata_services.list_exceptions(version)}}
        for version, cidr in _ALL_ADDRESSES.items()
    ]
    # Some plugins do not match pods by their addresses. A node's DNS cache often has a link-local one.
    return [{"to": [*blocks, {"namespaceSelector": {}}]}, _make_dns_rule()]


def _make_api_server_rule(settings: NetworkPolicySettings) -> Json:
    """Return the egress of agents and autoscalers to the API server, by its ports.

    Some plugins do not match nodes by their addresses, so the rule has ports only. Metadata services listen at port 80, so it does not open
    them.
    """
    return {"ports": [_make_port(port) for port in settings.api_server_ports]}


def _make_dns_rule() -> Json:
    """Return the rule for DNS at any address.

    It is the egress of the stores, which open no connections: an empty list would not remove the rule of an older release, because the API
    server does not store empty lists.
    """
    return {"ports": [{"protocol": protocol, "port": DNS_PORT} for protocol in ("UDP", "TCP")]}


def _make_peer(namespace: str, name: str) -> Json:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {names.LABEL_NAME: name}},
    }


def _make_port(first: int, last: int = 0) -> Json:
    return {"protocol": "TCP", "port": first, **({"endPort": last} if last > first else {})}


def _make_policy(
    namespace: str,
    name: str,
    selector: Json,
    *,
    ingress: list[Json] | None = None,
    egress: list[Json] | None = None,
) -> Json:
    both = {"ingress": ingress, "egress": egress}
    rules = {direction: given for direction, given in both.items() if given is not None}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace, "labels": names.labels(names.EDGE)},
        "spec": {"podSelector": selector, "policyTypes": [direction.capitalize() for direction in rules], **rules},
    }
