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
    InstanceParts,
    StopRequest,
    handle_signals,
    make_dependencies,
    run_instance,
    stop_leftover_instance,
)
from sundog_operator.shell.local.views import InstanceView, LineView, LiveInstanceView
from sundog_operator.shell.url_options import LocalPath

_END_S: Final = 60.0
_POLL_S: Final = 0.1


def instance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name an instance."""
    for option in (
        click.option("--instance", metavar="NAME", help="One of several on this machine; each has a state of its own."),
        click.option(
            "--state-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help=f"Where all of it is kept. Default: {state_dir_paths.STATE_DIR_VARIABLE}, or ~/.local/state/sundog/<instance>.",
        ),
    ):
        command = option(command)
    return command


@click.group()
def local() -> None:
    """Serve manifests on this machine, without a cluster."""


def _checked_url(_context: click.Context, _parameter: click.Parameter, url: str) -> str:
    """The same rules as in an installation."""
    server, wrong = validate(PrometheusServer, {"url": url})
    if server is None:
        raise click.BadParameter("; ".join(each.message for each in wrong))
    return server.url


@local.command()
@click.argument("path", type=LocalPath())
@instance_options
@click.option("-n", "--namespace", default="default", show_default=True, help="Of objects that name none.")
@click.option("-q", "--quiet", is_flag=True, help="Show problems only.")
@click.option(
    "--prometheus",
    metavar="URL",
    default="",
    callback=_checked_url,
    help="The Prometheus that guardrails and analyses of rollouts are read from, such as http://127.0.0.1:9090.",
)
def up(path: Path, state_dir: Path | None, instance: str | None, namespace: str, quiet: bool, prometheus: str) -> int:
    """Serve the manifests at PATH, a file or a folder, until Ctrl-C.

    Saving a manifest applies it; removing one deletes what it described after 5 s, and emptying one does not.
    A later start goes on where this one ended.
    In a manifest, file://${MANIFEST_DIR} stands for the folder that the manifest is in.
    """
    where = state_dir_paths.choose_state_dir(state_dir, instance, os.environ)
    parts = InstanceParts(world=partial(make_dependencies, prometheus=prometheus))
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 links are kept
    return asyncio.run(_up(where, absolute, namespace, quiet, parts))


async def _up(where: Path, path: Path, namespace: str, quiet: bool, parts: InstanceParts) -> int:
    stop = StopRequest()
    view = _view(where, quiet)
    try:
        with handle_signals(stop):
            return await run_instance(where, path, stop, view, namespace=namespace, parts=parts)
    finally:
        view.close()


def _view(where: Path, quiet: bool) -> InstanceView:
    if quiet or not sys.stdout.isatty():
        return LineView(quiet=quiet)
    from rich.console import Console

    return LiveInstanceView(Console(), f"sundog local · {where}")


@local.command()
@instance_options
def down(state_dir: Path | None, instance: str | None) -> int:
    """End an instance: one that runs, or what a killed one left."""
    where = state_dir_paths.choose_state_dir(state_dir, instance, os.environ)
    state = state_dir_paths.find_state_dir(where)
    if state.is_held():
        _end(state)
        click.echo(f"the instance in {where} was ended")
    elif asyncio.run(_take_down(where)):
        click.echo(f"what was left of the instance in {where} was ended")
    else:
        click.echo(f"nothing runs in {where}")
    return ExitCode.OK


async def _take_down(where: Path) -> bool:
    return await stop_leftover_instance(where)


def _end(state: StateDirectory) -> None:
    pid = state.holder()
    if pid is None:
        raise CommandFailed(f"{state.lock}: holds no pid; end the process that runs there")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _END_S
    while state.is_held():
        if time.monotonic() > deadline:
            raise CommandFailed(f"pid {pid} did not end within {_END_S:g} s", ExitCode.TIMEOUT)
        time.sleep(_POLL_S)


@local.command()
@instance_options
def status(state_dir: Path | None, instance: str | None) -> int:
    """Tell whether an instance runs, and where its parts are. Exit code 3 when none does."""
    where = state_dir_paths.choose_state_dir(state_dir, instance, os.environ)
    state = state_dir_paths.find_state_dir(where)
    processes = find_marked_processes(state, SystemProcessTable())
    if not state.is_held():
        left = f"; {len(processes)} processes of a killed one are left: `sundog local up` goes on with them, `sundog local down` ends them"
        click.echo(f"no instance runs in {where}{left if processes else ''}")
        return ExitCode.NOT_FOUND
    click.echo(f"state directory  {where}")
    click.echo(f"pid              {state.holder()}")
    click.echo(f"kubeconfig       {state.path / state_dir_paths.KUBECONFIG_FILE}")
    click.echo(f"logs             {state.logs}")
    click.echo(f"processes        {len(processes)}")
    for line in state_dir_paths.read_problems(state.path):
        click.echo(f"not applied      {line}")
    return ExitCode.OK
