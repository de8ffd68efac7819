"""Answers of the edge itself: RFC 9457 problem details as HAProxy writes them."""


def problem(status: int, title: str, detail: str, extra: str = "") -> str:
    """The arguments of `http-error` or `http-request return` for a problem document; `extra` holds further header fields."""
    body = (
        f'{{\\"type\\":\\"about:blank\\",\\"title\\":\\"{title}\\",\\"status\\":{status},\\"detail\\":\\"{detail}\\"}}'
    )
    return f'status {status} content-type application/problem+json string "{body}"{extra}'
