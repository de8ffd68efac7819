"""Set a request's id: the client's if it is well-formed, otherwise a new one. The replica and the client get it."""

from sundog_edge.headers import REQUEST_ID

HAS_CLIENT_ID = "{ var(txn.named) -m bool }"
"""Whether the id is the client's, which may repeat it."""


def rules() -> str:
    """Return rules that set `txn.requestid`, `txn.named` and the header."""
    return f"""    http-request set-var(txn.requestid) req.fhdr({REQUEST_ID},1)
    http-request set-var(txn.named) bool(true) if {{ var(txn.requestid) -m reg ^[A-Za-z0-9._:-]{{1,128}}$ }}
    http-request set-var(txn.requestid) uuid() unless {HAS_CLIENT_ID}
    http-request set-header {REQUEST_ID} %[var(txn.requestid)]
    http-after-response set-header {REQUEST_ID} %[var(txn.requestid)] if {{ var(txn.requestid) -m found }}
"""
