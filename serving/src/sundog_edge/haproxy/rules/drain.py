"""Drain too large bodies: the agent reads the rest, then the client gets its answer (`sundog_edge.feedback.oversized_bodies`).

HAProxy refuses at once a body that has arrived completely, a body too large to drain, and any body while the agent is away or busy.
"""

from sundog_edge import headers
from sundog_edge.haproxy.problems import render_problem
from sundog_edge.state_dir import StateDir

PATH = "/-/drain"
MAX_BYTES = 64 << 20
"""Largest body that the agent drains."""

BODY_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 2.0
"""Longest wait for the whole body, and for its next part."""

BACKEND = "drain"
IS_TOO_LARGE = "{ var(txn.toolarge) -m found }"
"""Whether a body is too large. The variable is the detail of the answer."""

MAX_CONNECTIONS = 8
_DRAINED = "{ var(txn.drained) -m bool }"
_REFUSED = render_problem(413, "Content Too Large", "%[var(txn.toolarge)]", code="BodyTooLarge")
_LENGTHS = f"^(?!{headers.CONTENT_LENGTH}$|{headers.TRANSFER_ENCODING}$|{headers.HOST}$)"


def rules() -> str:
    """Return rules that refuse a request with a too large body, or first send it to the agent."""
    is_unread = f"!{{ internal.htx.has_eom }} {{ req.body_size le {MAX_BYTES} }}"
    return f"""    http-request set-var(txn.drained) bool(true) if {IS_TOO_LARGE} {is_unread}
    http-request allow if {_DRAINED}
    http-request return {_REFUSED} if {IS_TOO_LARGE}
"""


def use_backend() -> str:
    """Return the rule of the frontend that chooses the backend of such a request."""
    return f"    use_backend {BACKEND} if {_DRAINED}\n"


def backend(state: StateDir) -> str:
    """Return the backend of the agent. The agent gets only the body of a request; HAProxy composes the answer here."""
    errors = "".join(
        f"    http-error {_REFUSED.replace('status 413', f'status {status}', 1)}\n" for status in (502, 503, 504)
    )
    return f"""backend {BACKEND} from base
    timeout queue 1s
    timeout server {BODY_TIMEOUT_S + 5:g}s
    retries 0
    option http-server-close
    http-reuse never
{errors}\
    http-request del-header {_LENGTHS} -m reg
    http-request set-pathq {PATH}
    http-response return {_REFUSED}
    http-after-response set-status 413 if {{ status 502:504 }}
    server agent unix@{state.feedback_socket} maxconn {MAX_CONNECTIONS}
"""
