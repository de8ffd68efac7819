"""Names that HAProxy's configuration, its maps and those who read its tables and lines agree on."""

BOOT_VARIABLE = "SUNDOG_EDGE_BOOT"
LOG_VARIABLE = "SUNDOG_EDGE_LOG_FD"
ALL_REQUESTS = "all"
FALLBACK_PREFIX = "fallback"
PROBE_ORIGIN = "probe"
"""The origin of requests that the model server answers without its model."""

GRPC_SUFFIX = "-grpc"
"""What is added to a slot's name for the backend that reaches the same replicas by gRPC."""

ROWS_TABLE = "rows"
MAX_ROWS = 20_000
BLOCKS_TABLE = "blocks"
MAX_BLOCKS = 50_000
MIRRORED_TABLE = "mirrored"

CLIENT_ADDRESS = "src,ipmask(32,64)"
"""Whose a connection is; of IPv6 the first 64 bits, of which one client has all that follows."""

FATAL_TABLE = "fatal"
"""Ids of requests that replicas died of."""

STICK_COUNTERS = 9
"""0 row, 1 all requests, 2 block, 3 client, 4 service, 5 source address, 6 what is mirrored, 7 requests of a source address, 8 id of a
request.
"""
