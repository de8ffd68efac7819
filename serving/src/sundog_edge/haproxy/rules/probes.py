"""Probes: health checks and questions about the model, which the model server answers without its model. They have rows of their own.

Checks of a load balancer are many, fast and good: among the requests of an arm they would hide its errors and its slow answers. So they are
of another origin, whichever way their arm was chosen, and nobody's unit. The model server leaves the same out of its own metrics. A path
counts as it is written; one that is written otherwise is a request like any other.
"""

from sundog_edge.haproxy.names import PROBE_ORIGIN
from sundog_edge.haproxy.problems import IS_GRPC
from sundog_edge.haproxy.rules import grpc

PATHS = "(/openapi[.]json|/-/startup|/v1/models(/[^/:]+)?|/v2(/health/(live|ready)|/models/[^/]+(/versions/[^/]+)?(/ready)?)?)/*"
"""As a regular expression, what is asked by GET or HEAD, below a service's own path.

Of any model: the answer that there is no such one says nothing of the arm either.
"""

POST_PATHS = "/v2/repository/index/*"
"""The same for what is asked by POST."""

IS_PROBE = "{ var(txn.probe) -m bool }"
"""Whether a request is a probe; so from `rules` on."""


def rules() -> str:
    """Set `txn.probe`. What is asked by POST pays for two comparisons."""
    asked, by_host = "{ method GET HEAD }", "{ var(txn.byhost) -m found }"
    return f"""    http-request set-var(txn.probe) bool(true) if {asked} {by_host} {{ path -m reg ^{PATHS}$ }}
    http-request set-var(txn.probe) bool(true) if {asked} !{by_host} {{ path -m reg ^/[^/]+{PATHS}$ }}
    http-request set-var(txn.probe) bool(true) if {{ method POST }} {by_host} {{ path -m reg ^{POST_PATHS}$ }}
    http-request set-var(txn.probe) bool(true) if {{ method POST }} !{by_host} {{ path -m reg ^/[^/]+{POST_PATHS}$ }}
    http-request set-var(txn.probe) bool(true) if {IS_GRPC} {{ path -m str {" ".join(grpc.PROBES)} }}
"""


def row_rule() -> str:
    """The rule by which a probe of an arm is counted apart from the arm's requests, once `txn.row` is set."""
    return f"""    http-request set-var(txn.row) var(txn.arm),field(2,!),field(1,/,4),concat(/{PROBE_ORIGIN}/anonymous) if {IS_PROBE}
"""
