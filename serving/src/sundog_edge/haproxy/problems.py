"""Answers of the edge itself: RFC 9457 problem details for HTTP, a status without a body for gRPC, as HAProxy writes them."""

import json

IS_GRPC = "{ var(txn.grpc) -m bool }"
"""Whether a request is a call by gRPC."""

_SHOWN_BYTES = 64
"""Of what a client sent, in the answer to it."""

_GRPC_STATUS = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    405: 12,
    408: 4,
    413: 8,
    415: 12,
    429: 8,
    500: 13,
    501: 12,
    502: 14,
    503: 14,
    504: 4,
}
"""By HTTP status. A gRPC client prefers it, but gives up on an answer that has a body, too."""


def json_excerpt(fetch: str) -> str:
    """What a client sent, in the detail of a problem document: its beginning, escaped."""
    return f"'%[{fetch},bytes(0,{_SHOWN_BYTES}),json(utf8s)]'"


def header_excerpt(fetch: str) -> str:
    """The same in that of a call, which is a header field and may have escapes by percent."""
    return f"'%[{fetch},bytes(0,{_SHOWN_BYTES}),url_enc]'"


def render_problem(status: int, title: str, detail: str, extra: str = "", code: str = "") -> str:
    """The arguments of `http-error` or `http-request return` for a problem document; `extra` holds further header fields.

    It has the members that those of the model server have: `code`, the title as one word unless told, and `requestId`, empty where the
    request was refused before it could have one. `error` is what clients of the Open Inference Protocol read.
    """
    members = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code or title.replace(" ", ""),
        # What an id may hold needs no escape in JSON.
        "requestId": "%[var(txn.requestid)]",
        "error": detail,
    }
    body = json.dumps(members, separators=(",", ":")).replace('"', '\\"')
    return f'status {status} content-type application/problem+json lf-string "{body}"{extra}'


def render_grpc_problem(status: int, detail: str, extra: str = "") -> str:
    """The same for gRPC. The HTTP status stays, for it tells in the log what was refused."""
    return f'status {status} hdr grpc-status {_GRPC_STATUS[status]} hdr grpc-message "{detail}"{extra}'


def render_refusal(
    status: int, title: str, detail: str, condition: str, extra: str = "", code: str = "", call: str = ""
) -> str:
    """Rules that refuse a request to which `condition` applies, in the form that its client understands.

    `call` is the detail for callers by gRPC, where it is another one.
    """
    return f"""    http-request return {render_grpc_problem(status, call or detail, extra)} if {IS_GRPC} {condition}
    http-request return {render_problem(status, title, detail, extra, code)} if {condition}
"""
