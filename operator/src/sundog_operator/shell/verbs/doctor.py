"""`sundog doctor`."""

import asyncio
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from sundog_operator.adapters.local.doctor import Check, run_checks
from sundog_operator.errors import Forbidden
from sundog_operator.shell.device_labels import read_profiles
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.local import state_dir_paths
from sundog_operator.shell.output import TEXT_OUTPUT_OPTION, print_document
from sundog_operator.shell.server_connection import (
    ServerConnection,
    ServerSelection,
    resolve_target,
    with_connection,
)
from sundog_operator.shell.view import palette

_GPU_LABELS: Final = "GPU labels"
_NAME_PROFILES: Final = "set installation.gpu.profiles of the chart to the labels of your nodes, such as [karpenter]"
_SIGNS: Final = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@click.command(epilog="Example: sundog doctor -o json")
@click.option("--instance", metavar="NAME", help="The local instance to check.")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="The local instance to check, by its state directory."
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    help="Check this cluster instead: which labels of its nodes name the types of GPUs.",
)
@click.option("--context", metavar="NAME", help="A context of the kubeconfig.")
@TEXT_OUTPUT_OPTION
def doctor(
    instance: str | None, state_dir: Path | None, kubeconfig: Path | None, context: str | None, output: str
) -> int:
    """Check whether this machine can run local mode, and show how to fix each problem.

    Exit code 1 if a check fails.
    """
    if kubeconfig is not None or context is not None:
        target = resolve_target(ServerSelection(kubeconfig, context), os.environ)
        checks = asyncio.run(with_connection(target, _check_cluster, CommandFailed))
    else:
        where = state_dir_paths.choose_state_dir(state_dir, instance, os.environ)
        checks = run_checks(state_dir_paths.shorten_path(where))
    failed = any(check.status == "fail" for check in checks)
    if output != "text":
        print_document([asdict(check) for check in checks], output)
    else:
        _print(checks)
    return ExitCode.REFUSED if failed else ExitCode.OK


async def _check_cluster(server: ServerConnection) -> list[Check]:
    try:
        found = await read_profiles(server)
    except Forbidden as err:
        return [Check(_GPU_LABELS, "warn", f"unknown: {err}", _NAME_PROFILES)]
    return [
        Check(_GPU_LABELS, "ok", found.text) if found.names else Check(_GPU_LABELS, "warn", found.text, _NAME_PROFILES)
    ]


def _print(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        sign = _SIGNS[check.status]
        styled = click.style(sign, fg=palette.TERMINAL_CHECKS[check.status]) if sys.stdout.isatty() else sign
        click.echo(f"{styled}  {check.name:<{width}}  {check.found}")
        if check.fix:
            click.echo(f"      {'':<{width}}  → {check.fix}")
