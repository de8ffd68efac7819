"""The backends of the agent: requests that the agent answers in place of a replica. Only HAProxy reaches its socket."""

from sundog_edge import headers
from sundog_edge.haproxy.problems import RETRY, render_problem, render_refusal
from sundog_edge.state_dir import StateDir

MAX_CONNECTIONS = 16
MAX_QUEUED = 64
_SERVICES = 1000


def rate_table(name: str) -> str:
    """Return the table of requests per second by service."""
    return f"""backend {name} from base
    stick-table type string len 64 size {_SERVICES} expire 10s store gpc0,gpc0_rate(1s)
"""


def rate_limit(table: str, condition: str, per_second: int, detail: str) -> str:
    """Return rules that refuse requests above a rate per service and edge. Refused requests do not count."""
    too_often = render_refusal(
        429, "Too Many Requests", detail, f"{condition} {{ sc_gpc0_rate(3) ge {per_second} }}", RETRY
    )
    return f"""    http-request track-sc3 var(txn.name) table {table} if {condition}
{too_often}\
    http-request sc-inc-gpc0(3) if {condition}
"""


def render_backend(
    name: str, state: StateDir, rules: str, *, unavailable: str, code: str, bad_request: str, failed: str
) -> str:
    """Return a backend of the agent, which gets the name of the service.

    A connection has one request. The agent's server (aiohttp) reads trailers of a request as headers of the next one. A client can put
    into trailers the headers that HAProxy's rules remove. Plain-text errors of that server become JSON documents, and no answer shows
    its name.

    Args:
        name: the backend's name.
        state: the directory with the agent's socket.
        rules: further rules of requests.
        unavailable: the detail of a refusal while the agent is away or busy.
        code: the code of that refusal.
        bad_request: the arguments of `http-response return` for a request that the agent's server does not understand.
        failed: the detail for a failure of the agent.
    """
    errors = "".join(
        f"    http-error {render_problem(status, title, unavailable, RETRY, code)}\n"
        for status, title in ((502, "Bad Gateway"), (503, "Service Unavailable"), (504, "Gateway Timeout"))
    )
    is_plain_text = f"!{{ res.hdr({headers.CONTENT_TYPE}) -m sub json }}"
    internal = render_problem(500, "Internal Server Error", failed)
    too_many = render_refusal(
        503, "Service Unavailable", unavailable, f"{{ be_conn gt {MAX_CONNECTIONS + MAX_QUEUED} }}", RETRY, code
    )
    return f"""backend {name} from base
    timeout queue 5s
    timeout server 15s
    retries 1
    option http-server-close
    http-reuse never
{errors}{too_many}\
    http-request del-header {headers.SUNDOG_PREFIX} -m beg
    http-request del-header _ -m sub
    http-request del-header {headers.API_KEY}
    http-request del-header {headers.AUTHORIZATION}
    http-request del-header {headers.COOKIE}
    http-request set-header {headers.SERVICE} %[var(txn.name)]
{rules}\
    http-response return {bad_request} if {{ status 400:499 }} {is_plain_text}
    http-response return {internal} if {{ status ge 500 }} {is_plain_text}
    http-response del-header {headers.SERVER}
    server agent unix@{state.feedback_socket} maxconn {MAX_CONNECTIONS}
"""
