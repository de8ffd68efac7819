"""Render HAProxy's configuration. Pure: settings and layout in, text out.

A request passes these steps:

1. HAProxy finds its service by host, otherwise by the first path segment.
2. One look-up in `splits` gives salt, unit, limits and the range table; one look-up in that table gives the arm. So arm, epoch, attempt,
   application and slow thresholds always belong together.
3. The slot's backend counts the choice, rewrites the path and chooses a replica.
"""

from sundog_edge.haproxy import backends
from sundog_edge.haproxy.frontend import render_frontend
from sundog_edge.haproxy.global_section import render_defaults, render_global
from sundog_edge.haproxy.names import GRPC_SUFFIX
from sundog_edge.haproxy.rules import admission, drain, feedback, handover, memory_limits, ofrep, shadow
from sundog_edge.split.layout import Layout, SlotServer, slot_names
from sundog_edge.split.policies import DEFAULT_WAIT_MS
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir


def render_config(settings: HaproxyProcessSettings, layout: Layout, state: StateDir) -> str:
    """Return the whole configuration."""
    slots = slot_names(layout.slots)
    grpc_slots = [slot + GRPC_SUFFIX for slot in slots] if layout.grpc else []
    by_slot: dict[str, list[SlotServer]] = {slot: [] for slot in (*slots, *grpc_slots)}
    for server in sorted(layout.servers):
        by_slot.get(server.slot, []).append(server)
    waits = dict(layout.waits)
    parts = [
        render_global(settings, layout.drain_s),
        render_defaults(settings),
        render_frontend(settings, layout, state),
        backends.render_tables(),
        *([shadow.table()] if layout.shadow else []),
        handover.backends(state),
        memory_limits.table(),
        admission.backends(layout, state),
        feedback.backends(state),
        ofrep.backends(state),
        drain.backend(state),
        backends.render_cold_calls(state),
        backends.render_arm_defaults(state, shadowed=layout.shadow, compressed=layout.compression),
        *([backends.render_grpc_defaults(state, shadowed=layout.shadow)] if layout.grpc else []),
        *(
            backends.render_slot(name, waits.get(name.removesuffix(GRPC_SUFFIX), DEFAULT_WAIT_MS), servers)
            for name, servers in by_slot.items()
        ),
    ]
    return "\n".join(parts)
