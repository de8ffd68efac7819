"""The arm slots: what happens to a request once its arm is chosen."""

from sundog_edge.haproxy import admission, assignment
from sundog_edge.haproxy.names import BLOCKS_TABLE, MAX_BLOCKS, MAX_ROWS, ROWS_TABLE
from sundog_edge.layout import Server
from sundog_edge.state_dir import StateDir


def server_options(server: Server) -> str:
    """The options of a server line, the same in the file and at run time."""
    limit = f" maxconn {server.maxconn}" if server.maxconn else ""
    return f"{server.address} check inter {server.check_ms} fall 1 rise 1{limit}{' backup' if server.backup else ''}"


def tables() -> str:
    """Backends that hold no server: counts by row, those running by row and block of arrival, and where requests without a slot end."""
    # A split that names a slot this worker lacks must not pick a server: `none` has none.
    return f"""backend {ROWS_TABLE} from base
    stick-table type string len 250 size {MAX_ROWS} nopurge store gpc0,conn_cur

backend {BLOCKS_TABLE} from base
    stick-table type string len 250 size {MAX_BLOCKS} expire 1m store conn_cur

backend none from base
"""


def arm(state: StateDir) -> str:
    """`defaults arm`: count the choice, rewrite the path, pick a replica, mark the answer."""
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
    http-request set-var(txn.count) sc_inc_gpc0(0)
    http-request set-var(txn.block) var(txn.received),div(10000000)
    http-request track-sc2 var(txn.row),concat(/,txn.block) table {BLOCKS_TABLE}
{admission.queue(state)}\
    http-request set-timeout server var(txn.split),field(3,|)
    http-request set-path %[var(txn.arm),field(3,!)]%[path,regsub(^/[^/]*,)] unless {{ var(txn.byhost) -m found }}
    http-request set-path %[var(txn.arm),field(3,!)]%[path] if {{ var(txn.byhost) -m found }}
    http-response set-var(txn.ttfb) date(0,us),sub(txn.received)
    http-response set-var(txn.outcome) str(ok)
    http-response set-var(txn.outcome) str(invalid) if {{ res.hdr(x-sundog-outcome) -m str invalid }}
    http-response del-header x-sundog- -m beg
{assignment.answer()}"""


def slot(name: str, wait_ms: int, servers: list[Server]) -> str:
    """One arm slot with the longest wait for a busy replica, and the replicas that a new worker starts with."""
    lines = "".join(f"    server {server.name} {server_options(server)}\n" for server in servers)
    return f"backend {name} from arm\n    timeout queue {wait_ms}ms\n{lines}"
