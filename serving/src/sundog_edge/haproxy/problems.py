"""The edge's own answers, as HAProxy rules: RFC 9457 problem details for HTTP, a status without a body for gRPC."""

import json

from sundog_edge import headers

IS_GRPC = "{ var(txn.grpc) -m bool }"
"""Whether a request is a gRPC call."""

RETRY = f" hdr {headers.RETRY_AFTER} 1"
"""Further header field of a refusal after which a client may try again soon."""

_EXCERPT_BYTES = 64
"""Bytes of client input that an answer repeats."""

_GRPC_STATUS = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    405: 12,
    408: 4,
    413: 8,
    414: 3,
    415: 12,
    429: 8,
    431: 8,
    500: 13,
    501: 12,
    502: 14,
    503: 14,
    504: 4,
}
"""gRPC status by HTTP status. gRPC clients prefer it, but reject an answer that also has a body."""


def json_excerpt(fetch: str) -> str:
    """Return a rule's text for the start of client input in a problem document, escaped."""
    return f"'%[{fetch},bytes(0,{_EXCERPT_BYTES}),json(utf8s)]'"


def header_excerpt(fetch: str) -> str:
    """Return the same for a gRPC message, which is a header field with percent escapes."""
    return f"'%[{fetch},bytes(0,{_EXCERPT_BYTES}),url_enc]'"


def render_problem(status: int, title: str, detail: str, extra: str = "", code: str = "") -> str:
    """Return the arguments of `http-error` or `http-request return` for a problem document. `extra`: further header fields.

    Members are the same as in the model server's problem documents. `code` is the title as one word by default. `requestId` is empty if the
    request was refused before it had an id. Clients of the Open Inference Protocol read `error`.
    """
    members = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code or title.replace(" ", ""),
        # No character of an id needs an escape in JSON.
        "requestId": "%[var(txn.requestid)]",
        "error": detail,
    }
    body = json.dumps(members, separators=(",", ":")).replace('"', '\\"')
    return f'status {status} content-type application/problem+json lf-string "{body}"{extra}'


def render_grpc_problem(status: int, detail: str, extra: str = "") -> str:
    """Return the same for gRPC. The HTTP status stays, because it shows the refusal in the log."""
    statuses = f"status {status} hdr {headers.GRPC_STATUS} {_GRPC_STATUS[status]}"
    return f'{statuses} hdr {headers.GRPC_MESSAGE} "{detail}"{extra}'


def render_refusal(
    status: int, title: str, detail: str, condition: str, extra: str = "", code: str = "", call: str = ""
) -> str:
    """Return rules that refuse requests under `condition`, in the form for their clients.

    `call` is the detail for gRPC callers, if it differs.
    """
    return f"""    http-request return {render_grpc_problem(status, call or detail, extra)} if {IS_GRPC} {condition}
    http-request return {render_problem(status, title, detail, extra, code)} if {condition}
"""
