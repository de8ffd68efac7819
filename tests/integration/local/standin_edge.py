"""Stands in for the edge's command line where only its supervision is tested: two processes that listen and answer.

`haproxy` answers every path with its pid. `agent` answers /readyz, with 200 only while `haproxy` listens, /split with the
split document, /kept with the key that it was given and one line for each of its starts, which are in its store, and everything else
with its pid. Either ends with status 3 and last words when a file says so.
"""

import http.server
import os
import socket
import sys
from pathlib import Path


def main() -> None:
    role = sys.argv[1]
    options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[2:])
    state = Path(options["state-dir"])
    state.mkdir(exist_ok=True)
    if (state / f"fail-{role}").exists():
        sys.stdout.write("no room\nleft on device\n")
        sys.exit(3)
    if role == "agent":
        with store(options).open("a") as file:
            file.write("started\n")
    address = options["http-bind"] if role == "haproxy" else options["listen"]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready = self.path != "/readyz" or listens(state / "address")
            body = str(os.getpid()).encode()
            if self.path == "/split":
                body = Path(options["split"]).read_bytes()
            elif self.path == "/kept":
                body = b"\n".join(path.read_bytes() for path in (Path(options["signing-key"]), store(options)))
            self.send_response(200 if ready else 503)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    host, port = address.split(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), Handler)
    if role == "haproxy":
        (state / "address").write_text(port)
    server.serve_forever()


def store(options: dict[str, str]) -> Path:
    """The file that an agent keeps outcomes in."""
    return Path(options["store"].removeprefix("sqlite://"))


def listens(address: Path) -> bool:
    """Whether the port in a file has a server."""
    try:
        with socket.create_connection(("127.0.0.1", int(address.read_text())), timeout=2):
            return True
    except (OSError, ValueError):
        return False


main()
