"""Names that HAProxy's configuration, its maps, and the readers of its tables and lines share."""

BOOT_VARIABLE = "SUNDOG_EDGE_BOOT"
LOG_VARIABLE = "SUNDOG_EDGE_LOG_FD"
ALL_REQUESTS = "all"
FALLBACK_PREFIX = "fallback"
STICKY_UNIT = "sticky"
ASSIGNED_ORIGIN = "assigned"
OVERRIDE_ORIGIN = "override"
"""Origin of requests whose arm was chosen by their caller or by their headers."""

PROBE_ORIGIN = "probe"
"""Origin of requests that the model server answers without its model."""

HELD_ORIGIN = "held"
"""Origin of requests that waited for a replica while their application was scaled to zero."""

GRPC_SUFFIX = "-grpc"
"""Suffix of a slot's name for the backend that reaches the same replicas by gRPC."""

HAS_POLICY = "{ var(txn.policy) -m found }"
"""Condition: whether the service has a policy."""

IS_HELD = "{ var(txn.held) -m found }"
"""Condition: whether the request's application is scaled to zero. The variable is the request's time in milliseconds."""

ROWS_TABLE = "rows"
MAX_ROWS = 20_000
BLOCKS_TABLE = "blocks"
MAX_BLOCKS = 50_000
MIRRORED_TABLE = "mirrored"

CLIENT_ADDRESS = "src,ipmask(32,64)"
"""The client of a request. Of IPv6 the first 64 bits, because a client has all addresses below them."""

FATAL_TABLE = "fatal"
"""Table of the ids of requests that ended a replica."""

STICK_COUNTERS = 9
"""0 row, 1 all requests, 2 block, 3 client, 4 service, 5 source address, 6 mirrored requests, 7 requests of an address, 8 request id."""
