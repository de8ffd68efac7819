"""The command `sundog-edge`: `haproxy` becomes HAProxy, `agent` runs beside it. Neither ends the other."""

import asyncio
import logging
import os
import signal
import time
import uuid
from dataclasses import replace
from pathlib import Path

import click

from sundog_edge import memory_limit
from sundog_edge.counting.log_pipe import open_for_haproxy
from sundog_edge.errors import EdgeError
from sundog_edge.haproxy import program as haproxy_program
from sundog_edge.haproxy.config import render_config
from sundog_edge.haproxy.names import BOOT_VARIABLE, LOG_VARIABLE
from sundog_edge.security import certificate_sync
from sundog_edge.split.apply import check_config, ensure_map_files
from sundog_edge.split.layout import Layout
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir, read_json, write_atomically

_STATE_DIR = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Shared by HAProxy and the agent.",
)

_LOOK_S = 0.2


@click.group()
def main() -> None:
    """The edge of one namespace: HAProxy and its agent."""


@main.command()
@_STATE_DIR
@click.option("--http-bind", default="127.0.0.1:8080", show_default=True, help="Where clients connect, ADDRESS:PORT.")
@click.option("--https-bind", default="", help="Where clients connect with TLS, ADDRESS:PORT; empty is nowhere.")
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Of HAProxy. With more of them it drops a request's line now and then: that request is counted as lost.",
)
@click.option("--max-connections", type=click.IntRange(0), default=0, show_default=True, help="0: as files allow.")
@click.option(
    "--drain-seconds",
    type=click.IntRange(1),
    default=120,
    show_default=True,
    help="Least deadline of a worker that leaves; longer where a request may take longer.",
)
@click.option(
    "--request-seconds",
    type=click.IntRange(1),
    default=15,
    show_default=True,
    help="For a request's headers, and its body up to the size of a buffer, to come.",
)
@click.option(
    "--client-seconds", type=click.IntRange(1), default=30, show_default=True, help="Longest silence of a client."
)
@click.option(
    "--source-connections",
    type=click.IntRange(0),
    default=8192,
    show_default=True,
    help="Most connections, and most requests, of one client address at once; 0 is no limit.",
)
@click.option(
    "--buffer-bytes",
    type=click.IntRange(16_384, 1 << 20),
    default=16_384,
    show_default=True,
    help="Largest request, with its headers, that is retried and searched for a unit; two such buffers per connection.",
)
def haproxy(
    state_dir: Path,
    http_bind: str,
    https_bind: str,
    threads: int,
    max_connections: int,
    drain_seconds: int,
    request_seconds: int,
    client_seconds: int,
    source_connections: int,
    buffer_bytes: int,
) -> None:
    """Become HAProxy, with the last good layout and maps of the state directory."""
    try:
        state = StateDir.at(state_dir)
        program = haproxy_program.find_haproxy()
        settings = HaproxyProcessSettings(
            http_bind=http_bind,
            https_bind=https_bind,
            threads=threads,
            max_connections=max_connections,
            drain_seconds=drain_seconds,
            request_seconds=request_seconds,
            client_seconds=client_seconds,
            source_connections=source_connections,
            buffer_bytes=buffer_bytes,
            memory_bytes=memory_limit.memory_limit_bytes(),
        )
        prepare(state, settings)
    except EdgeError as error:
        raise click.ClickException(str(error)) from None
    os.environ[BOOT_VARIABLE] = uuid.uuid4().hex[:8]
    os.environ[LOG_VARIABLE] = str(open_for_haproxy(state.log_pipe))
    os.execv(program, [program, "-W", "-S", f"{state.master_socket},mode,600,level,admin", "-f", str(state.config)])  # noqa: S606


def prepare(state: StateDir, settings: HaproxyProcessSettings) -> None:
    """Write the configuration for the layout of the state directory, checked by HAProxy itself."""
    ensure_map_files(state)
    certificate_sync.ensure_files(state)
    stored = read_json(state.layout)
    layout = Layout() if stored is None else Layout.from_json(stored)
    # A public key whose file is gone only makes its tokens unknown; without this HAProxy would not start.
    there = tuple(file for file in layout.public_keys if state.public_key(file).exists())
    text = render_config(settings, replace(layout, public_keys=there), state)
    asyncio.run(check_config(text, state))
    write_atomically(state.config, text.encode())
    settings.save(state)


@main.command()
@click.option("--pid", type=click.IntRange(1), default=1, show_default=True, help="HAProxy's; in its container, 1.")
@click.option(
    "--delay-seconds", type=click.FloatRange(0), default=5.0, show_default=True, help="Until no client comes any more."
)
def drain(pid: int, delay_seconds: float) -> None:
    """Let HAProxy finish what it has and end. For a container's preStop hook: returns when HAProxy is gone.

    For the delay it goes on as ever, for clients learn only by and by that this edge is leaving.
    """
    time.sleep(delay_seconds)
    try:
        os.kill(pid, signal.SIGUSR1)
        while True:
            time.sleep(_LOOK_S)
            os.kill(pid, 0)
    except ProcessLookupError:
        return
    except PermissionError:
        raise click.ClickException(f"--pid {pid} belongs to another user") from None


@main.command()
@_STATE_DIR
@click.option("--split", type=click.Path(path_type=Path), default=None, help="The split document; may appear later.")
@click.option(
    "--config-map", default="", help="Instead of --split: the ConfigMap with the document, and the Secret beside it."
)
@click.option("--listen", default="127.0.0.1:8081", show_default=True, help="Where evidence and health are served.")
@click.option("--edge-name", required=True, help="The name of this edge in its evidence, such as the pod's.")
@click.option("--namespace", required=True)
@click.option("--ray-token-file", type=click.Path(path_type=Path), default=None, help="Token for Serve's REST API.")
@click.option(
    "--secrets-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Secrets that services name, as DIR/<secret>/<key>.",
)
@click.option(
    "--settle-seconds",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="How long to look for replicas before being ready without them.",
)
@click.option(
    "--linger-seconds",
    type=click.FloatRange(0),
    default=None,
    help="On SIGTERM, go on until HAProxy has ended and this long after.",
)
@click.option(
    "--signing-key",
    type=click.Path(path_type=Path),
    default=None,
    help="File with the key that exposures are signed with, in hexadecimal; of two lines the first is newer.",
)
@click.option("--store", default="", help="Where feedback is kept: sqlite:///PATH or redis://HOST:PORT.")
@click.option("--store-password-file", type=click.Path(path_type=Path), default=None, help="Password of that server.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning"]), default="info", show_default=True)
def agent(
    state_dir: Path,
    split: Path | None,
    config_map: str,
    listen: str,
    edge_name: str,
    namespace: str,
    ray_token_file: Path | None,
    secrets_dir: Path | None,
    settle_seconds: float,
    linger_seconds: float | None,
    signing_key: Path | None,
    store: str,
    store_password_file: Path | None,
    log_level: str,
) -> None:
    """Run the agent until SIGTERM or SIGINT."""
    if (split is None) == (not config_map):
        raise click.UsageError("exactly one of --split FILE and --config-map NAME is needed")
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    # HAProxy is to be back at once when it was killed, and needs none of what the agent is made of.
    from sundog_edge.agent.run import run

    try:
        state = StateDir.at(state_dir)
        run(
            state,
            split,
            config_map,
            edge_name,
            namespace,
            address=(host, int(port)),
            ray_token_file=ray_token_file,
            secrets_dir=secrets_dir,
            settle_seconds=settle_seconds,
            linger_seconds=linger_seconds,
            signing_key=signing_key,
            store=store,
            store_password_file=store_password_file,
        )
    except EdgeError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"--listen {listen}: {error.strerror}") from None


if __name__ == "__main__":
    main()
