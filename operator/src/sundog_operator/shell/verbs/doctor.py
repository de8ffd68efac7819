"""`sundog doctor`."""

import asyncio
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Final

import click
from rich.console import Console

from sundog_operator.adapters.local.doctor import Check, run_checks
from sundog_operator.shell.cluster_checks.checks import check_cluster
from sundog_operator.shell.cluster_checks.observation import observe_cluster
from sundog_operator.shell.cluster_checks.planned_release import DEFAULT_RELEASE, NAMESPACE, read_release
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.local import state_dir_paths
from sundog_operator.shell.output import TEXT_OUTPUT_OPTION, print_document
from sundog_operator.shell.server_connection import ServerSelection, resolve_target, with_connection
from sundog_operator.shell.view import palette

_SIGNS: Final = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@click.command(epilog="Example: sundog doctor --cluster")
@click.option("--instance", metavar="NAME", help="The local instance to check.")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="The local instance to check, by its state directory."
)
@click.option(
    "--cluster",
    is_flag=True,
    help="Check the cluster of the kubeconfig instead. --kubeconfig, --context and -f imply it.",
)
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="The cluster to check.")
@click.option("--context", metavar="NAME", help="A context of the kubeconfig.")
@click.option(
    "-f",
    "--filename",
    "manifests",
    type=click.File("rb"),
    help=f"Output of `helm template` with your values; - is standard input. Without it: the chart's defaults in {NAMESPACE}.",
)
@click.option(
    "--probe",
    is_flag=True,
    help="Run pods in the release's namespace, to see that images of -f can be pulled and network policies are enforced. They are"
    " deleted at the end.",
)
@TEXT_OUTPUT_OPTION
def doctor(
    instance: str | None,
    state_dir: Path | None,
    cluster: bool,
    kubeconfig: Path | None,
    context: str | None,
    manifests: BinaryIO | None,
    probe: bool,
    output: str,
) -> int:
    """Check whether this machine can run local mode, or whether a cluster can run Sundog, and show how to fix each problem.

    A cluster is checked before the installation, with your permissions. Without --probe nothing is created or changed there. Exit code 1 if
    a check fails.
    """
    if probe and not manifests:
        raise click.UsageError("--probe: expected -f with the output of `helm template`, which names the images")
    if cluster or kubeconfig or context or manifests:
        if instance or state_dir:
            raise click.UsageError("--cluster: expected neither --instance nor --state-dir")
        release = read_release(manifests.read()) if manifests else DEFAULT_RELEASE
        target = resolve_target(ServerSelection(kubeconfig, context, is_cluster=True), os.environ)
        with _progress(probe):
            seen = asyncio.run(
                with_connection(
                    target, lambda server: observe_cluster(server, release, is_probing=probe), CommandFailed
                )
            )
        checks = check_cluster(seen, release)
    else:
        where = state_dir_paths.choose_state_dir(state_dir, instance, os.environ)
        checks = run_checks(state_dir_paths.shorten_path(where))
    failed = any(check.status == "fail" for check in checks)
    if output != "text":
        print_document([asdict(check) for check in checks], output)
    else:
        _print(checks)
    return ExitCode.REFUSED if failed else ExitCode.OK


def _progress(is_probing: bool) -> AbstractContextManager[object]:
    """Show that pods run, for minutes if images are large."""
    if not is_probing:
        return nullcontext()
    return Console(stderr=True).status("Pulling images and trying a network policy; pods are deleted at the end")


def _print(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        sign = _SIGNS[check.status]
        styled = click.style(sign, fg=palette.TERMINAL_CHECKS[check.status]) if sys.stdout.isatty() else sign
        click.echo(f"{styled}  {check.name:<{width}}  {check.found}")
        if check.fix:
            click.echo(f"      {'':<{width}}  → {check.fix}")
