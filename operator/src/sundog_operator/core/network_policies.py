"""Who may talk to the pods of a namespace with an edge: a policy for the edges, one for Ray, one for Ray's stores.

Only a network plugin that enforces them makes them true. Probes of kubelets pass whatever is written here.
"""

from collections.abc import Sequence
from typing import Any, Final

from sundog_operator.api.installation import NetworkPolicies
from sundog_operator.core import edge_objects, edge_pods, names

OPERATOR: Final = "sundog-operator"
DASHBOARD_PORT: Final = 8265
METRICS_PORT: Final = 8080
STORE_PORT: Final = 6379
SERVE_PORTS: Final = ((8000, 8000), (9000, 9000), (30000, 31000), (40000, 41000))
"""Serve's own proxy on the head, and the replicas' ports for HTTP and gRPC. None of them asks who is there."""

METADATA: Final = (("0.0.0.0/0", "169.254.169.254/32"), ("::/0", "fd00:ec2::254/128"))
"""All addresses but those that hand out a node's credentials."""

_OURS: Final = {names.LABEL_PART_OF: "sundog"}
_OF_RAY: Final = [{"key": "ray.io/cluster", "operator": "Exists"}]
_RAY_PODS: Final = {"matchLabels": _OURS, "matchExpressions": _OF_RAY}
"""Of our RayClusters; somebody else's in the same namespace are none of our business."""

_WORKERS: Final = {"matchLabels": {**_OURS, "ray.io/node-type": "worker"}, "matchExpressions": _OF_RAY}
_EDGES: Final = {"podSelector": {"matchLabels": edge_objects.SELECTOR}}

Json = dict[str, Any]


def make_policies(namespace: str, members: Sequence[Json], wanted: NetworkPolicies) -> list[Json]:
    """The policies of one namespace; owned as the edge is, and so gone with it."""
    operator = _pods_of(wanted.operator_namespace, OPERATOR)
    scrapers = [dict(peer) for peer in wanted.metrics_from]
    ray = {"podSelector": _RAY_PODS}
    edge = [
        {"ports": [_port(edge_pods.HTTP_PORT), _port(edge_pods.HTTPS_PORT)]},
        {"ports": [_port(edge_pods.AGENT_PORT)], "from": [operator, *scrapers]},
    ]
    workers = [
        {"from": [ray]},
        {"ports": [_port(DASHBOARD_PORT)], "from": [operator, _EDGES]},
        {"ports": [_port(*ports) for ports in SERVE_PORTS], "from": [_EDGES]},
        *([{"ports": [_port(METRICS_PORT)], "from": scrapers}] if scrapers else []),
    ]
    store = [{"ports": [_port(STORE_PORT)], "from": [ray]}]
    return [
        _policy(namespace, members, names.EDGE, {"matchLabels": edge_objects.SELECTOR}, ingress=edge),
        _policy(namespace, members, names.RAY, _RAY_PODS, ingress=workers),
        _policy(namespace, members, names.VALKEY, {"matchLabels": {names.LABEL_NAME: names.VALKEY}}, ingress=store),
        _policy(namespace, members, f"{names.RAY}-workers", _WORKERS, egress=_egress()),
    ]


def _egress() -> list[Json]:
    """Where models run, which are somebody's code. The head's autoscaler talks to the API server, whose address no policy can name."""
    blocks = [{"ipBlock": {"cidr": cidr, "except": [metadata]}} for cidr, metadata in METADATA]
    # Some plugins do not count pods among addresses.
    return [{"to": [*blocks, {"namespaceSelector": {}}]}]


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
    rules = {"ingress": ingress} if ingress is not None else {"egress": egress}
    kinds = ["Ingress"] if ingress is not None else ["Egress"]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {**edge_objects.metadata(namespace, members), "name": name},
        "spec": {"podSelector": selector, "policyTypes": kinds, **rules},
    }
