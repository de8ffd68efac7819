"""The sections for the whole process, and the defaults of all others."""

from sundog_edge.haproxy.names import STICK_COUNTERS
from sundog_edge.haproxy.problems import RETRY, render_problem
from sundog_edge.haproxy.rules import compression, memory_limits
from sundog_edge.state_dir import HaproxyProcessSettings

# Ciphers of TLS 1.2 with forward secrecy and authenticated encryption; every cipher of TLS 1.3 has both.
CIPHERS = ":".join(
    f"ECDHE-{signature}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for signature in ("ECDSA", "RSA")
)


def render_global(settings: HaproxyProcessSettings, drain_s: int = 0) -> str:
    """Return `global`: limits of the process. `drain_s`: least seconds for the requests of a replaced worker."""
    # A container's limit of open files can be a thousand times too high, and HAProxy allocates memory for all of it.
    connections = f"maxconn {settings.max_connections}" if settings.max_connections else "fd-hard-limit 65536"
    return f"""global
    {connections}
    nbthread {settings.threads}
    hard-stop-after {max(settings.drain_seconds, drain_s)}s
    tune.stick-counters {STICK_COUNTERS}
{memory_limits.limits(settings)}\
{compression.limits(settings)}\
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
    ssl-default-bind-ciphers {CIPHERS}
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256
"""


def render_defaults(settings: HaproxyProcessSettings) -> str:
    """Return `defaults base`: timeouts, and HAProxy's own errors as problem documents."""
    errors = (
        render_problem(400, "Bad Request", "the request is not valid HTTP"),
        render_problem(408, "Request Timeout", "the request did not arrive in time"),
        render_problem(500, "Internal Server Error", "the edge failed"),
        render_problem(502, "Bad Gateway", "the replica gave no valid answer"),
        render_problem(503, "Service Unavailable", "no replica is available", RETRY, "NoReplica"),
        render_problem(504, "Gateway Timeout", "the replica did not answer in time", code="DeadlineExceeded"),
    )
    lines = "\n".join(f"    http-error {error}" for error in errors)
    # `timeout connect`: a lost first packet is sent again after a second. With a timeout of 1 s, one lost packet would take a replica down.
    # `http-no-delay`: without it, the kernel delays each piece of a stream by 200 ms, to fill a packet.
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
