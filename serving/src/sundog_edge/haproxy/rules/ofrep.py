"""Look-ups of a unit's arm by the OpenFeature Remote Evaluation Protocol (OFREP): the route to the agent.

A look-up is not a request of an arm: it is not counted in a row, and is no exposure.
"""

import json

from sundog_edge import headers
from sundog_edge.counting.log_lines import OFREP_KIND
from sundog_edge.haproxy.problems import render_refusal
from sundog_edge.haproxy.rules import agent_backend
from sundog_edge.state_dir import StateDir

PATH = "/ofrep/v1/evaluate/flags"
BACKEND = "ofrep"
MAX_BYTES = 1 << 16
MAX_REQUESTS_PER_SECOND = 200
"""Look-ups of one service that one edge admits per second."""

_TABLE = "ofrep-rate"
IS_OFREP = "{ var(txn.ofrep) -m bool }"
"""Whether a request is a look-up; set by `route_rules`."""


def route_rules() -> str:
    """Return rules that set `txn.ofrep` for look-ups: below PATH at the service's host, else below `/<service>` and PATH."""
    by_host = "{ var(txn.byhost) -m found }"
    method = render_refusal(
        405,
        "Method Not Allowed",
        "flags are evaluated by POST alone",
        f"{IS_OFREP} !{{ method POST }}",
        f" hdr {headers.ALLOW} POST",
    )
    return f"""    http-request set-var(txn.ofrep) bool(true) if {by_host} {{ path -m beg {PATH} }} {{ path -m reg ^{PATH}(/[^/]+)?$ }}
    http-request set-var(txn.ofrep) bool(true) if !{by_host} {{ path,field(3,/) -m str ofrep }} {{ path -m reg ^/[^/]+{PATH}(/[^/]+)?$ }}
    http-request set-var(txn.refused) str({OFREP_KIND}) if {IS_OFREP}
{method}"""


def rate_limit() -> str:
    """Return rules that refuse too frequent look-ups, in place of the service's rate limits, which are for predictions.

    Without `txn.policy` the rules of those limits have no effect.
    """
    detail = "arms of this service are looked up too often: keep the answers for some seconds"
    return f"""{agent_backend.rate_limit(_TABLE, IS_OFREP, MAX_REQUESTS_PER_SECOND, detail)}\
    http-request unset-var(txn.policy) if {IS_OFREP}
"""


def admit() -> str:
    """Return the rule that ends the frontend's rules for look-ups. It comes after the rules of overrides and matches."""
    return f"    http-request allow if {IS_OFREP}\n"


def use_backend() -> str:
    """Return the rule of the frontend that chooses the backend of look-ups."""
    return f"    use_backend {BACKEND} if {IS_OFREP}\n"


def backends(state: StateDir) -> str:
    """Return the backend of the agent, and the table of rates."""
    failure = {"errorCode": "PARSE_ERROR", "errorDetails": "the header of the request is not understood"}
    body = json.dumps(failure, separators=(",", ":")).replace('"', '\\"')
    rules = f"""    http-request set-path %[path,regsub(^/[^/]*,)] unless {{ var(txn.byhost) -m found }}
    http-request set-header {headers.ARM} %[var(txn.arm),field(5,!)] if {{ var(txn.arm) -m found }}
"""
    backend = agent_backend.render_backend(
        BACKEND,
        state,
        rules,
        unavailable="arms cannot be looked up now",
        code="FlagsUnavailable",
        bad_request=f'status 400 content-type application/json string "{body}"',
        failed="the arm was not looked up",
    )
    return f"{agent_backend.rate_table(_TABLE)}\n{backend}"
