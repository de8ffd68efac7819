"""Names that HAProxy's configuration, its maps and those who read its tables and lines agree on."""

BOOT_VARIABLE = "SUNDOG_EDGE_BOOT"
LOG_VARIABLE = "SUNDOG_EDGE_LOG_FD"
ALL_REQUESTS = "all"
FALLBACK = "fallback"
GRPC = "-grpc"
"""What is added to a slot's name for the backend that reaches the same replicas by gRPC."""

ROWS_TABLE = "rows"
MAX_ROWS = 20_000
BLOCKS_TABLE = "blocks"
MAX_BLOCKS = 50_000

STICK_COUNTERS = 6
"""0 row, 1 all requests, 2 block, 3 client, 4 service, 5 source address."""
