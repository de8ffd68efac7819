"""Names of the HTTP headers that the edge reads or writes, gRPC metadata included, as it spells them. HTTP ignores their case.

The runtime has names of its own for the headers between an edge and a replica; `contract/headers/test_names.py` compares them.
"""

# Answers to clients.
REQUEST_ID = "x-request-id"
"""In a request too, from clients and for replicas."""

REVISION = "x-sundog-revision"
ARM = "x-sundog-arm"
"""In a look-up, for the agent: the arm that an override or a match gives to a request with these headers by this caller."""

EXPOSURE = "x-sundog-exposure"
"""The id of an exposure, which `sundog_edge.feedback.exposure` reads."""

# Between an edge and a replica.
TIMEOUT = "x-sundog-timeout-seconds"
SERVE_TIMEOUT = "x-request-timeout-seconds"
DISCONNECT_DISABLED = "x-request-disconnect-disabled"
"""`?1`: Ray Serve does not watch for the end of the client's connection; the model server does."""

SHADOW = "x-sundog-shadow"
OUTCOME = "x-sundog-outcome"
"""`invalid` in an answer that reports an unusable output of the model."""

JSON_LENGTH = "inference-header-content-length"
APPLICATION = "application"
"""The application of a gRPC call, for Ray Serve."""

# Inside of an edge.
SERVICE = "x-sundog-service"
"""The service of a request, for the agent."""

TLS = "x-sundog-tls"
"""The client has TLS, for a worker that gets the request from its predecessor."""

SUNDOG_PREFIX = "x-sundog-"
"""Headers that only an edge or a replica may set."""

# Of HTTP, with CORS.
ACCEPT = "accept"
ACCEPT_ENCODING = "accept-encoding"
ALLOW = "Allow"
API_KEY = "x-api-key"
AUTHORIZATION = "authorization"
CONNECTION = "connection"
CONTENT_LENGTH = "content-length"
CONTENT_TYPE = "content-type"
COOKIE = "cookie"
ETAG = "etag"
EXPECT = "expect"
HOST = "host"
IF_NONE_MATCH = "if-none-match"
ORIGIN = "origin"
PROXY_PREFIX = "proxy-"
RETRY_AFTER = "Retry-After"
SERVER = "server"
SET_COOKIE = "set-cookie"
TE = "te"
TRAILER = "trailer"
TRANSFER_ENCODING = "transfer-encoding"
UPGRADE = "upgrade"
VARY = "vary"
X_FORWARDED_FOR = "x-forwarded-for"
WWW_AUTHENTICATE = "WWW-Authenticate"
CORS_PREFIX = "access-control-"
CORS_ALLOW_CREDENTIALS = "access-control-allow-credentials"
CORS_ALLOW_HEADERS = "access-control-allow-headers"
CORS_ALLOW_METHODS = "access-control-allow-methods"
CORS_ALLOW_ORIGIN = "access-control-allow-origin"
CORS_EXPOSE_HEADERS = "access-control-expose-headers"
CORS_MAX_AGE = "access-control-max-age"
CORS_REQUEST_METHOD = "access-control-request-method"

# Of gRPC.
GRPC_SERVICE = "sundog-service"
"""Metadata that names the service if the authority does not."""

GRPC_ACCEPT_ENCODING = "grpc-accept-encoding"
GRPC_ENCODING = "grpc-encoding"
GRPC_MESSAGE = "grpc-message"
GRPC_STATUS = "grpc-status"
GRPC_TIMEOUT = "grpc-timeout"
GRPC_PUSHBACK = "grpc-retry-pushback-ms"
GRPC_INTERNAL_PREFIX = "grpc-internal-"
GRPC_LIBRARIES = "^(grpc-(previous-rpc-attempts|retry-pushback-ms|status)|lb-cost-bin)$"
"""Pattern of metadata between gRPC libraries."""
