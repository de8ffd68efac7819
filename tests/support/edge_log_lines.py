"""Lines as HAProxy writes them for the agent; see `sundog_edge.counting.log_lines`."""


def end_line(
    row: str,
    number: int = 1,
    *,
    boot: str = "a-1",
    status: int = 200,
    termination: str = "--",
    retries: int | str = 0,
    server: str = "10.0.0.1:80",
    slow: str = "-",
    block: int = 100,
    total_us: int = 5000,
    unit: int = 5,
    group: int = 7,
    received: int = 1_000_000_000,
) -> bytes:
    """Return the line of the request with this number in its row. Of status 502 and above, the edge composed the answer."""
    outcome, ttfb = ("-", "-") if status >= 502 else ("ok", str(total_us // 2))
    head = f"{boot} {row} {row.partition('/')[0]} - {status} {termination} {retries} {server} {outcome} {slow} {block}"
    return f"{head} {number} {ttfb} {total_us} 20 {unit} {group} {received}".encode()


def agent_line(service: str, kind: str, status: int, *, boot: str = "a-1", block: str = "1") -> bytes:
    """Return the line of a request for the agent, such as one with feedback."""
    return f"{boot} - {service} {kind} {status} -- 0 agent - - {block} - - 5 - - - -".encode()


def refusal_line(service: str, kind: str = "auth", status: int = 401, *, boot: str = "a-1") -> bytes:
    """Return the line of a request that the edge refused before it had an arm."""
    return f"{boot} - {service} {kind} {status} LR 0 <NOSRV> - - 100 - - 5 - - - -".encode()
