"""Whom the pods of a namespace with an edge answer and ask: a policy for the edges, one for Ray, one each for heads and workers, one for
Ray's stores, and one for the store of the edges while there is one.

Only a network plugin that enforces them makes them true. Probes of kubelets pass whatever is written here.
"""

from collections.abc import Sequence
from typing import Any, Final

from sundog_operator.api.installation import NetworkPolicySettings
from sundog_operator.core.edge import deployment, objects
from sundog_operator.core.edge import feedback_store as edge_store
from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray import valkey

OPERATOR_NAME: Final = "sundog-operator"
DASHBOARD_PORT: Final = 8265
METRICS_PORT: Final = 8080
SERVE_PORTS: Final = ((8000, 8000), (9000, 9000), (30000, 31000), (40000, 41000))
"""Serve's own proxy on the head, and the replicas' ports for HTTP and gRPC. None of them asks who is there."""

METADATA_ADDRESSES: Final = (("0.0.0.0/0", "169.254.169.254/32"), ("::/0", "fd00:ec2::254/128"))
"""All addresses but those that hand out a node's credentials."""

DNS_PORT: Final = 53

_OF_RAY: Final = [{"key": "ray.io/cluster", "operator": "Exists"}]
_RAY_PODS: Final = {"matchLabels": names.PART_OF_SUNDOG, "matchExpressions": _OF_RAY}
"""Of our RayClusters; somebody else's in the same namespace are none of our business."""

_HEADS: Final = {"matchLabels": {**names.PART_OF_SUNDOG, "ray.io/node-type": "head"}, "matchExpressions": _OF_RAY}
_WORKERS: Final = {"matchLabels": {**names.PART_OF_SUNDOG, "ray.io/node-type": "worker"}, "matchExpressions": _OF_RAY}
_STORES: Final = {"matchLabels": {names.LABEL_NAME: names.VALKEY}}
_EDGES: Final = {"podSelector": {"matchLabels": objects.EDGE_SELECTOR}}

Json = dict[str, Any]


def make_policies(namespace: str, members: Sequence[Json], wanted: NetworkPolicySettings) -> list[Json]:
    """The policies of one namespace; owned as the edge is, and so gone with it."""
    operator = _pods_of(wanted.operator_namespace, OPERATOR_NAME)
    scrapers = [dict(peer) for peer in wanted.metrics_from]
    ray = {"podSelector": _RAY_PODS}
    edge = [
        {"ports": [_port(deployment.HTTP_PORT), _port(deployment.HTTPS_PORT)]},
        {"ports": [_port(deployment.AGENT_PORT)], "from": [operator, *scrapers]},
    ]
    asked = [*_egress(), _api_server(wanted)]
    of_ray = [
        {"from": [ray]},
        {"ports": [_port(DASHBOARD_PORT)], "from": [operator, _EDGES]},
        {"ports": [_port(*ports) for ports in SERVE_PORTS], "from": [_EDGES]},
        *([{"ports": [_port(METRICS_PORT)], "from": scrapers}] if scrapers else []),
    ]
    store = [{"ports": [_port(valkey.PORT)], "from": [ray]}]
    return [
        _policy(namespace, members, names.EDGE, _EDGES["podSelector"], ingress=edge, egress=asked),
        _policy(namespace, members, names.RAY, _RAY_PODS, ingress=of_ray),
        # A model holds Ray's token, and so can run a task in the head: what is kept from workers is kept from heads.
        _policy(namespace, members, names.RAY_HEADS, _HEADS, egress=asked),
        _policy(namespace, members, names.RAY_WORKERS, _WORKERS, egress=_egress()),
        _policy(namespace, members, names.VALKEY, _STORES, ingress=store, egress=[_names()]),
    ]


def make_store_policy(namespace: str, members: Sequence[Json]) -> Json:
    """The policy of the edges' own store, which answers the edges of its namespace and nobody else."""
    ingress = [{"ports": [_port(valkey.PORT)], "from": [_EDGES]}]
    made = _policy(
        namespace,
        members,
        names.EDGE_STORE,
        {"matchLabels": edge_store.STORE_SELECTOR},
        ingress=ingress,
        egress=[_names()],
    )
    made["metadata"]["labels"] = names.labels(names.EDGE_STORE)
    return made


def _egress() -> list[Json]:
    """Of all but the stores: everything but the credentials of the node."""
    blocks = [{"ipBlock": {"cidr": cidr, "except": [metadata]}} for cidr, metadata in METADATA_ADDRESSES]
    # Some plugins do not count pods among addresses.
    return [{"to": [*blocks, {"namespaceSelector": {}}]}]


def _api_server(wanted: NetworkPolicySettings) -> Json:
    """For agents and autoscalers. Those plugins do not count nodes among addresses either, so that only its ports can be named.

    Nothing hands out credentials there: metadata services are asked at port 80.
    """
    return {"ports": [_port(port) for port in wanted.api_server_ports]}


def _names() -> Json:
    """Of the stores, which answer and ask nobody. Not an empty list: the API server stores none, and an earlier one would stay."""
    return {"ports": [{"protocol": protocol, "port": DNS_PORT} for protocol in ("UDP", "TCP")]}


def _pods_of(namespace: str, name: str) -> Json:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {names.LABEL_NAME: name}},
    }


def _port(first: int, last: int = 0) -> Json:
    return {"protocol": "TCP", "port": first, **({"endPort": last} if last > first else {})}


def _policy(
    namespace: str,
    members: Sequence[Json],
    name: str,
    selector: Json,
    *,
    ingress: list[Json] | None = None,
    egress: list[Json] | None = None,
) -> Json:
    both = {"ingress": ingress, "egress": egress}
    rules = {way: given for way, given in both.items() if given is not None}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {**objects.make_shared_metadata(namespace, members), "name": name},
        "spec": {"podSelector": selector, "policyTypes": [way.capitalize() for way in rules], **rules},
    }
