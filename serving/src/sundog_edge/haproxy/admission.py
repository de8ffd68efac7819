"""Whether a request is let in, and what is taken from it before a replica sees it."""

from sundog_edge.haproxy.problems import problem


def rules() -> str:
    """Refuse what the service does not take."""
    sized = problem(413, "Content Too Large", "the request body is larger than this service takes")
    return f"""    http-request set-var(txn.limit) var(txn.split),field(5,|)
    http-request return {sized} if {{ req.hdr_val(content-length),sub(txn.limit) gt 0 }}
"""


def headers() -> str:
    """Take away what only the edge may say to a replica, and say it."""
    return """    http-request del-header x-sundog- -m beg
    http-request del-header x-request-disconnect-disabled
    http-request del-header serve_multiplexed_model_id
    http-request set-header x-request-timeout-seconds %[var(txn.split),field(4,|)]
"""
