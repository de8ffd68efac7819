"""Probes: health checks and metadata requests, which the model server answers without its model. They have separate rows.

A load balancer's checks are many, fast and successful. Among the requests of an arm they would hide its errors and slow answers. So they
have their own origin, however their arm was chosen, and no unit. The model server excludes the same requests from its metrics. Only the
literal paths count as probes; differently encoded ones are ordinary requests.
"""

from sundog_edge.haproxy.names import PROBE_ORIGIN
from sundog_edge.haproxy.problems import IS_GRPC
from sundog_edge.haproxy.rules import grpc

PATHS = "(/openapi[.]json|/-/startup|/v1/models(/[^/:]+)?|/v2(/health/(live|ready)|/models/[^/]+(/versions/[^/]+)?(/ready)?)?)/*"
"""Regular expression of probe paths for GET and HEAD, below a service's path.

They match any model name: a 404 for an unknown model does not measure the arm either.
"""

POST_PATHS = "/v2/repository/index/*"
"""The same for POST."""

IS_PROBE = "{ var(txn.probe) -m bool }"
"""Whether a request is a probe; set by `rules`."""


def rules() -> str:
    """Return rules that set `txn.probe`. They cost a POST two comparisons."""
    is_get, by_host = "{ method GET HEAD }", "{ var(txn.byhost) -m found }"
    return f"""    http-request set-var(txn.probe) bool(true) if {is_get} {by_host} {{ path -m reg ^{PATHS}$ }}
    http-request set-var(txn.probe) bool(true) if {is_get} !{by_host} {{ path -m reg ^/[^/]+{PATHS}$ }}
    http-request set-var(txn.probe) bool(true) if {{ method POST }} {by_host} {{ path -m reg ^{POST_PATHS}$ }}
    http-request set-var(txn.probe) bool(true) if {{ method POST }} !{by_host} {{ path -m reg ^/[^/]+{POST_PATHS}$ }}
    http-request set-var(txn.probe) bool(true) if {IS_GRPC} {{ path -m str {" ".join(grpc.PROBES)} }}
"""


def row_rule() -> str:
    """Return the rule that counts an arm's probes in a separate row. It needs `txn.row`."""
    return f"""    http-request set-var(txn.row) var(txn.arm),field(2,!),field(1,/,4),concat(/{PROBE_ORIGIN}/anonymous) if {IS_PROBE}
"""
