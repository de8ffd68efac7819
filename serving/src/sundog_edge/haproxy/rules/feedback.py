"""Feedback: the exposure header of answers, and the route of `POST /-/feedback` to the agent.

Only services with feedback have this cost. A report is not a request of an arm: it is neither assigned nor counted in a row.
"""

from sundog_edge import headers
from sundog_edge.counting.log_lines import FEEDBACK_KIND
from sundog_edge.feedback.exposure import SEPARATOR, SIGNATURE_BYTES, VERSION
from sundog_edge.haproxy.problems import render_problem, render_refusal
from sundog_edge.haproxy.rules import agent_backend, probes
from sundog_edge.state_dir import StateDir

PATH = "/-/feedback"
BACKEND = "feedback"
SIGNING_KEY_ENTRY = "newest"
MAX_BYTES = 1 << 20
MAX_REQUESTS_PER_SECOND = 200
"""Requests with feedback of one service that one edge admits per second."""

_TABLE = "feedback-rate"
IS_FEEDBACK = "{ var(txn.feedback) -m bool }"
"""Whether a request is feedback; set by `route_rules`."""


def route_rules() -> str:
    """Return rules that set `txn.feedback` for requests to the agent: `/-/feedback` at the service's host, else `/<service>/-/feedback`.

    A service without feedback refuses here: reports after an experiment must not count as rejections of an arm.
    """
    has_suffix = f"{{ path -m end {PATH} }}"
    method = render_refusal(
        405,
        "Method Not Allowed",
        "feedback is taken by POST alone",
        f"{IS_FEEDBACK} !{{ method POST }}",
        f" hdr {headers.ALLOW} POST",
    )
    no_feedback = render_refusal(
        404,
        "Not Found",
        "this service takes no feedback",
        f"{IS_FEEDBACK} !{{ var(txn.split),field(7,|) -m sub f }}",
        code="NoFeedback",
    )
    return f"""    http-request set-var(txn.feedback) bool(true) if {has_suffix} {{ var(txn.byhost) -m found }} {{ path -m str {PATH} }}
    http-request set-var(txn.feedback) bool(true) if {has_suffix} !{{ var(txn.byhost) -m found }} {{ path,regsub(^/[^/]*,) -m str {PATH} }}
    http-request set-var(txn.refused) str({FEEDBACK_KIND}) if {IS_FEEDBACK}
{no_feedback}{method}"""


def rate_limit() -> str:
    """Return rules that refuse too frequent feedback, in place of the service's rate limits, which are for predictions."""
    detail = "feedback of this service comes too often: send more events with each request"
    return f"""{agent_backend.rate_limit(_TABLE, IS_FEEDBACK, MAX_REQUESTS_PER_SECOND, detail)}\
    http-request allow if {IS_FEEDBACK}
"""


def use_backend() -> str:
    """Return the rule of the frontend that chooses the backend of feedback."""
    return f"    use_backend {BACKEND} if {IS_FEEDBACK}\n"


def backends(state: StateDir) -> str:
    """Return the backend of the agent, and the table of rates."""
    backend = agent_backend.render_backend(
        BACKEND,
        state,
        f"    http-request set-path {PATH}\n",
        unavailable="feedback is not taken now",
        code="FeedbackUnavailable",
        bad_request=render_problem(
            400, "Bad Request", "the header of the request is not understood", code="BadFeedback"
        ),
        failed="feedback was not taken",
    )
    return f"{agent_backend.rate_table(_TABLE)}\n{backend}"


def exposure_header(state: StateDir) -> str:
    """Return rules of an arm's answer: its exposure while there is a signing key; `sundog_edge.feedback.exposure` reads it.

    If each request is a unit, each gets a random unit. With sticky units, a request without a unit has no exposure.
    """
    has_mark = "{ var(txn.mark) -m len gt 0 }"
    is_request_unit = "{ var(txn.source) -m str -- - }"
    has_exposure = "{ var(txn.exposure) -m found }"
    text = SEPARATOR.join(
        (VERSION, "%[var(txn.mark)]", "%[var(txn.exposed),xxh64,hex,lower]", "%[var(txn.received),div(1000000)]")
    )
    is_exposed = "{ var(txn.exposed) -m len gt 0 }"
    message = f"var(txn.name),concat({SEPARATOR},txn.armname,{SEPARATOR}),concat(,txn.exposure)"
    signature = f"{message},hmac(sha256,txn.signing),bytes(0,{SIGNATURE_BYTES}),ub64enc"
    return f"""    http-after-response set-var(txn.mark) var(txn.arm),field(7,!) if {{ var(txn.flags) -m sub f }} !{probes.IS_PROBE}
    http-after-response set-var(txn.exposed) uuid() if {has_mark} {is_request_unit}
    http-after-response set-var(txn.exposed) var(txn.unit) if {has_mark} !{is_request_unit}
    http-after-response set-var(txn.signing) str({SIGNING_KEY_ENTRY}),map_str({state.map("signing")}) if {has_mark} {is_exposed}
    http-after-response set-var(txn.armname) var(txn.arm),field(5,!) if {{ var(txn.signing) -m found }}
    http-after-response set-var-fmt(txn.exposure) {text} if {{ var(txn.signing) -m found }}
    http-after-response set-header {headers.EXPOSURE} %[var(txn.exposure)]{SEPARATOR}%[{signature}] if {has_exposure}
"""
