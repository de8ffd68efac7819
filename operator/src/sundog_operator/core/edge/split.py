"""What the edges of a namespace should do, and whether they do it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from sundog_operator.api import (
    Cors,
    Endpoint,
    Jwt,
    ModelDeploymentSpec,
    PlanComparedPart,
    PlanHeader,
    PlanShadow,
    PlanUnit,
    parse_bytes,
    parse_rate,
)
from sundog_operator.core.edge import units
from sundog_operator.core.edge.buckets import BUCKETS, Range
from sundog_operator.core.edge.reported_counts import ERRORS
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.ray.clusters import ClusterView

DOCUMENT_VERSION = 1
ORIGIN_ASSIGNED: Final = "assigned"
ORIGIN_OVERRIDE: Final = "override"
"""The origins of requests: by the weights, or by what the request itself has."""

MAX_OVERRIDE_NETWORKS: Final = 256
"""That overrides of one namespace may name: edges refuse a document with more."""

SLOW_THRESHOLD_FIELDS: Final = ("slowMicroseconds", "slowMicroseconds2", "slowMicroseconds3")
"""Above which answers count as each of `reported.SLOW`. An edge of before there were several knows the first alone."""

# What an edge counts with; no body is larger, and a document beyond it would be refused as a whole.
_MOST_BYTES = (1 << 63) - 1

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SplitArm:
    """One arm of a service: a revision and its share.

    `cluster` is empty where it is the service's. Answers that take longer than each of `slow_us`, in microseconds, are counted.
    `choosable`: an override may lead to it whatever its weight.
    """

    name: str
    revision: int
    weight: float
    ranges: tuple[Range, ...]
    cluster: str = ""
    slow_us: tuple[int, ...] = ()
    choosable: bool = False


@dataclass(frozen=True, slots=True)
class SplitFeedback:
    """The names of outcomes, and of how many units that come again the first exposure is kept."""

    metrics: tuple[str, ...]
    max_units: int


@dataclass(frozen=True, slots=True)
class Split:
    """The traffic of one service: who gets what, and the key under which it is counted.

    `unit` is what an attempt froze as its unit; None leaves it to the spec. `shadow` says which requests the candidate gets copies of; None
    is none. `headers` are those with which a request goes to the candidate, whatever its weight. `feedback` names the outcomes that are
    taken; None for none.
    """

    attempt: str
    salt: str
    epoch: int
    arms: tuple[SplitArm, ...]
    unit: PlanUnit | None = None
    shadow: PlanShadow | None = None
    headers: tuple[PlanHeader, ...] = ()
    feedback: SplitFeedback | None = None

    @property
    def choosable(self) -> frozenset[str]:
        """The arms that overrides may lead to. One that gets no traffic may not be ready yet, or be about to go."""
        return frozenset(arm.name for arm in self.arms if arm.weight or arm.choosable)


def make_stable_split(service: str, uid: str, stable: int, followed: int | None = None) -> Split:
    """All traffic on stable. A followed revision gets none; its replicas are health-checked ahead of the switch.

    `uid` is the ModelDeployment's.
    """
    attempt = names.stable_attempt(service, stable, uid)
    arms = [SplitArm(names.STABLE, stable, 100, ((0, BUCKETS),))]
    if followed is not None:
        arms.append(SplitArm(names.CANARY, followed, 0, ()))
    return Split(attempt, attempt, 0, tuple(arms))


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
        **({"match": _match(split)} if split is not None and split.headers else {}),
        **_feedback(split),
    }


def _match(split: Split) -> Json:
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


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Whether every ready or terminating edge has a split in force.

    Attributes:
        waiting: (pod, why) of each edge that has not confirmed.
    """

    confirmed: bool
    waiting: tuple[tuple[str, str], ...]


def confirm(service: str, split: Split, reports: Sequence[EdgeReport]) -> Confirmation:
    """Read back a split from the edges. No edge at all confirms nothing."""
    asked = [report for report in reports if report.ready or report.terminating]
    if not asked:
        waiting = tuple((report.pod, _not_ready(report)) for report in reports)
        return Confirmation(False, waiting or (("no edge", "not ready"),))
    waiting = tuple(
        (report.pod, why + _problem(report)) for report in asked if (why := _not_in_force(service, split, report))
    )
    return Confirmation(not waiting, waiting)


def _not_ready(report: EdgeReport) -> str:
    return f"not ready: {report.unready}" if report.unready else "not ready"


def _problem(report: EdgeReport) -> str:
    """Why an edge that answers does not have the newest document in force, as it says itself."""
    error = ((report.evidence or {}).get("document") or {}).get("error")
    return f" ({error})" if error else ""


def _not_in_force(service: str, split: Split, report: EdgeReport) -> str:
    found = _service(service, report)
    if found is None:
        return report.error or f"does not know service {service}"
    if (found.get("attempt"), found.get("epoch")) != (split.attempt, split.epoch):
        return f"has attempt {found.get('attempt')} epoch {found.get('epoch')}, expected {split.attempt} epoch {split.epoch}"
    arms = {
        name: (arm.get("application"), arm.get("weight"), tuple(arm.get(each) for each in SLOW_THRESHOLD_FIELDS))
        for name, arm in found.get("arms", {}).items()
    }
    none = (None,) * len(SLOW_THRESHOLD_FIELDS)
    wanted = {
        arm.name: (
            names.application(service, arm.revision),
            arm.weight,
            (*arm.slow_us, *none)[: len(SLOW_THRESHOLD_FIELDS)],
        )
        for arm in split.arms
    }
    if arms != wanted:
        return f"has arms {arms}, expected {wanted}"
    # An edge of before there were headers tells of none, and sends nothing by them.
    if found.get("match") == (_match(split) if split.headers else None):
        return ""
    asked = " and ".join(each.name for each in split.headers)
    return f"does not send requests by {asked} to {names.CANARY}" if asked else "still sends requests by header"


def find_edge_problems(service: str, reports: Iterable[EdgeReport]) -> list[tuple[str, str]]:
    """(pod, what it lacks) for each thing that an edge cannot do for a service, as with a certificate that cannot be read."""
    return [
        (report.pod, str(problem))
        for report in reports
        for problem in (_service(service, report) or {}).get("problems") or ()
    ]


def healthy_replicas(service: str, revision: int, reports: Iterable[EdgeReport]) -> int:
    """The smallest number of healthy replicas of a revision that all ready edges are sure of: nothing from one that tells nothing.

    For what more traffic may follow from. 0 without a ready edge.
    """
    application = names.application(service, revision)
    counts = [_up(service, application, report) or 0 for report in reports if report.ready and not report.terminating]
    return min(counts, default=0)


def reported_replicas(service: str, revision: int, reports: Sequence[EdgeReport]) -> int | None:
    """The smallest number of healthy replicas of a revision that any ready edge tells; None where there are edges and none tells.

    For what may be taken away because of it: an edge that does not answer, or has just started, knows neither of health nor of death.
    """
    application = names.application(service, revision)
    told = [_up(service, application, report) for report in reports if report.ready and not report.terminating]
    return min((count for count in told if count is not None), default=None if reports else 0)


def _up(service: str, application: str, report: EdgeReport) -> int | None:
    """None of an edge that tells nothing of the application's replicas."""
    arms = (_service(service, report) or {}).get("arms", {}).values()
    # Two arms may have one application, and each tells of all its replicas.
    counts = [
        int(arm["servers"].get("up", 0)) for arm in arms if arm.get("application") == application and "servers" in arm
    ]
    return max(counts, default=None)


def count_in_flight(service: str, revision: int, reports: Iterable[EdgeReport]) -> int:
    """Requests in flight to a revision over all edges that answer, ready or not."""
    application = names.application(service, revision)
    return sum(int((_service(service, report) or {}).get("inFlight", {}).get(application, 0)) for report in reports)


def _service(service: str, report: EdgeReport) -> Mapping[str, Any] | None:
    found = (report.evidence or {}).get("services", {}).get(service)
    return found if isinstance(found, Mapping) else None


def count_requests_and_errors(
    attempt: str, arm: str, reports: Iterable[EdgeReport], *, forced: bool = False
) -> tuple[int, int]:
    """(requests, errors) of an arm over all epochs and boots of the edges that answer.

    Those that were assigned to it, or, with `forced`, those that its headers sent there. Errors are the ends of `ERRORS`.
    """
    origin = ORIGIN_OVERRIDE if forced else ORIGIN_ASSIGNED
    requests = errors = 0
    for row in (row for report in reports for row in (report.evidence or {}).get("counters", ())):
        if (row.get("attempt"), row.get("arm"), row.get("origin")) == (attempt, arm, origin):
            ends = row.get("ends", {})
            requests += int(row.get("assigned", 0))
            errors += sum(int(ends.get(end, 0)) for end in ERRORS)
    return requests, errors


def count_poison_requests(attempt: str, arm: str, reports: Iterable[EdgeReport]) -> int:
    """Requests of an arm, whatever led them there, that were retried and then got no answer of that replica either."""
    return sum(
        int((row.get("retries") or {}).get("poison", 0))
        for report in reports
        for row in (report.evidence or {}).get("counters", ())
        if (row.get("attempt"), row.get("arm")) == (attempt, arm)
    )
