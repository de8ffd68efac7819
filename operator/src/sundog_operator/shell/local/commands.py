"""`sundog local`: serve manifests on this machine."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from sundog_operator.adapters.local.process_table import SystemProcessTable
from sundog_operator.adapters.local.processes import find_marked_processes
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.api.installation import PrometheusServer
from sundog_operator.api.schema.validation import validate
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.local import state_dir_paths
from sundog_operator.shell.local.instance import (
    STOP_SIGNALS,
    InstanceParts,
    StopRequest,
    make_dependencies,
    run_instance,
    stop_leftover_instance,
)
from sundog_operator.shell.local.views import InstanceView, LineView, LiveInstanceView
from sundog_operator.shell.run_until_signal import handle_signals
from sundog_operator.shell.url_options import LocalPath

_STOP_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.1


def instance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name an instance."""
    for option in (
        click.option("--instance", metavar="NAME", help="Name of the instance. Each instance has its own state."),
        click.option(
            "--state-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help=f"Directory of the state. Default: {state_dir_paths.STATE_DIR_VARIABLE}, or ~/.local/state/sundog/<instance>.",
        ),
    ):
        command = option(command)
    return command


@click.group()
def local() -> None:
    """Serve manifests on this machine, without a cluster."""


def _validate_prometheus_url(_context: click.Context, _parameter: click.Parameter, url: str) -> str:
    """Apply the rules of an installation's URL."""
    server, violations = validate(PrometheusServer, {"url": url})
    if server is None:
        raise click.BadParameter("; ".join(each.message for each in violations))
    return server.url


@local.command(epilog="Example: sundog local up examples/digits/local")
@click.argument("path", type=LocalPath())
@instance_options
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of objects without one.")
@click.option("-q", "--quiet", is_flag=True, help="Print only problems.")
@click.option(
    "--prometheus",
    metavar="URL",
    default="",
    callback=_validate_prometheus_url,
    help="The Prometheus for guardrails and analyses of rollouts, such as http://127.0.0.1:9090.",
)
@click.option("--watch", is_flag=True, help="Make a revision when the files of a file:// model change.")
def up(
    path: Path, state_dir: Path | None, instance: str | None, namespace: str, quiet: bool, prometheus: str, watch: bool
) -> int:
    """Serve the manifests at PATH, a file or a folder, until Ctrl-C.

    Saving a manifest applies it. Removing a manifest deletes its objects after 5 s; emptying it does not.
    The next start continues from the present state.
    In a manifest, file://${MANIFEST_DIR} stands for the folder of the manifest.
    """
    where = state_dir_paths.choose_state_dir(state_dir, instance, os.environ)
    parts = InstanceParts(dependencies=partial(make_dependencies, prometheus=prometheus), watch_models=watch)
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 links are kept
    return asyncio.run(_up(where, absolute, namespace, quiet, parts))


async def _up(where: Path, path: Path, namespace: str, quiet: bool, parts: InstanceParts) -> int:
    stop = StopRequest()
    view = _make_view(where, quiet)
    try:
        with handle_signals(STOP_SIGNALS, stop.request):
            return await run_instance(where, path, stop, view, namespace=namespace, parts=parts)
    finally:
        view.close()


def _make_view(where: Path, quiet: bool) -> InstanceView:
    if quiet or not sys.stdout.isatty():
        return LineView(quiet=quiet)
    from rich.console import Console

    return LiveInstanceView(Console(), f"sundog local · {where}")


@local.command(epilog="Example: sundog local down")
@instance_options
def down(state_dir: Path | None, instance: str | None) -> int:
    """Stop an instance, or end the processes that a killed instance left."""
    where = state_dir_paths.choose_state_dir(state_dir, instance, os.environ)
    state = state_dir_paths.find_state_dir(where)
    if state.is_held():
        _stop(state)
        click.echo(f"stopped the instance in {where}")
    elif asyncio.run(stop_leftover_instance(where)):
        click.echo(f"ended the processes that a killed instance left in {where}")
    else:
        click.echo(f"nothing runs in {where}")
    return ExitCode.OK


def _stop(state: StateDirectory) -> None:
    pid = state.holder()
    if pid is None:
        raise CommandFailed(f"{state.lock}: found no pid. End the process that runs there")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while state.is_held():
        if time.monotonic() > deadline:
            raise CommandFailed(f"pid {pid} did not end within {_STOP_TIMEOUT_S:g} s", ExitCode.TIMEOUT)
        time.sleep(_POLL_S)


@local.command(epilog="Example: sundog local status")
@instance_options
def status(state_dir: Path | None, instance: str | None) -> int:
    """Show whether an instance runs, and its paths. Exit code 3 if none runs."""
    where = state_dir_paths.choose_state_dir(state_dir, instance, os.environ)
    state = state_dir_paths.find_state_dir(where)
    processes = find_marked_processes(state, SystemProcessTable())
    if not state.is_held():
        leftovers = f". A killed instance left {len(processes)} processes: `sundog local up` takes them over, `sundog local down` ends them"
        click.echo(f"no instance runs in {where}{leftovers if processes else ''}")
        return ExitCode.NOT_FOUND
    click.echo(f"state directory  {where}")
    click.echo(f"pid              {state.holder()}")
    click.echo(f"kubeconfig       {state.path / state_dir_paths.KUBECONFIG_FILE}")
    click.echo(f"logs             {state.logs}")
    click.echo(f"processes        {len(processes)}")
    for line in state_dir_paths.read_problems(state.path):
        click.echo(f"not applied      {line}")
    return ExitCode.OK
