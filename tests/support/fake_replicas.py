"""Replicas that cost almost nothing, and a Serve that lists them, so that a benchmark measures the edge alone.

One HAProxy on one thread acts as all replicas: each of its ports answers as the application of that port. Applications whose names begin
with `working` take 5 ms per request. Those with `hanging` or `crashing` are healthy, but never answer or close their connections.
"""

import contextlib
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from measuring.processes import running
from ports import free_ports
from sundog_edge.haproxy import program

_CONFIG = """
global
    nbthread 1
    maxconn 4000
    lua-load {script}
defaults
    mode http
    timeout client 300s
    timeout server 300s
    timeout connect 1s
    timeout tarpit 300s
frontend replicas
{binds}
    http-request return status 200 content-type application/json lf-string "{{\\"%[dst_port,map({prefixes})]\\":\\"\\"}}" \
if {{ path /-/routes }}
    http-request lua.work if {{ dst_port,map({prefixes}) -m beg /working }}
    http-request tarpit if {{ dst_port,map({prefixes}) -m beg /hanging }}
    http-request reject if {{ dst_port,map({prefixes}) -m beg /crashing }}
    http-request return status 200 content-type application/json string "{{\\"outputs\\":[[0.5,0.5]]}}"
"""


_WORK = """
core.register_action("work", {"http-req"}, function(_) core.msleep(5) end)
"""


def prefix(application: str) -> str:
    """Return the route prefix of an application."""
    return f"/{application}.app"


@contextlib.contextmanager
def replicas(counts: Mapping[str, int]) -> Iterator[dict[str, list[int]]]:
    """Ports of running stand-ins, by application."""
    folder = Path(tempfile.mkdtemp(prefix="sds-"))
    free = iter(free_ports(sum(counts.values())))
    ports = {application: [next(free) for _ in range(count)] for application, count in counts.items()}
    prefixes = folder / "prefixes.map"
    prefixes.write_text("".join(f"{port} {prefix(name)}\n" for name, own in ports.items() for port in own))
    binds = "\n".join(f"    bind 127.0.0.1:{port}" for own in ports.values() for port in own)
    script, config = folder / "work.lua", folder / "haproxy.cfg"
    script.write_text(_WORK)
    config.write_text(_CONFIG.format(binds=binds, prefixes=prefixes, script=script))
    try:
        with running([str(program.find_haproxy()), "-f", str(config)], folder / "log"):
            yield ports
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def serve_naming(ports: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Yield the URL of a Serve REST API that lists these replicas."""
    groups = [
        {
            "app_name": name,
            "route_prefix": prefix(name),
            "protocol": "HTTP",
            "targets": [{"ip": "127.0.0.1", "port": port, "name": f"r-{port}"} for port in own],
        }
        for name, own in ports.items()
    ]
    body = json.dumps({"target_groups": groups, "applications": {}}).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
