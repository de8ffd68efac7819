"""The process as a whole, and what every section inherits."""

from sundog_edge.haproxy.names import STICK_COUNTERS
from sundog_edge.haproxy.problems import render_problem
from sundog_edge.haproxy.rules import compression, memory_limits
from sundog_edge.state_dir import HaproxyProcessSettings

# Of TLS 1.2, what has forward secrecy and authenticated encryption; every cipher of TLS 1.3 has both.
CIPHERS = ":".join(
    f"ECDHE-{signature}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for signature in ("ECDSA", "RSA")
)


def render_global(settings: HaproxyProcessSettings, drain_s: int = 0) -> str:
    """`global`: what the process may use. `drain_s`: the least seconds for the requests of a worker that leaves."""
    # The limit of open files of a container can be a thousand times what is needed, and HAProxy allocates for all of it.
    connections = f"maxconn {settings.max_connections}" if settings.max_connections else "fd-hard-limit 65536"
    return f"""global
    {connections}
    nbthread {settings.threads}
    hard-stop-after {max(settings.drain_seconds, drain_s)}s
    tune.bufsize {settings.buffer_bytes}
    tune.maxrewrite 1024
    tune.http.maxhdr 101
    tune.stick-counters {STICK_COUNTERS}
{memory_limits.limits(settings)}\
{compression.limits(settings)}\
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
    ssl-default-bind-ciphers {CIPHERS}
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256
"""


def render_defaults(settings: HaproxyProcessSettings) -> str:
    """`defaults base`: timeouts, and HAProxy's own errors as problem documents."""
    errors = (
        render_problem(400, "Bad Request", "the request is not valid HTTP, or its headers are too large"),
        render_problem(408, "Request Timeout", "the request did not arrive in time"),
        render_problem(500, "Internal Server Error", "the edge failed"),
        render_problem(502, "Bad Gateway", "the replica gave no valid answer"),
        render_problem(503, "Service Unavailable", "no replica is available", " hdr Retry-After 1", "NoReplica"),
        render_problem(504, "Gateway Timeout", "the replica did not answer in time", code="DeadlineExceeded"),
    )
    lines = "\n".join(f"    http-error {error}" for error in errors)
    # A first packet that was lost is sent again after a second: with no more patience than that one lost packet is a replica that is down.
    # `http-no-delay`: the kernel would hold back each piece of a stream for 200 ms, in case that more comes to fill its packet.
    return f"""defaults base
    mode http
    timeout connect 2s
    timeout client {settings.client_seconds}s
    timeout server 60s
    timeout http-request {settings.request_seconds}s
    timeout http-keep-alive 60s
    option http-no-delay
    option dontlognull
    option abortonclose
    option idle-close-on-response
{lines}
"""
