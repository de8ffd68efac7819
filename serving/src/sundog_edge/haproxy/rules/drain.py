"""Bodies that are too large: the agent reads the rest, and then the client gets its answer (`sundog_edge.feedback.oversized_bodies`).

A body of which all is here, and one that is known to be too large even for that, are refused at once. So are all that find the agent
away or busy with others.
"""

from sundog_edge.haproxy.problems import render_problem
from sundog_edge.state_dir import StateDir

PATH = "/-/drain"
MAX_BYTES = 64 << 20
"""Of one body, what is read at most."""

BODY_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 2.0
"""For all of it, and for the next piece of it, at most."""

BACKEND = "drain"
IS_TOO_LARGE = "{ var(txn.toolarge) -m found }"
"""Whether a body is too large; the variable says for what."""

MAX_CONNECTIONS = 8
_DRAINED = "{ var(txn.drained) -m bool }"
_REFUSED = render_problem(413, "Content Too Large", "%[var(txn.toolarge)]", code="BodyTooLarge")
_LENGTHS = "^(?!content-length$|transfer-encoding$|host$)"


def rules() -> str:
    """Refuse a request whose body is too large, or have its rest read first."""
    unread = f"!{{ internal.htx.has_eom }} {{ req.body_size le {MAX_BYTES} }}"
    return f"""    http-request set-var(txn.drained) bool(true) if {IS_TOO_LARGE} {unread}
    http-request allow if {_DRAINED}
    http-request return {_REFUSED} if {IS_TOO_LARGE}
"""


def use_backend() -> str:
    """Rules of the frontend that end with a backend for such a request."""
    return f"    use_backend {BACKEND} if {_DRAINED}\n"


def backend(state: StateDir) -> str:
    """The agent, which gets nothing of a request but its body; what the client reads is composed here."""
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
