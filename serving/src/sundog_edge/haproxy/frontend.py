"""The frontend: the order of the rules for every request."""

from sundog_edge.haproxy import log_line
from sundog_edge.haproxy.names import ALL_REQUESTS, ROWS_TABLE
from sundog_edge.haproxy.rules import (
    admission,
    assignment,
    client_address,
    cold_start,
    cors,
    drain,
    feedback,
    grpc,
    handover,
    memory_limits,
    ofrep,
    probes,
    request_id,
    routing,
    shadow,
)
from sundog_edge.split.layout import Layout
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir


def render_frontend(settings: HaproxyProcessSettings, layout: Layout, state: StateDir) -> str:
    """Return the section of the frontend."""
    # HAProxy detects HTTP/2: without TLS by its preface, with TLS by ALPN.
    https = f"    bind {settings.https_bind} ssl crt-list {state.certificate_list} alpn h2,http/1.1\n"
    return f"""frontend edge from base
    bind {settings.http_bind}
{https if settings.https_bind else ""}\
{handover.bind(state)}\
{admission.connection_limit(settings)}\
{client_address.rules(settings)}\
{memory_limits.rules(settings)}\
{log_line.render_log_format()}\
{shadow.log_target(state) if layout.shadow else ""}\
{handover.rules(state)}\
{request_id.rules()}\
{routing.service_name(state)}\
{memory_limits.refuse_large_headers(settings)}\
{cors.rules(state) if layout.cors else ""}\
{grpc.refuse_unsupported()}\
{admission.expect_continue(state)}\
{memory_limits.wait_for_body(settings)}\
    http-request set-var(txn.received) date(0,us)
    http-request track-sc1 str({ALL_REQUESTS}) table {ROWS_TABLE}
    http-request sc-inc-gpc0(1)
{routing.rules(state)}\
{feedback.route_rules()}\
{ofrep.route_rules()}\
{probes.rules()}\
{admission.rules(state)}\
{assignment.unit_rules(layout, state)}\
{ofrep.admit()}\
{admission.header_rules()}\
{assignment.arm_rules(state)}\
{handover.use_backend(state)}\
{drain.use_backend()}\
{feedback.use_backend()}\
{ofrep.use_backend()}\
{cold_start.use_calls_backend(state)}\
{grpc.use_backend(layout)}\
    use_backend %[var(txn.arm),field(1,!)]
    default_backend none
"""
