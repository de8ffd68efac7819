"""A request's id: the client's if it is well-formed, else one of the edge's own, told to the replica and to the client."""


def rules() -> str:
    """Set `txn.requestid` and the header."""
    return """    http-request set-var(txn.requestid) req.fhdr(x-request-id,1)
    http-request set-var(txn.requestid) uuid() unless { var(txn.requestid) -m reg ^[A-Za-z0-9._:-]{1,128}$ }
    http-request set-header x-request-id %[var(txn.requestid)]
    http-after-response set-header x-request-id %[var(txn.requestid)] if { var(txn.requestid) -m found }
"""
