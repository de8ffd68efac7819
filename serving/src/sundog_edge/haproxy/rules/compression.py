"""Compressed answers: JSON by gzip, where the service offers it and the client asks. The rules come with the first such service.

HAProxy compresses what it forwards, and decides by the request's `accept-encoding`, so the other services of a namespace lose that header.
It leaves alone answers to HEAD and HTTP/1.0, errors, and what a replica has compressed. Streams and gRPC have other types.
"""

from sundog_edge.state_dir import HaproxyProcessSettings

_OFFERED = "{ var(txn.flags) -m sub z }"
_MEMORY_PART = 16
"""Of HAProxy's memory, what compression may use. An answer for which nothing is left is sent as it is."""


def limits(settings: HaproxyProcessSettings) -> str:
    """Line of `global`."""
    return f"    maxzlibmem {max(1, settings.memory_bytes // _MEMORY_PART >> 20)}\n"


def rules() -> str:
    """Lines of the defaults of arms. `vary` is for caches that keep an answer as it was; HAProxy marks those that it compresses itself."""
    return f"""    compression algo gzip
    compression type application/json
    http-request del-header accept-encoding unless {_OFFERED}
    http-response add-header vary accept-encoding if {_OFFERED} {{ res.hdr(content-type) -m beg application/json }}
"""
