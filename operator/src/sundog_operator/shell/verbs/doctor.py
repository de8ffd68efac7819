"""`sundog doctor`."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from sundog_operator.adapters.local.doctor import Check, run_checks
from sundog_operator.shell.exit_codes import ExitCode
from sundog_operator.shell.local import state_dir_paths
from sundog_operator.shell.output import TEXT_OUTPUT_OPTION, print_document

_SIGNS: Final = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.command(epilog="Example: sundog doctor -o json")
@click.option("--instance", metavar="NAME", help="The local instance to check.")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="The local instance to check, by its state directory."
)
@TEXT_OUTPUT_OPTION
def doctor(instance: str | None, state_dir: Path | None, output: str) -> int:
    """Check whether this machine can run local mode, and show how to fix each problem.

    Exit code 1 if a check fails.
    """
    checks = run_checks(state_dir_paths.shorten_path(state_dir_paths.choose_state_dir(state_dir, instance, os.environ)))
    failed = any(check.status == "fail" for check in checks)
    if output != "text":
        print_document([asdict(check) for check in checks], output)
    else:
        _print(checks)
    return ExitCode.REFUSED if failed else ExitCode.OK


def _print(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        sign, color = _SIGNS[check.status]
        styled = click.style(sign, fg=color) if sys.stdout.isatty() else sign
        click.echo(f"{styled}  {check.name:<{width}}  {check.found}")
        if check.fix:
            click.echo(f"      {'':<{width}}  → {check.fix}")
