"""`sundog apply`."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click

from sundog_operator.api import find_violations, unknown_fields
from sundog_operator.api.installation import Installation
from sundog_operator.core.experiments import admission
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.errors import SundogError
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, SECRET, Object
from sundog_operator.shell import manifests
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode, exit_code_of, one_line
from sundog_operator.shell.manifests import ManifestObject, ManifestProblem
from sundog_operator.shell.output import format_full_name
from sundog_operator.shell.server_connection import ServerConnection, with_server
from sundog_operator.shell.url_options import LocalPath

FILES_OPTION: Final = click.option(
    "-f",
    "--filename",
    "files",
    type=LocalPath(allow_dash=True),
    multiple=True,
    required=True,
    help="A manifest, a folder of them, or - for standard input.",
)


def report_offline_problems(files: Sequence[Path], namespace: str, validate: bool = True, **_: object) -> bool:
    """Print what is wrong with manifests, as far as no API server needs to be asked; whether anything is."""
    documents, problems = read_all_manifests(files, namespace)
    mistaken = report_problems(problems)
    for document in documents:
        if document.ref.kind == SECRET:
            continue
        wrong = [*(unknown_fields(document.object) if validate else ()), *find_violations(document.object)]
        if wrong:
            click.echo(f"error: {document.source}: {document.ref}: {'; '.join(map(str, wrong))}", err=True)
            mistaken = True
    return mistaken


@click.command()
@FILES_OPTION
@click.option("--validate/--no-validate", default=True, show_default=True, help="Refuse fields that do not exist.")
@partial(with_server, without=report_offline_problems)
async def apply(server: ServerConnection, files: Sequence[Path], validate: bool) -> int:
    """Create or change what manifests describe.

    Each object is applied on its own; one that is refused keeps what serves. In a manifest, file://${MANIFEST_DIR} stands for its folder.
    A spec that the API server stores and that nobody acts on, such as one with a field that is not supported yet, is told with exit code 1.
    """
    documents, problems = read_all_manifests(files, server.namespace)
    worst = ExitCode.REFUSED if report_problems(problems) else ExitCode.OK
    for document in documents:
        try:
            after = await _apply(server, document, validate)
            if refusal := _refusal(server, after):
                raise CommandFailed(f"{document.ref}: {refusal}")
        except SundogError as err:
            click.echo(f"error: {document.source}: {one_line(err)}", err=True)
            worst = max(worst, exit_code_of(err))
            if worst == ExitCode.UNREACHABLE:
                break
    if not documents and worst == ExitCode.OK:
        raise CommandFailed(f"no ModelDeployment, Experiment or Secret in {', '.join(map(str, files))}")
    return worst


async def _apply(server: ServerConnection, document: ManifestObject, validate: bool) -> Object:
    """What is stored afterwards; prints what was done. Raises SundogError."""
    if validate and (unknown := unknown_fields(document.object)):
        raise CommandFailed(f"{document.ref}: {unknown[0]}")
    before = await server.kube.get(document.ref)
    after = await server.kube.apply(document.object)
    done = "created" if before is None else "unchanged" if manifests.is_unchanged(before, after) else "configured"
    click.echo(f"{format_full_name(document.ref.kind, document.ref.name)} {done}")
    return after


def _refusal(server: ServerConnection, stored: Object) -> str:
    """Why the operator does not act on a spec that the API server took, as its condition will say; empty where it does."""
    match stored["kind"]:
        case MODEL_DEPLOYMENT.kind:
            # What an administrator set is not known here; what matters is whether there are pods.
            judged = accept_model_deployment(stored, None if server.local else Installation())
            reason, message = judged.reason, judged.message
        case EXPERIMENT.kind:
            own = admission.check_admission(stored)
            # One that is to end does so whatever else it says.
            reason, message = ("", "") if own.stopped else (own.reason, own.message)
        case _:
            reason, message = "", ""
    return f"{reason}: {message}" if reason else ""


def read_all_manifests(files: Sequence[Path], namespace: str) -> tuple[list[ManifestObject], list[ManifestProblem]]:
    """The documents of all paths, and what is wrong with them."""
    documents: list[ManifestObject] = []
    problems: list[ManifestProblem] = []
    for file in files:
        if str(file) == "-":
            text = sys.stdin.read()
            found, wrong = manifests.parse_manifest(text, "standard input", None, namespace)
        else:
            reading = manifests.read_manifests(file, namespace)
            found, wrong = list(reading.documents), list(reading.problems)
        documents += found
        problems += wrong
    return documents, problems


def report_problems(problems: Sequence[ManifestProblem]) -> bool:
    """Print what is wrong with manifests; whether anything of it is a mistake."""
    for problem in problems:
        click.echo(f"{'skipped' if problem.skipped else 'error'}: {problem}", err=True)
    return any(not problem.skipped for problem in problems)
