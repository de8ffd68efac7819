"""HAProxy's configuration and maps, rendered. Pure: settings, layout and document in, text out.

One request, in this order: its service by host, else by the first path segment; one lookup in `splits` gives everything else (salt,
unit, limits, and per segment of the range table the arm), so that arm, epoch, attempt and application always belong together; the
slot's backend then counts the choice, rewrites the path and picks a replica.

A map value is `salt|unit header|timeout ms|timeout s|max bytes|end|arm|end|arm|…` with ascending segment ends, an arm being
`slot!row!route prefix!revision!name` and a row `service/attempt/epoch/arm/origin`.
"""

from collections.abc import Mapping

from sundog_edge.document import MAX_SEGMENTS, Document, Service
from sundog_edge.errors import DocumentError
from sundog_edge.layout import Layout, Server, slot_names
from sundog_edge.state_dir import Settings, StateDir

BOOT_VARIABLE = "SUNDOG_EDGE_BOOT"
LOG_VARIABLE = "SUNDOG_EDGE_LOG_FD"
ALL_REQUESTS = "all"
FALLBACK = "fallback"
ROWS_TABLE = "rows"
MAX_ROWS = 20_000
NO_HEADER = "-"
CHECK = "check inter 500 fall 1 rise 1"
MAX_VALUE = 12_000
_FIRST_SEGMENT_FIELD = 6

Maps = dict[str, dict[str, str]]
"""Map name → key → value."""

MAP_NAMES = ("prefixes", "splits", "hosts")
"""In the order in which they are to be written: what is referred to comes before what refers to it."""


def maps_of(document: Document, layout: Layout) -> Maps:
    """The content of all maps for a document whose applications have their slots in `layout`."""
    slots = layout.slot_of
    return {
        "prefixes": {holding.slot: holding.prefix for holding in (*layout.leaving, *layout.held)},
        "splits": {service.name: split_value(service, slots) for service in document.services},
        "hosts": {host: service.name for service in document.services for host in service.hosts},
    }


def split_value(service: Service, slots: Mapping[str, str]) -> str:
    """The map value of one service; `slots` gives the slot of every application. Raises DocumentError for a table that is too long."""
    timeout_ms = max(1, round(service.requestTimeoutSeconds * 1000))
    # The replica gets a second more than the edge: else its own 408 could come first and count as the client's fault.
    fields = [
        service.salt,
        service.unit.name.lower() if service.unit.kind == "header" else NO_HEADER,
        str(timeout_ms),
        f"{service.requestTimeoutSeconds + 1:g}",
        str(service.maxRequestBytes),
    ]
    for segment in service.table:
        arm = service.arms[segment.arm]
        row = f"{service.name}/{service.attempt}/{service.epoch}/{arm.name}/assigned"
        fields += [
            str(segment.end),
            f"{slots[arm.application]}!{row}!{arm.routePrefix.rstrip('/')}!{arm.revision}!{arm.name}",
        ]
    value = "|".join(fields)
    if len(value) > MAX_VALUE:
        raise DocumentError(
            f"service {service.name}: its range table takes {len(value)} bytes, at most {MAX_VALUE} fit HAProxy's buffer"
        )
    return value


def map_text(entries: Mapping[str, str]) -> str:
    """A map file."""
    return "".join(f"{key} {value}\n" for key, value in sorted(entries.items()))


def render(settings: Settings, layout: Layout, state: StateDir) -> str:
    """The whole configuration."""
    by_slot: dict[str, list[Server]] = {slot: [] for slot in slot_names(layout.slots)}
    for server in sorted(layout.servers):
        by_slot.get(server.slot, []).append(server)
    parts = [
        _global(settings),
        _defaults(settings),
        _frontend(settings, layout, state),
        f"backend {ROWS_TABLE} from base\n    stick-table type string len 250 size {MAX_ROWS} nopurge store gpc0,conn_cur\n",
        # A split that names a slot this worker lacks must not pick a server; this backend has none.
        "backend none from base\n",
        _arm_defaults(state),
        *(_slot(slot, servers) for slot, servers in by_slot.items()),
    ]
    return "\n".join(parts)


def server_options(server: Server) -> str:
    """The options of a server line, the same in the file and at run time."""
    limit = f" maxconn {server.maxconn}" if server.maxconn else ""
    return f"{server.address} {CHECK}{limit}{' backup' if server.backup else ''}"


def _global(settings: Settings) -> str:
    # The limit of open files of a container can be a thousand times what is needed, and HAProxy allocates for all of it.
    connections = f"maxconn {settings.max_connections}" if settings.max_connections else "fd-hard-limit 65536"
    return f"""global
    {connections}
    nbthread {settings.threads}
    hard-stop-after {settings.drain_seconds}s
    tune.bufsize 16384
    tune.maxrewrite 1024
    tune.http.maxhdr 101
"""


def _problem(status: int, title: str, detail: str, extra: str = "") -> str:
    body = (
        f'{{\\"type\\":\\"about:blank\\",\\"title\\":\\"{title}\\",\\"status\\":{status},\\"detail\\":\\"{detail}\\"}}'
    )
    return f'status {status} content-type application/problem+json string "{body}"{extra}'


def _defaults(settings: Settings) -> str:
    errors = (
        _problem(400, "Bad Request", "the request is not valid HTTP, or its headers are too large"),
        _problem(408, "Request Timeout", "the request did not arrive in time"),
        _problem(500, "Internal Server Error", "the edge failed"),
        _problem(502, "Bad Gateway", "the replica gave no valid answer"),
        _problem(503, "Service Unavailable", "no replica is available", " hdr Retry-After 1"),
        _problem(504, "Gateway Timeout", "the replica did not answer in time"),
    )
    lines = "\n".join(f"    http-error {error}" for error in errors)
    return f"""defaults base
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout queue {settings.queue_seconds}s
    timeout http-request 30s
    timeout http-keep-alive 60s
    option http-buffer-request
    option dontlognull
    option abortonclose
    option idle-close-on-response
{lines}
"""


def _frontend(settings: Settings, layout: Layout, state: StateDir) -> str:
    sized = _problem(413, "Content Too Large", "the request body is larger than this service takes")
    unknown = _problem(404, "Not Found", "no service has this host or path")
    no_arm = _problem(503, "Service Unavailable", "the service is not ready yet", " hdr Retry-After 1")
    units = "\n".join(
        f"    http-request set-var(txn.unit) req.fhdr({name},1) if {{ var(txn.header) -m str {name} }}"
        for name in layout.headers
    )
    return f"""frontend edge from base
    bind {settings.http_bind}
    log fd@${{{LOG_VARIABLE}}} len 2048 format raw local0
    log-format "${{{BOOT_VARIABLE}}}-%pid %[var(txn.row)] %[var(txn.number)] %ST %ts %rc %s %[var(txn.received)] \
%[var(txn.first)] %[date(0,us)] %[var(txn.outcome)] %[var(txn.service)]"
    http-request set-var(txn.received) date(0,us)
    http-request track-sc1 str({ALL_REQUESTS}) table {ROWS_TABLE}
    http-request sc-inc-gpc0(1)
    http-request set-var(txn.byhost) req.hdr(host),host_only,lower,map_str({state.map("hosts")})
    http-request set-var(txn.name) var(txn.byhost)
    http-request set-var(txn.name) path,field(2,/) unless {{ var(txn.byhost) -m found }}
    http-request set-var(txn.split) var(txn.name),map_str({state.map("splits")})
    http-request return {unknown} unless {{ var(txn.split) -m found }}
    http-request set-var(txn.service) var(txn.name)
    http-request set-var(txn.limit) var(txn.split),field(5,|)
    http-request return {sized} if {{ req.hdr_val(content-length),sub(txn.limit) gt 0 }}
    http-request set-var(txn.salt) var(txn.split),field(1,|)
    http-request set-var(txn.header) var(txn.split),field(2,|)
{units}
    http-request set-var(txn.unitkind) str(anonymous)
    http-request set-var(txn.bucket) rand(10000)
    http-request set-var(txn.unitkind) str(sticky) if {{ var(txn.unit) -m len gt 0 }}
    http-request set-var(txn.bucket) var(txn.salt),concat(:,txn.unit),xxh64,and(9223372036854775807),mod(10000) \
if {{ var(txn.unit) -m len gt 0 }}
    http-request del-header x-sundog- -m beg
    http-request del-header x-request-disconnect-disabled
    http-request del-header serve_multiplexed_model_id
    http-request set-header x-request-timeout-seconds %[var(txn.split),field(4,|)]
{_segments()}
    http-request return {no_arm}
    use_backend %[var(txn.arm),field(1,!)]
    default_backend none
"""


def _segments() -> str:
    """The walk over the range table: `allow` ends it at the first segment whose end is above the bucket."""
    lines: list[str] = []
    for number in range(MAX_SEGMENTS):
        end = _FIRST_SEGMENT_FIELD + 2 * number
        lines += [
            f"    http-request set-var(txn.arm) var(txn.split),field({end + 1},|) "
            f"if {{ var(txn.split),field({end},|),sub(txn.bucket) gt 0 }}",
            "    http-request allow if { var(txn.arm) -m found }",
        ]
    return "\n".join(lines)


def _arm_defaults(state: StateDir) -> str:
    return f"""defaults arm from base
    balance leastconn
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response
    http-reuse safe
    timeout check 2s
    option httpchk
    http-check send meth GET uri /-/routes
    http-check expect string-lf "\\"%[be_name,map_str({state.map("prefixes")},none)]\\""
    http-request set-var(txn.row) var(txn.arm),field(2,!),concat(/,txn.unitkind)
    http-request track-sc0 var(txn.row) table {ROWS_TABLE}
    http-request set-var(txn.number) sc_inc_gpc0(0)
    http-request set-timeout server var(txn.split),field(3,|)
    http-request set-path %[var(txn.arm),field(3,!)]%[path,regsub(^/[^/]*,)] unless {{ var(txn.byhost) -m found }}
    http-request set-path %[var(txn.arm),field(3,!)]%[path] if {{ var(txn.byhost) -m found }}
    http-response set-var(txn.first) date(0,us)
    http-response set-var(txn.outcome) str(invalid) if {{ res.hdr(x-sundog-outcome) -m str invalid }}
    http-response del-header x-sundog- -m beg
    http-after-response set-header x-sundog-revision %[var(txn.arm),field(4,!)]
    http-after-response set-header x-sundog-arm %[var(txn.arm),field(5,!)]
"""


def _slot(slot: str, servers: list[Server]) -> str:
    lines = "".join(f"    server {server.name} {server_options(server)}\n" for server in servers)
    return f"backend {slot} from arm\n{lines}"
