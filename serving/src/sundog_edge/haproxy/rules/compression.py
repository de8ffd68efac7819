"""Compress answers: JSON by gzip, if the service offers it and the client accepts it. The rules come with the first such service.

HAProxy decides by the request's `accept-encoding`, so rules remove that header for the other services of a namespace. HAProxy does not
compress answers to HEAD and HTTP/1.0, errors, and already compressed answers. Streams and gRPC have other content types.
"""

from sundog_edge import headers
from sundog_edge.state_dir import HaproxyProcessSettings

_IS_OFFERED = "{ var(txn.flags) -m sub z }"
_MEMORY_PART = 16
"""Compression may use this part of HAProxy's memory. Without free memory, an answer is not compressed."""


def limits(settings: HaproxyProcessSettings) -> str:
    """Return the line of `global`."""
    return f"    maxzlibmem {max(1, settings.memory_bytes // _MEMORY_PART >> 20)}\n"


def rules() -> str:
    """Return lines for the defaults of arms. `vary` is for caches of uncompressed answers; HAProxy adds it to those that it compresses."""
    is_json = f"{{ res.hdr({headers.CONTENT_TYPE}) -m beg application/json }}"
    return f"""    compression algo gzip
    compression type application/json
    http-request del-header {headers.ACCEPT_ENCODING} unless {_IS_OFFERED}
    http-response add-header {headers.VARY} {headers.ACCEPT_ENCODING} if {_IS_OFFERED} {is_json}
"""
