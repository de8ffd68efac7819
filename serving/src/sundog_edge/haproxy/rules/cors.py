"""CORS: which web pages of other origins may call a service and read its answers (the CORS protocol of the Fetch standard).

The rules come with the first service that has a CORS policy. They stand before every rule that refuses, so that a page can read refusals
too. A preflight is not a client's request: it needs no key, reaches no replica, and is not counted.

- Map `cors`: service → `*` for any origin, request headers, response headers, seconds, `true` with credentials; separated by `|`.
- Map `origins`: `service|origin` → the origin.
"""

from sundog_edge import headers
from sundog_edge.haproxy.problems import IS_GRPC, json_excerpt, render_problem
from sundog_edge.split.document import Service, SplitDocument
from sundog_edge.split.policies import ANY_ORIGIN, Cors
from sundog_edge.state_dir import StateDir

ALLOWED_METHODS = "GET, HEAD, POST"
"""Methods that a model server answers."""

ALLOWED_HEADERS = (
    headers.AUTHORIZATION,
    headers.CONTENT_TYPE,
    headers.IF_NONE_MATCH,
    headers.JSON_LENGTH,
    headers.API_KEY,
    headers.REQUEST_ID,
)
"""Request headers that any client may need."""

EXPOSED_HEADERS = (
    headers.ETAG,
    headers.JSON_LENGTH,
    headers.RETRY_AFTER.lower(),
    headers.REQUEST_ID,
    headers.ARM,
    headers.EXPOSURE,
    headers.REVISION,
)
"""Response headers that every page may read."""

_HAS_CORS = "{ var(txn.cors) -m found }"
_ORIGIN = "{ var(txn.origin) -m found }"
_ALLOWED = "{ var(txn.allowed) -m found }"
_PREFLIGHT = "{ var(txn.preflight) -m bool }"


def rules(state: StateDir) -> str:
    """Return rules that set `txn.cors` if the service has a policy and `txn.allowed` if the origin may call, and answer preflights.

    They need `txn.name`. They skip gRPC calls, which browsers cannot make.
    """
    refused = render_problem(
        403,
        "Forbidden",
        f"the origin {json_excerpt('var(txn.origin)')} is not among endpoint.cors.allowedOrigins of this service",
        code="OriginNotAllowed",
    )
    is_preflight = f"{_ORIGIN} {{ method OPTIONS }} {{ req.fhdr({headers.CORS_REQUEST_METHOD}) -m found }}"
    return f"""    http-request set-var(txn.cors) var(txn.name),map_str({state.map("cors")}) if !{IS_GRPC}
    http-request set-var(txn.origin) req.fhdr({headers.ORIGIN}) if {_HAS_CORS} {{ req.fhdr({headers.ORIGIN}) -m found }}
    http-request set-var(txn.allowed) var(txn.name),concat(|,txn.origin),map_str({state.map("origins")}) if {_ORIGIN}
    http-request set-var(txn.allowed) str({ANY_ORIGIN}) if {_ORIGIN} {{ var(txn.cors),field(1,|) -m str {ANY_ORIGIN} }}
    http-request set-var(txn.preflight) bool(true) if {is_preflight}
    http-request set-log-level silent if {_PREFLIGHT}
    http-request return {refused} if {_PREFLIGHT} !{_ALLOWED}
    http-request return status 200 if {_PREFLIGHT}
    http-after-response del-header {headers.CORS_PREFIX} -m beg if {_HAS_CORS}
    http-after-response add-header {headers.VARY} {headers.ORIGIN} if {_HAS_CORS}
    http-after-response set-header {headers.CORS_ALLOW_ORIGIN} %[var(txn.allowed)] if {_ALLOWED}
    http-after-response set-header {headers.CORS_ALLOW_CREDENTIALS} true if {_ALLOWED} {{ var(txn.cors),field(5,|) -m str true }}
    http-after-response set-header {headers.CORS_EXPOSE_HEADERS} %[var(txn.cors),field(3,|)] if {_ALLOWED} !{_PREFLIGHT}
    http-after-response set-header {headers.CORS_ALLOW_METHODS} "{ALLOWED_METHODS}" if {_ALLOWED} {_PREFLIGHT}
    http-after-response set-header {headers.CORS_ALLOW_HEADERS} %[var(txn.cors),field(2,|)] if {_ALLOWED} {_PREFLIGHT}
    http-after-response set-header {headers.CORS_MAX_AGE} %[var(txn.cors),field(4,|)] if {_ALLOWED} {_PREFLIGHT}
"""


def build_cors_maps(document: SplitDocument) -> dict[str, dict[str, str]]:
    """Return the entries of both maps. Pure."""
    with_cors = [(service, service.cors) for service in document.services if service.cors]
    return {
        "cors": {service.name: _value(service, cors) for service, cors in with_cors},
        "origins": {
            f"{service.name}|{origin}": origin
            for service, cors in with_cors
            for origin in cors.allowedOrigins
            if origin != ANY_ORIGIN
        },
    }


def _value(service: Service, cors: Cors) -> str:
    # A page must send the header that identifies its user's unit.
    unit = (service.unit.name.lower(),) if service.unit.kind == "header" else ()
    fields = (
        ANY_ORIGIN if ANY_ORIGIN in cors.allowedOrigins else "",
        ",".join(sorted({*ALLOWED_HEADERS, *unit, *cors.allowedHeaders})),
        ",".join(sorted({*EXPOSED_HEADERS, *cors.exposedHeaders})),
        str(cors.maxAgeSeconds),
        "true" if cors.allowCredentials else "",
    )
    return "|".join(fields)
