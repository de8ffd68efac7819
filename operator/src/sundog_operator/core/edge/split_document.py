"""The split document: what the operator wants of an edge, as JSON."""

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
from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray.clusters import ClusterView

DOCUMENT_VERSION = 1
MAX_OVERRIDE_NETWORKS: Final = 256
"""That overrides of one namespace may name: edges refuse a document with more."""
SLOW_THRESHOLD_FIELDS: Final = ("slowMicroseconds", "slowMicroseconds2", "slowMicroseconds3")
"""Above which answers count as each of `reported.SLOW`. An edge of before there were several knows the first alone."""
# What an edge counts with; no body is larger, and a document beyond it would be refused as a whole.
_MOST_BYTES = (1 << 63) - 1
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
    """A service of the split document; without a split it has no arms, and the edge answers 503.

    `host` is answered for beside the names that follow from the service's own in the cluster's `domain`. `limits` gives each revision's
    own `maxOngoingRequests`.
    """
    endpoint = spec.endpoint
    return {
        "name": name,
        "hosts": names.hosts(name, namespace, host, domain),
        "cluster": cluster,
        "unit": units.make_unit_fields(units.resolve_unit(spec.rollout.unit)),
        **make_split_fields(name, split, limits or {}),
        "requestTimeoutSeconds": endpoint.request_timeout.total_seconds(),
        "maxRequestBytes": min(parse_bytes(endpoint.max_request_bytes), _MOST_BYTES),
        "maxOngoingRequests": spec.runtime.max_ongoing_requests,
        **_admission(endpoint),
        **_choice(endpoint, split),
    }


def _admission(endpoint: Endpoint) -> Json:
    """Who is let in, and how many wait. What is not asked for is left out; Secrets are named and never quoted."""
    queue = {"maxRequests": endpoint.queue.max_requests, "timeoutSeconds": endpoint.queue.timeout.total_seconds()}
    auth = {"apiKeys": endpoint.auth.api_keys.secret_name, "jwt": _jwt(endpoint.auth.jwt)}
    limits = {"perClient": endpoint.rate_limit.per_client, "total": endpoint.rate_limit.total}
    asked = {
        "compression": "" if endpoint.compression == "none" else endpoint.compression,
        "cors": _cors(endpoint.cors) if endpoint.cors else {},
        "tls": endpoint.tls.secret_name,
        "auth": {name: value for name, value in auth.items() if value},
        "rateLimit": {name: _rate(text) for name, text in limits.items() if text},
    }
    return {"queue": queue, **{name: value for name, value in asked.items() if value}}


def _choice(endpoint: Endpoint, split: Split | None) -> Json:
    """What callers may choose, and whether clients are told what answered."""
    overrides = [
        {
            "header": each.header,
            "value": each.value,
            "arm": each.arm,
            "callers": {"keys": list(each.callers.api_keys), "networks": list(each.callers.networks)},
        }
        for each in endpoint.overrides
    ]
    return {**_leading_somewhere(overrides, split), **({} if endpoint.reveal else {"reveal": False})}


def _leading_somewhere(overrides: Iterable[Json], split: Split | None) -> Json:
    """Those overrides whose arm may be chosen now. An edge refuses a document in which one names an arm that is not there."""
    kept = [each for each in overrides if split is not None and each["arm"] in split.choosable]
    return {"overrides": kept} if kept else {}


def _cors(cors: Cors) -> Json:
    return {
        "allowedOrigins": list(cors.allowed_origins),
        "allowedHeaders": list(cors.allowed_headers),
        "exposedHeaders": list(cors.exposed_headers),
        "maxAgeSeconds": int(cors.max_age.total_seconds()),
        "allowCredentials": cors.allow_credentials,
    }


def _jwt(jwt: Jwt) -> Json:
    if not jwt.jwks_secret_name:
        return {}
    return {"jwks": jwt.jwks_secret_name, "issuer": jwt.issuer, "audience": jwt.audience}


def _rate(text: str) -> Json:
    requests, seconds = parse_rate(text)
    return {"requests": requests, "seconds": seconds}


def make_split_fields(name: str, split: Split | None, limits: Mapping[int, int]) -> Json:
    """The fields of a service that a split decides. An attempt keeps the unit it was frozen with."""
    frozen = {} if split is None or split.unit is None else {"unit": units.make_unit_fields(split.unit)}
    return {
        **frozen,
        "attempt": split.attempt if split else name,
        "salt": split.salt if split else name,
        "epoch": split.epoch if split else 0,
        "arms": [_arm(name, arm, limits) for arm in split.arms] if split else [],
        **({"shadow": _shadow(split.shadow)} if split is not None and split.shadow is not None else {}),
        **({"match": make_match(split)} if split is not None and split.headers else {}),
        **_feedback(split),
    }


def make_match(split: Split) -> Json:
    """The headers that send a request to the canary, as the document has them."""
    return {"arm": names.CANARY, "headers": {each.name: each.value for each in split.headers}}


def _shadow(shadow: PlanShadow) -> Json:
    comparator = _comparator(shadow)
    if shadow.parts is not None:
        comparator["parts"] = [_comparator(part) for part in shadow.parts]
    return {"arm": names.CANARY, "percent": shadow.percent, "comparator": comparator}


def _comparator(compared: PlanShadow | PlanComparedPart) -> Json:
    return {"kind": compared.by, "atol": compared.atol, "rtol": compared.rtol, "path": compared.path}


def _feedback(split: Split | None) -> Json:
    if split is None or split.feedback is None:
        return {}
    return {"feedback": {"metrics": list(split.feedback.metrics), "maxUnits": split.feedback.max_units}}


def update_service_entry(known: Json, cluster: str, name: str, split: Split | None, limits: Mapping[int, int]) -> Json:
    """An entry that stays as it was, but for its cluster and what a split decides."""
    kept = {field: value for field, value in known.items() if field not in ("feedback", "match", "overrides", "shadow")}
    chosen = _leading_somewhere(known.get("overrides", ()), split)
    return {**kept, "cluster": cluster, **make_split_fields(name, split, limits), **chosen}


def _arm(service: str, arm: SplitArm, limits: Mapping[int, int]) -> Json:
    made = {
        "name": arm.name,
        "application": names.application(service, arm.revision),
        "routePrefix": names.route_prefix(service, arm.revision),
        "revision": arm.revision,
        "weight": arm.weight,
        "ranges": [list(interval) for interval in arm.ranges],
    }
    placed = {"cluster": arm.cluster} if arm.cluster else {}
    limited = {"maxOngoingRequests": limits[arm.revision]} if arm.revision in limits else {}
    timed = dict(zip(SLOW_THRESHOLD_FIELDS, arm.slow_us, strict=False))
    return {**made, **placed, **limited, **timed}


def read_document(config_map: Mapping[str, Any] | None) -> Json | None:
    """The split document as it is stored; None where there is none or it cannot be read."""
    try:
        document = orjson.loads(((config_map or {}).get("data") or {}).get(names.SPLIT_KEY, ""))
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def find_service_entry(document: Mapping[str, Any] | None, name: str) -> Json | None:
    """A service's entry in a split document."""
    return next((service for service in (document or {}).get("services", ()) if service.get("name") == name), None)


def find_applications_with_traffic(
    document: Mapping[str, Any] | None, cluster: str, services: Collection[str]
) -> set[str]:
    """Applications that edges send traffic to, out of a cluster's services of these names."""
    return {
        arm["application"]
        for service in (document or {}).get("services", ())
        if service.get("name") in services
        for arm in service.get("arms", ())
        if (arm.get("weight") or arm["name"] in _chosen(service))
        and arm.get("cluster", service.get("cluster")) == cluster
    }


def _chosen(service: Mapping[str, Any]) -> frozenset[str]:
    """The arms that requests of a service get by what they have in them."""
    match = service.get("match")
    return frozenset(each["arm"] for each in (*service.get("overrides", ()), *([match] if match else ())))


def make_cluster_entries(views: Iterable[ClusterView], previous: Mapping[str, Any] | None) -> dict[str, Json]:
    """The clusters of the split document.

    One whose head cannot be found now stays where it was: traffic must be able to shift without Ray.
    """
    known = (previous or {}).get("clusters", {})
    entries = {view.name: _cluster(view) if view.host else known.get(view.name) for view in views}
    return {name: entry for name, entry in entries.items() if entry}


def _cluster(view: ClusterView) -> Json:
    return {"dashboard": view.dashboard, "fallback": view.fallback}


def make_document(
    namespace: str,
    services: Iterable[Json],
    clusters: Mapping[str, Json],
    previous: Mapping[str, Any] | None,
    domain: str = names.CLUSTER_DOMAIN,
) -> Json:
    """The split document of a namespace. Its generation rises by one where anything else differs from the previous document.

    A service whose cluster was never seen is left out: it has nothing to send requests to.
    """
    known = _without_rivals(namespace, [service for service in services if service["cluster"] in clusters], domain)
    known = _within_networks(known)
    body = {
        "version": DOCUMENT_VERSION,
        "namespace": namespace,
        "clusters": dict(clusters),
        "services": sorted(known, key=lambda service: str(service["name"])),
    }
    before = dict(previous or {})
    generation = int(before.pop("generation", 0))
    return {**body, "generation": generation if before == body else generation + 1}


def _without_rivals(namespace: str, services: Sequence[Json], domain: str) -> list[Json]:
    """Each host once: a service's own names are its own, any other goes to the first that has it."""
    owners = {
        host: service["name"] for service in services for host in names.hosts(service["name"], namespace, domain=domain)
    }
    kept = []
    for service in services:
        own = [host for host in service["hosts"] if owners.setdefault(host, service["name"]) == service["name"]]
        kept.append({**service, "hosts": own})
    return kept


def _within_networks(services: Iterable[Json]) -> list[Json]:
    """The services without overrides whose networks are too many for an edge; the first ones have theirs first."""
    seen: set[str] = set()
    kept = []
    for service in services:
        fitting = [each for each in service.get("overrides", ()) if _fits(seen, each["callers"].get("networks", ()))]
        rest = {field: value for field, value in service.items() if field != "overrides"}
        kept.append({**rest, "overrides": fitting} if fitting else rest)
    return kept


def _fits(seen: set[str], networks: Iterable[str]) -> bool:
    """Whether there is room for these as well; they are `seen` then."""
    wanted = seen.union(networks)
    if len(wanted) > MAX_OVERRIDE_NETWORKS:
        return False
    seen.update(wanted)
    return True


def find_services_with_dropped_overrides(wanted: Iterable[Json], document: Mapping[str, Any]) -> list[str]:
    """The services of which a document lacks overrides, for it would have too many networks."""
    return [
        str(service["name"])
        for service in wanted
        if service.get("overrides")
        and (made := find_service_entry(document, service["name"])) is not None
        and len(made.get("overrides", ())) < len(service["overrides"])
    ]
