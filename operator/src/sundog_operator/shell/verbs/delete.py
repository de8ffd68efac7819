"""`sundog delete`."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.errors import NotFound, SundogError
from sundog_operator.ports import EXPERIMENT, Object, Ref
from sundog_operator.shell import kinds
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode, exit_code_of, is_server_lost, one_line
from sundog_operator.shell.manifests import ManifestProblem, has_mistakes, read_all_manifests
from sundog_operator.shell.output import format_full_name, print_left_out
from sundog_operator.shell.server_connection import ServerConnection, complete_names, with_server
from sundog_operator.shell.url_options import LocalPath


def _find_offline_problems(files: Sequence[Path], namespace: str, **_: object) -> Sequence[ManifestProblem]:
    return read_all_manifests(files, namespace)[1]


@click.command(epilog="Example: sundog delete digits")
@click.argument("what", nargs=-1, metavar="[mdep|mexp] NAME...", shell_complete=complete_names)
@click.option(
    "-f",
    "--filename",
    "files",
    type=LocalPath(allow_dash=True),
    multiple=True,
    help="Delete the objects of a manifest.",
)
@click.option("--ignore-not-found", is_flag=True, help="Ignore objects that do not exist.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a rollout or an Experiment that runs is deleted.")
@partial(with_server, find_offline_problems=_find_offline_problems)
async def delete(
    server: ServerConnection, what: tuple[str, ...], files: Sequence[Path], ignore_not_found: bool, yes: bool
) -> int:
    """Delete ModelDeployments or Experiments, with their replicas and endpoints.

    Asks first if a rollout or an Experiment runs, whose evidence ends with it. Without a terminal, give --yes.
    """
    kind, names = kinds.parse_kind_and_names(what)
    documents, problems = read_all_manifests(files, server.namespace)
    for problem in problems:
        problem.print()
    worst = ExitCode.REFUSED if has_mistakes(problems) else ExitCode.OK
    refs = [*(Ref(kind, server.namespace, name) for name in names), *(document.ref for document in documents)]
    if not refs and not problems:
        raise click.UsageError("give NAME or -f")
    for position, ref in enumerate(refs):
        try:
            await _delete(server, ref, ignore_not_found, yes)
        except SundogError as err:
            click.echo(f"error: {one_line(err)}", err=True)
            worst = max(worst, exit_code_of(err))
            if is_server_lost(err):
                print_left_out("not deleted", refs[position + 1 :])
                break
    return worst


async def _delete(server: ServerConnection, ref: Ref, ignore_not_found: bool, yes: bool) -> None:
    """Delete an object and print that. Raises SundogError."""
    obj = await server.kube.get(ref)
    if obj is not None:
        if not yes and (under_way := _find_what_ends(obj)):
            _ask(ref, under_way)
        await server.kube.delete(ref, uid=obj["metadata"]["uid"])
        click.echo(f"{format_full_name(ref.kind, ref.name)} deleted")
    elif not ignore_not_found:
        raise NotFound(f"{ref} does not exist")


def _find_what_ends(obj: Object) -> str:
    """Return the rollout or Experiment that a deletion would end; empty if there is none."""
    if obj["kind"] == EXPERIMENT.kind:
        running = ExperimentStatus.parse(obj.get("status")).phase == "Running"
        return "the Experiment runs" if running else ""
    status = ModelDeploymentStatus.parse(obj.get("status"))
    if status.stable is not None and (candidate := status.candidate) is not None:
        return f"the rollout of revision {candidate.revision} is at {candidate.weight:g} %"
    return f"Experiment {status.experiment} runs" if status.arms else ""


def _ask(ref: Ref, under_way: str) -> None:
    """Ask whether to delete. Raises CommandFailed without a terminal, or if the answer is no."""
    if not sys.stdin.isatty():
        raise CommandFailed(f"{ref}: {under_way}; not deleted. Give --yes to delete it all the same")
    if not click.confirm(f"{ref}: {under_way}. Delete it?", err=True):
        raise CommandFailed(f"{ref}: not deleted")
