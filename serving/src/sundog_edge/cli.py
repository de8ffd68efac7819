"""The command `sundog-edge`: `haproxy` starts HAProxy, `agent` runs beside it. Neither ends the other."""

import asyncio
import contextlib
import ipaddress
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
from sundog_edge.errors import EdgeError, SettingsError
from sundog_edge.haproxy import program as haproxy_program
from sundog_edge.haproxy.client import HaproxyClient
from sundog_edge.haproxy.config import render_config
from sundog_edge.haproxy.names import BOOT_VARIABLE, LOG_VARIABLE
from sundog_edge.haproxy.rules.handover import MAP as RELAY_MAP
from sundog_edge.security import certificate_sync
from sundog_edge.split.apply import check_config, ensure_map_files
from sundog_edge.split.layout import Layout
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir, read_json, write_atomically

_STATE_DIR = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Directory that HAProxy and the agent share.",
)

_POLL_S = 0.2


@click.group()
def main() -> None:
    """Run the edge of one namespace: HAProxy and its agent."""


@main.command()
@_STATE_DIR
@click.option("--http-bind", default="127.0.0.1:8080", show_default=True, help="Listen for clients at ADDRESS:PORT.")
@click.option("--https-bind", default="", help="Listen for TLS clients at ADDRESS:PORT; empty: no TLS.")
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Threads of HAProxy. With more than one, HAProxy sometimes drops a request's log line; that request counts as lost.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Limit the connections; 0: as many as the limit of open files allows.",
)
@click.option(
    "--drain-seconds",
    type=click.IntRange(1),
    default=120,
    show_default=True,
    help="Least deadline of a replaced worker; longer if a request may take longer.",
)
@click.option(
    "--request-seconds",
    type=click.IntRange(1),
    default=15,
    show_default=True,
    help="Longest wait for a request's headers, and for its body up to --buffer-bytes.",
)
@click.option(
    "--client-seconds", type=click.IntRange(1), default=30, show_default=True, help="Longest silence of a client."
)
@click.option(
    "--source-connections",
    type=click.IntRange(0),
    default=8192,
    show_default=True,
    help="Limit connections, and running requests, of one client address; 0: no limit.",
)
@click.option(
    "--buffer-bytes",
    type=click.IntRange(16_384, 1 << 20),
    default=16_384,
    show_default=True,
    help="Largest request with headers that HAProxy retries and searches for a unit; a connection needs two such buffers.",
)
@click.option(
    "--trusted-proxies",
    default="",
    callback=lambda _context, _option, value: _parse_networks(value),
    help="Networks of proxies that are believed about their client's address, as A.B.C.D/N,…; empty: none.",
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
    trusted_proxies: str,
) -> None:
    """Start HAProxy in this process, with the last good layout and maps of the state directory.

    Example: sundog-edge haproxy --state-dir /var/lib/sundog-edge --http-bind 0.0.0.0:8080
    """
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
            trusted_proxies=trusted_proxies,
        )
        prepare(state, settings)
    except EdgeError as error:
        raise click.ClickException(str(error)) from None
    os.environ[BOOT_VARIABLE] = uuid.uuid4().hex[:8]
    os.environ[LOG_VARIABLE] = str(open_for_haproxy(state.log_pipe))
    os.execv(program, [program, "-W", "-S", f"{state.master_socket},mode,600,level,admin", "-f", str(state.config)])  # noqa: S606


def _parse_networks(text: str) -> str:
    """Return networks that commas separate in the form of HAProxy. Raises BadParameter."""
    try:
        return " ".join(str(ipaddress.IPv4Network(each)) for each in text.split(",") if each)
    except ValueError as error:
        raise click.BadParameter(f"{error}; expected IPv4 networks such as 10.0.0.0/8,10.1.2.3/32") from None


def prepare(state: StateDir, settings: HaproxyProcessSettings) -> None:
    """Write the configuration for the layout of the state directory, after HAProxy has checked it."""
    ensure_map_files(state)
    certificate_sync.ensure_files(state)
    layout = Layout.from_json(read_json(state.layout) or {})
    # Without this, HAProxy would not start if a key file is missing. Tokens of a missing key are only unknown.
    existing = tuple(file for file in layout.public_keys if state.public_key(file).exists())
    text = render_config(settings, replace(layout, public_keys=existing), state)
    asyncio.run(check_config(text, state))
    write_atomically(state.config, text.encode())
    settings.save(state)


@main.command()
@click.option(
    "--pid", type=click.IntRange(1), default=1, show_default=True, help="Process id of HAProxy; 1 in its container."
)
@click.option(
    "--delay-seconds",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="Wait before draining, until clients no longer connect.",
)
def drain(pid: int, delay_seconds: float) -> None:
    """Drain HAProxy: it finishes its requests and ends. For a container's preStop hook; returns when HAProxy has ended.

    During the delay HAProxy serves as before, because clients learn only gradually that this edge terminates.

    Example: sundog-edge drain --pid 1 --delay-seconds 5
    """
    time.sleep(delay_seconds)
    with contextlib.suppress(EdgeError, OSError):
        asyncio.run(_stop_relays(_find_state(pid)))
    try:
        os.kill(pid, signal.SIGUSR1)
        while True:
            time.sleep(_POLL_S)
            os.kill(pid, 0)
    except ProcessLookupError:
        return
    except PermissionError:
        raise click.ClickException(f"--pid {pid}: the process belongs to another user") from None


def _find_state(pid: int) -> StateDir:
    """Return the state directory of a running HAProxy, from its command line. Raises OSError, and SettingsError for another program."""
    arguments = [os.fsdecode(each) for each in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    if "-f" not in arguments:
        raise SettingsError(f"--pid {pid}: found {arguments[0]}; expected HAProxy with -f and a file")
    return StateDir(Path(arguments[arguments.index("-f") + 1]).parent)


async def _stop_relays(state: StateDir) -> None:
    """Have replaced workers answer what still reaches them: a draining HAProxy takes no request of theirs."""
    client = HaproxyClient(state.master_socket)
    for process in await client.processes():
        if process.old:
            await client.stop_relay(process.pid, state.map(RELAY_MAP))


@main.command()
@_STATE_DIR
@click.option(
    "--split", type=click.Path(path_type=Path), default=None, help="File with the split document; it may appear later."
)
@click.option(
    "--config-map", default="", help="Instead of --split: name of the ConfigMap with the document, and of its Secret."
)
@click.option("--listen", default="127.0.0.1:8081", show_default=True, help="Serve evidence and health at HOST:PORT.")
@click.option("--edge-name", required=True, help="Name of this edge in its evidence, such as the pod's name.")
@click.option("--namespace", required=True)
@click.option(
    "--ray-token-file", type=click.Path(path_type=Path), default=None, help="File with the token for Serve's REST API."
)
@click.option(
    "--secrets-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Directory with the Secrets of services, as DIR/<secret>/<key>.",
)
@click.option(
    "--settle-seconds",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Longest wait for replicas before the edge is ready without them.",
)
@click.option(
    "--linger-seconds",
    type=click.FloatRange(0),
    default=None,
    help="On SIGTERM, continue until this long after HAProxy's end.",
)
@click.option(
    "--signing-key",
    type=click.Path(path_type=Path),
    default=None,
    help="File with the hexadecimal key that signs exposures; of two lines, the first is newer.",
)
@click.option("--store", default="", help="Store of feedback: sqlite:///PATH or redis://HOST:PORT.")
@click.option(
    "--store-password-file",
    type=click.Path(path_type=Path),
    default=None,
    help="File with the password of the store's server.",
)
@click.option(
    "--store-username-file",
    type=click.Path(path_type=Path),
    default=None,
    help="File with the user of that password. Default: the server's default user.",
)
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
    store_username_file: Path | None,
    log_level: str,
) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Example: sundog-edge agent --state-dir DIR --split split.json --edge-name edge-0 --namespace vision
    """
    if (split is None) == (not config_map):
        raise click.UsageError("--split, --config-map: expected exactly one of the two")
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter(f"found {listen!r}; expected HOST:PORT", param_hint="--listen")
    # Imported here: a killed HAProxy must restart at once, and does not need the agent's modules.
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
            store_username_file=store_username_file,
        )
    except EdgeError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"--listen {listen}: {error.strerror}") from None


if __name__ == "__main__":
    main()
