"""The maps: the parts of a document that change without a reload. Pure: document and layout in, text out.

- `hosts`: host → service.
- `splits`: service → `salt|unit source|timeout ms|timeout s|max bytes|table|flags`. A mirrored service also has `|share|arm`: copies per
  10 000 requests, and the arm that gets them. It is one value, so one look-up decides which table assigns a request.
  Flags: `r` reveals the arm to clients, `o` has overrides, `h` matches headers, `f` takes feedback, `z` compresses answers,
  `-` none of these.
- `ranges`: `table/prefix` → arm, with the prefixes of `assignment.bucket_prefixes`. An arm is
  `slot!row!route prefix!revision!name!slow us`; its row is `service/attempt/epoch/arm/origin`; commas separate several slow thresholds.
  If answers carry their exposure, `!attempt~epoch~arm` follows, without the arm if clients must not know it.
- `overrides`: `table|header|value|caller` → arm. A caller is `n<network>` or `k<API key>`.
- `matches`: `table|header|SHA-256 of its value` → `+`, and `table|number of such headers` → the arm of requests that have all of them.
- `networks`: network → itself, to find the narrowest network of a client that any override allows.
- `prefixes`: slot → route prefix, for health checks; `applications`: gRPC slot → application.
- `cold`: slot → milliseconds in which a request must be answered while the slot's application is scaled to zero: the wait for a
  replica, and the request's own timeout. `service:name` → 1 while any arm of the service is.
- `queues`, `keys`, `tokens`, `policies`: see `haproxy.policies`; `cors`, `origins`: see `haproxy.rules.cors`.
- `signing`: `newest` → the key that signs exposures, as base64.

A table is named by a hash of its content and never changes. The agent writes a new table before `splits` refers to it, and removes an old
one some seconds later. So each request sees one whole table.
"""

import base64
import hashlib
import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping

import xxhash

from sundog_edge.feedback.exposure import SEPARATOR
from sundog_edge.haproxy.names import ASSIGNED_ORIGIN, GRPC_SUFFIX, OVERRIDE_ORIGIN
from sundog_edge.haproxy.policies import build_policy_maps
from sundog_edge.haproxy.rules import cors
from sundog_edge.haproxy.rules.feedback import SIGNING_KEY_ENTRY
from sundog_edge.security.credentials import NO_CREDENTIALS, CallerCredentials
from sundog_edge.split.assignment import bucket_prefixes
from sundog_edge.split.document import Arm, Service, SplitDocument
from sundog_edge.split.layout import Layout

EMPTY_FIELD = "-"
_PRESENT = "+"

Maps = dict[str, dict[str, str]]
"""Map name → key → value."""

MAP_NAMES = (
    "prefixes",
    "applications",
    "cold",
    "queues",
    "keys",
    "tokens",
    "policies",
    "signing",
    "origins",
    "cors",
    "ranges",
    "overrides",
    "matches",
    "networks",
    "splits",
    "hosts",
)
"""In the order of writing: a map comes before the maps that refer to it."""

TABLE_MAPS = ("ranges", "overrides", "matches")
"""Maps whose entries stay for a while after their document."""


def build_maps(document: SplitDocument, layout: Layout, credentials: CallerCredentials = NO_CREDENTIALS) -> Maps:
    """Return the content of all maps for a document whose applications have slots in `layout`."""
    slots = layout.slot_of
    networks = sorted(document.networks)
    maps: Maps = (
        {name: {} for name in MAP_NAMES}
        | build_policy_maps(document, slots, credentials, layout.twins)
        | cors.build_cors_maps(document)
    )
    maps["prefixes"] = {
        holding.slot + twin: holding.prefix for holding in (*layout.leaving, *layout.held) for twin in layout.twins
    }
    if layout.grpc:
        maps["applications"] = {
            holding.slot + GRPC_SUFFIX: holding.application for holding in (*layout.leaving, *layout.held)
        }
    maps["cold"] = _cold(document, layout)
    maps["networks"] = {network: network for network in networks}
    if credentials.signing_key and any(service.feedback for service in document.services):
        maps["signing"] = {SIGNING_KEY_ENTRY: base64.b64encode(credentials.signing_key).decode()}
    for service in document.services:
        table, ranges = _table(service, slots)
        maps["ranges"] |= ranges
        maps["overrides"] |= dict(_overrides(service, table, slots, networks))
        maps["matches"] |= _matches(service, table, slots)
        maps["splits"][service.name] = render_split_value(service, table)
        maps["hosts"] |= dict.fromkeys(service.hosts, service.name)
    return maps


def _cold(document: SplitDocument, layout: Layout) -> dict[str, str]:
    limits = {
        service.name: round((service.coldStartSeconds + service.requestTimeoutSeconds) * 1000)
        for service in document.services
        if service.coldStartSeconds
    }
    cold = [holding for holding in layout.held if holding.slot in layout.cold and holding.service in limits]
    return {
        **{holding.slot + twin: str(limits[holding.service]) for holding in cold for twin in layout.twins},
        **{f"service:{holding.service}": "1" for holding in cold},
    }


def render_split_value(service: Service, table: str) -> str:
    """Return the value of a service in `splits`."""
    timeout_ms = max(1, round(service.requestTimeoutSeconds * 1000))
    features = {
        "r": service.reveal,
        "o": service.overrides,
        "h": service.match,
        "f": service.feedback,
        "z": service.compression,
    }
    flags = "".join(flag for flag, is_used in features.items() if is_used)
    # The replica's timeout is a second longer than the edge's. Otherwise its 408 could come first and count as a client error.
    fields = (
        service.salt,
        service.unit.source or EMPTY_FIELD,
        str(timeout_ms),
        f"{service.requestTimeoutSeconds + 1:g}",
        str(service.maxRequestBytes),
        table,
        flags or EMPTY_FIELD,
        *((str(100 * service.shadow.percent), service.shadow.arm) if service.shadow else ()),
    )
    return "|".join(fields)


def _table(service: Service, slots: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return (name, entries of `ranges`) of a service's table; `-` and no entries without arms."""
    arms = [_arm(service, arm, ASSIGNED_ORIGIN, slots) for arm in service.arms]
    segments = service.table
    if not segments:
        return EMPTY_FIELD, {}
    content = repr((arms, segments, service.overrides, *([service.match] if service.match else [])))
    table = xxhash.xxh64_hexdigest(content.encode())
    starts = (0, *(segment.end for segment in segments[:-1]))
    entries = [
        (arms[segment.arm], prefix)
        for start, segment in zip(starts, segments, strict=True)
        for prefix in bucket_prefixes(start, segment.end)
    ]
    # The longest prefix decides. So the arm with the most prefixes gets the shortest of all, in place of its own.
    most = Counter(arm for arm, _ in entries).most_common(1)[0][0]
    return table, {f"{table}/1": most, **{f"{table}/{prefix}": arm for arm, prefix in entries if arm != most}}


def _overrides(
    service: Service, table: str, slots: Mapping[str, str], networks: list[str]
) -> Iterator[tuple[str, str]]:
    arms = {arm.name: arm for arm in service.arms}
    if table == EMPTY_FIELD:
        return
    for override in service.overrides:
        value = _arm(service, arms[override.arm], OVERRIDE_ORIGIN, slots)
        callers = [f"k{key}" for key in override.callers.keys]
        # HAProxy finds a client's narrowest network, which may be a part of a network that is allowed here.
        callers += [f"n{network}" for network in networks if _is_within(network, override.callers.networks)]
        yield from ((f"{table}|{override.header.lower()}|{override.value}|{caller}", value) for caller in callers)


def _matches(service: Service, table: str, slots: Mapping[str, str]) -> dict[str, str]:
    match = service.match
    if match is None or table == EMPTY_FIELD:
        return {}
    arm = next(arm for arm in service.arms if arm.name == match.arm)
    hashed = {name: hashlib.sha256(value.encode()).hexdigest() for name, value in match.headers.items()}
    wanted = {f"{table}|{name}|{digest}": _PRESENT for name, digest in hashed.items()}
    return {**wanted, f"{table}|{len(wanted)}": _arm(service, arm, OVERRIDE_ORIGIN, slots)}


def _is_within(network: str, allowed: tuple[str, ...]) -> bool:
    inner = ipaddress.ip_network(network)
    return any(
        inner.version == other.version and inner.subnet_of(other)  # type: ignore[arg-type]
        for other in map(ipaddress.ip_network, allowed)
    )


def _arm(service: Service, arm: Arm, origin: str, slots: Mapping[str, str]) -> str:
    row = f"{service.name}/{service.attempt}/{service.epoch}/{arm.name}/{origin}"
    fields = (
        slots[arm.application],
        row,
        arm.routePrefix.rstrip("/"),
        str(arm.revision),
        arm.name,
        ",".join(map(str, arm.slow_us)) or EMPTY_FIELD,
    )
    # A caller that chose the arm was not assigned, so its outcomes are no evidence.
    exposure = SEPARATOR.join((service.attempt, str(service.epoch), arm.name if service.reveal else ""))
    exposed = (exposure,) if service.feedback else ()
    return "!".join((*fields, *(exposed if origin == ASSIGNED_ORIGIN else ())))


def render_map(entries: Mapping[str, str]) -> str:
    """Return the text of a map file."""
    return "".join(f"{key} {value}\n" for key, value in sorted(entries.items()))
