"""The split document: the JSON by which the operator configures the edges of a namespace."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from sundog_operator.api import (
    Cors,
    Endpoint,
    Jwt,
    ModelDeploymentSpec,
    PlanComparedPart,
    PlanShadow,
    parse_bytes,
    parse_rate,
)
from sundog_operator.core.edge import units
from sundog_operator.core.edge.split import Split, SplitArm
from sundog_operator.core.kubernetes import names, pods
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.ray.scaling import find_scaling

DOCUMENT_VERSION = 1
MAX_OVERRIDE_NETWORKS: Final = 256
"""Networks in all overrides of a namespace. Edges reject a document with more."""
SLOW_THRESHOLD_FIELDS: Final = ("slowMicroseconds", "slowMicroseconds2", "slowMicroseconds3")
"""The fields with the thresholds of `reported_counts.SLOW`, in that order. Older edges know only the first."""
_OPTIONAL_SPLIT_FIELDS: Final = ("experiment", "feedback", "match", "overrides", "shadow")
# Edges use signed 64-bit integers and would reject the whole document for a larger number. No body is larger.
_MAX_BYTES = (1 << 63) - 1
Json = dict[str, Any]


def make_service_entry(
    namespace: str,
    name: str,
    spec: ModelDeploymentSpec,
    cluster: str,
    split: Split | None,
    *,
    host: str = "",
    limits: Mapping[int, int] | None = None,
    domain: str = names.CLUSTER_DOMAIN,
) -> Json:
    """Return a service's entry in the split document. Without a split it has no arms, and edges answer 503.

    Args:
        namespace: the ModelDeployment's namespace.
        name: the ModelDeployment's name.
        spec: its accepted spec.
        cluster: its RayCluster.
        split: its traffic split.
        host: a host of the service beside the names that follow from its own name.
        limits: `maxOngoingRequests` by revision.
        domain: the cluster's DNS domain.
    """
    endpoint = spec.endpoint
    entry = {
        "name": name,
        "hosts": names.hosts(name, namespace, host, domain),
        "cluster": cluster,
        "unit": units.make_unit_fields(units.resolve_unit(spec.rollout.unit)),
        **make_split_fields(name, split, limits or {}),
        "requestTimeoutSeconds": endpoint.request_timeout.total_seconds(),
        "maxRequestBytes": min(parse_bytes(endpoint.max_request_bytes), _MAX_BYTES),
        "maxOngoingRequests": spec.runtime.max_ongoing_requests,
        **_make_cold_start_fields(spec),
        **_make_admission_fields(endpoint),
        **_make_override_fields(endpoint, split),
    }
    return _with_hash(entry)


def _with_hash(entry: Json) -> Json:
    """Return an entry with the hash of all its other fields. Edges report it, so the operator knows which entry they have in force."""
    return {**entry, "hash": pods.fingerprint({**entry, "hash": ""})}


def _make_cold_start_fields(spec: ModelDeploymentSpec) -> Json:
    """Return how long a request may wait for the first replica of a service that may scale to zero."""
    scaling = find_scaling(spec)
    if scaling is None or scaling.min_replicas:
        return {}
    return {"coldStartSeconds": scaling.cold_start_timeout.total_seconds()}


def _make_admission_fields(endpoint: Endpoint) -> Json:
    """Return the queue, and the access rules that the endpoint sets. Secrets appear by name only."""
    queue = {"maxRequests": endpoint.queue.max_requests, "timeoutSeconds": endpoint.queue.timeout.total_seconds()}
    auth = {"apiKeys": endpoint.auth.api_keys.secret_name, "jwt": _make_jwt_fields(endpoint.auth.jwt)}
    limits = {"perClient": endpoint.rate_limit.per_client, "total": endpoint.rate_limit.total}
    optional = {
        "compression": "" if endpoint.compression == "none" else endpoint.compression,
        "cors": _make_cors_fields(endpoint.cors) if endpoint.cors else {},
        "tls": endpoint.tls.secret_name,
        "auth": {name: value for name, value in auth.items() if value},
        "rateLimit": {name: _make_rate_fields(text) for name, text in limits.items() if text},
    }
    return {"queue": queue, **{name: value for name, value in optional.items() if value}}


def _make_override_fields(endpoint: Endpoint, split: Split | None) -> Json:
    """Return the overrides that callers may use, and `reveal` where responses must not name the arm."""
    overrides = [
        {
            "header": each.header,
            "value": each.value,
            "arm": each.arm,
            "callers": {"keys": list(each.callers.api_keys), "networks": list(each.callers.networks)},
        }
        for each in endpoint.overrides
    ]
    return {**_keep_choosable_overrides(overrides, split), **({} if endpoint.reveal else {"reveal": False})}


def _keep_choosable_overrides(overrides: Iterable[Json], split: Split | None) -> Json:
    """Return the overrides whose arm may be chosen now. Edges reject a document with an override for an unknown arm."""
    kept = [each for each in overrides if split is not None and each["arm"] in split.choosable]
    return {"overrides": kept} if kept else {}


def _make_cors_fields(cors: Cors) -> Json:
    return {
        "allowedOrigins": list(cors.allowed_origins),
        "allowedHeaders": list(cors.allowed_headers),
        "exposedHeaders": list(cors.exposed_headers),
        "maxAgeSeconds": int(cors.max_age.total_seconds()),
        "allowCredentials": cors.allow_credentials,
    }


def _make_jwt_fields(jwt: Jwt) -> Json:
    if not jwt.jwks_secret_name:
        return {}
    return {"jwks": jwt.jwks_secret_name, "issuer": jwt.issuer, "audience": jwt.audience}


def _make_rate_fields(text: str) -> Json:
    requests, seconds = parse_rate(text)
    return {"requests": requests, "seconds": seconds}


def make_split_fields(name: str, split: Split | None, limits: Mapping[int, int]) -> Json:
    """Return the fields of a service that the split decides. An attempt keeps the unit of its frozen plan."""
    frozen = {} if split is None or split.unit is None else {"unit": units.make_unit_fields(split.unit)}
    return {
        **frozen,
        "attempt": split.attempt if split else name,
        "salt": split.salt if split else name,
        "epoch": split.epoch if split else 0,
        **({"experiment": split.experiment} if split is not None and split.experiment else {}),
        "arms": [_make_arm(name, arm, limits) for arm in split.arms] if split else [],
        **({"shadow": _make_shadow(split.shadow)} if split is not None and split.shadow is not None else {}),
        **({"match": make_match(split)} if split is not None and split.headers else {}),
        **_make_feedback_fields(split),
    }


def make_match(split: Split) -> Json:
    """Return the document's `match`: the headers that send a request to the canary."""
    return {"arm": names.CANARY, "headers": {each.name: each.value for each in split.headers}}


def _make_shadow(shadow: PlanShadow) -> Json:
    comparator = _make_comparator(shadow)
    if shadow.parts is not None:
        comparator["parts"] = [_make_comparator(part) for part in shadow.parts]
    return {"arm": names.CANARY, "percent": shadow.percent, "comparator": comparator}


def _make_comparator(compared: PlanShadow | PlanComparedPart) -> Json:
    return {"kind": compared.by, "atol": compared.atol, "rtol": compared.rtol, "path": compared.path}


def _make_feedback_fields(split: Split | None) -> Json:
    if split is None or split.feedback is None:
        return {}
    fields: Json = {"metrics": list(split.feedback.metrics), "maxUnits": split.feedback.max_units}
    delayed = [(name, list(window)) for name, window in split.feedback.delayed_windows]
    numbers_of: dict[str, Iterable[tuple[str, int | list[int]]]] = {
        "caps": split.feedback.caps,
        "windows": split.feedback.windows,
        "delayedWindows": delayed,
    }
    for field, numbers in numbers_of.items():
        by_name: dict[str, list[int | list[int]]] = {}
        for name, number in numbers:
            by_name.setdefault(name, []).append(number)
        if by_name:
            fields[field] = by_name
    for field, pairs in (("products", split.feedback.products), ("covariates", split.feedback.covariates)):
        if pairs:
            fields[field] = [list(pair) for pair in pairs]
    return {"feedback": fields}


def update_service_entry(known: Json, cluster: str, name: str, split: Split | None, limits: Mapping[int, int]) -> Json:
    """Return a known entry with another cluster and the fields that the split decides. All other fields stay."""
    kept = {field: value for field, value in known.items() if field not in _OPTIONAL_SPLIT_FIELDS}
    overrides = _keep_choosable_overrides(known.get("overrides", ()), split)
    return _with_hash({**kept, "cluster": cluster, **make_split_fields(name, split, limits), **overrides})


def _make_arm(service: str, arm: SplitArm, limits: Mapping[int, int]) -> Json:
    fields = {
        "name": arm.name,
        "application": names.application(service, arm.revision),
        "routePrefix": names.route_prefix(service, arm.revision),
        "revision": arm.revision,
        "weight": arm.weight,
        "ranges": [list(interval) for interval in arm.ranges],
    }
    cluster = {"cluster": arm.cluster} if arm.cluster else {}
    limit = {"maxOngoingRequests": limits[arm.revision]} if arm.revision in limits else {}
    thresholds = dict(zip(SLOW_THRESHOLD_FIELDS, arm.slow_us, strict=False))
    return {**fields, **cluster, **limit, **thresholds}


def read_document(config_map: Mapping[str, Any] | None) -> Json | None:
    """Return the stored split document; None where there is none or it cannot be parsed."""
    try:
        document = orjson.loads(((config_map or {}).get("data") or {}).get(names.SPLIT_KEY, ""))
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def find_service_entry(document: Mapping[str, Any] | None, name: str) -> Json | None:
    """Return a service's entry in a split document; None where it has none."""
    return next((service for service in (document or {}).get("services", ()) if service.get("name") == name), None)


def find_clusters(entry: Mapping[str, Any] | None) -> set[str]:
    """Return the RayClusters that a service's entry sends requests to; none without an entry."""
    arms = (entry or {}).get("arms", ())
    return {str(each["cluster"]) for each in (entry or {}, *arms) if each.get("cluster")}


def find_weights(entry: Mapping[str, Any] | None) -> dict[int, float]:
    """Return the percent of the traffic of each revision in a service's entry, also of those without traffic."""
    return {int(arm["revision"]): float(arm["weight"]) for arm in (entry or {}).get("arms", ())}


def find_applications_with_traffic(
    document: Mapping[str, Any] | None, cluster: str, services: Collection[str]
) -> set[str]:
    """Return the applications on a RayCluster that edges send traffic to, of the services with these names."""
    return {
        arm["application"]
        for service in (document or {}).get("services", ())
        if service.get("name") in services
        for arm in service.get("arms", ())
        if (arm.get("weight") or arm["name"] in _find_arms_of_rules(service))
        and arm.get("cluster", service.get("cluster")) == cluster
    }


def _find_arms_of_rules(service: Mapping[str, Any]) -> frozenset[str]:
    """Return the arms that an override or `match` of a service sends requests to."""
    match = service.get("match")
    return frozenset(each["arm"] for each in (*service.get("overrides", ()), *([match] if match else ())))


def make_cluster_entries(views: Iterable[ClusterView], previous: Mapping[str, Any] | None) -> dict[str, Json]:
    """Return the clusters of the split document.

    A cluster whose head has no address now keeps its previous entry, because traffic must be able to shift without Ray.
    """
    known = (previous or {}).get("clusters", {})
    entries = {view.name: _make_cluster(view) if view.host else known.get(view.name) for view in views}
    return {name: entry for name, entry in entries.items() if entry}


def _make_cluster(view: ClusterView) -> Json:
    return {"dashboard": view.dashboard, "fallback": view.fallback}


def make_document(
    namespace: str,
    services: Iterable[Json],
    clusters: Mapping[str, Json],
    previous: Mapping[str, Any] | None,
    domain: str = names.CLUSTER_DOMAIN,
) -> Json:
    """Return the split document of a namespace. Its generation rises by one when any other field differs from `previous`.

    The document omits services whose cluster is not in `clusters`: edges cannot send their requests anywhere.
    """
    known = _remove_duplicate_hosts(
        namespace, [service for service in services if service["cluster"] in clusters], domain
    )
    known = _drop_overrides_over_limit(known)
    body = {
        "version": DOCUMENT_VERSION,
        "namespace": namespace,
        "clusters": dict(clusters),
        "services": sorted(known, key=lambda service: str(service["name"])),
    }
    before = dict(previous or {})
    generation = int(before.pop("generation", 0))
    return {**body, "generation": generation if before == body else generation + 1}


def _remove_duplicate_hosts(namespace: str, services: Sequence[Json], domain: str) -> list[Json]:
    """Return the services with each host once. A service always keeps its own names; the first service with any other host keeps it."""
    owners = {
        host: service["name"] for service in services for host in names.hosts(service["name"], namespace, domain=domain)
    }
    kept = []
    for service in services:
        own = [host for host in service["hosts"] if owners.setdefault(host, service["name"]) == service["name"]]
        kept.append({**service, "hosts": own})
    return kept


def _drop_overrides_over_limit(services: Iterable[Json]) -> list[Json]:
    """Return the services without the overrides that exceed `MAX_OVERRIDE_NETWORKS`, in the order of the services."""
    networks: set[str] = set()
    kept = []
    for service in services:
        fitting = []
        for override in service.get("overrides", ()):
            wanted = networks.union(override["callers"].get("networks", ()))
            if len(wanted) <= MAX_OVERRIDE_NETWORKS:
                networks = wanted
                fitting.append(override)
        rest = {field: value for field, value in service.items() if field != "overrides"}
        kept.append({**rest, "overrides": fitting} if fitting else rest)
    return kept


def find_services_with_dropped_overrides(services: Iterable[Json], document: Mapping[str, Any]) -> list[str]:
    """Return the services that lost overrides in a document because of `MAX_OVERRIDE_NETWORKS`."""
    return [
        str(service["name"])
        for service in services
        if service.get("overrides")
        and (made := find_service_entry(document, service["name"])) is not None
        and len(made.get("overrides", ())) < len(service["overrides"])
    ]
