"""`sundog apply`."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click

from sundog_operator.api import unknown_fields, violations
from sundog_operator.api.installation import Installation
from sundog_operator.core.experiments import admission
from sundog_operator.core.planner.admission import accept
from sundog_operator.errors import SundogError
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, SECRET, Object
from sundog_operator.shell import manifests
from sundog_operator.shell.addresses import LocalPath
from sundog_operator.shell.exits import CommandFailed, Exit, exit_of, one_line
from sundog_operator.shell.manifests import Document, Problem
from sundog_operator.shell.output import full_name
from sundog_operator.shell.target import Server, talks_to_server

FILES: Final = click.option(
    "-f",
    "--filename",
    "files",
    type=LocalPath(allow_dash=True),
    multiple=True,
    required=True,
    help="A manifest, a folder of them, or - for standard input.",
)


def told_without_server(files: Sequence[Path], namespace: str, validate: bool = True, **_: object) -> bool:
    """Print what is wrong with manifests, as far as no API server needs to be asked; whether anything is."""
    documents, problems = read_all(files, namespace)
    mistaken = report(problems)
    for document in documents:
        if document.ref.kind == SECRET:
            continue
        wrong = [*(unknown_fields(document.object) if validate else ()), *violations(document.object)]
        if wrong:
            click.echo(f"error: {document.source}: {document.ref}: {'; '.join(map(str, wrong))}", err=True)
            mistaken = True
    return mistaken


@click.command()
@FILES
@click.option("--validate/--no-validate", default=True, show_default=True, help="Refuse fields that do not exist.")
@partial(talks_to_server, without=told_without_server)
async def apply(server: Server, files: Sequence[Path], validate: bool) -> int:
    """Create or change what manifests describe.

    Each object is applied on its own; one that is refused keeps what serves. In a manifest, file://${MANIFEST_DIR} stands for its folder.
    A spec that the API server stores and that nobody acts on, such as one with a field that is not supported yet, is told with exit code 1.
    """
    documents, problems = read_all(files, server.namespace)
    worst = Exit.REFUSED if report(problems) else Exit.OK
    for document in documents:
        try:
            after = await _apply(server, document, validate)
            if refusal := _refusal(server, after):
                raise CommandFailed(f"{document.ref}: {refusal}")
        except SundogError as err:
            click.echo(f"error: {document.source}: {one_line(err)}", err=True)
            worst = max(worst, exit_of(err))
            if worst == Exit.UNREACHABLE:
                break
    if not documents and worst == Exit.OK:
        raise CommandFailed(f"no ModelDeployment, Experiment or Secret in {', '.join(map(str, files))}")
    return worst


async def _apply(server: Server, document: Document, validate: bool) -> Object:
    """What is stored afterwards; prints what was done. Raises SundogError."""
    if validate and (unknown := unknown_fields(document.object)):
        raise CommandFailed(f"{document.ref}: {unknown[0]}")
    before = await server.kube.get(document.ref)
    after = await server.kube.apply(document.object)
    done = "created" if before is None else "unchanged" if manifests.is_same(before, after) else "configured"
    click.echo(f"{full_name(document.ref.kind, document.ref.name)} {done}")
    return after


def _refusal(server: Server, stored: Object) -> str:
    """Why the operator does not act on a spec that the API server took, as its condition will say; empty where it does."""
    match stored["kind"]:
        case MODEL_DEPLOYMENT.kind:
            # What an administrator set is not known here; what matters is whether there are pods.
            judged = accept(stored, None if server.local else Installation())
            reason, message = judged.reason, judged.message
        case EXPERIMENT.kind:
            own = admission.accept(stored)
            # One that is to end does so whatever else it says.
            reason, message = ("", "") if own.stopped else (own.reason, own.message)
        case _:
            reason, message = "", ""
    return f"{reason}: {message}" if reason else ""


def read_all(files: Sequence[Path], namespace: str) -> tuple[list[Document], list[Problem]]:
    """The documents of all paths, and what is wrong with them."""
    documents: list[Document] = []
    problems: list[Problem] = []
    for file in files:
        if str(file) == "-":
            text = sys.stdin.read()
            found, wrong = manifests.parse(text, "standard input", None, namespace)
        else:
            reading = manifests.read(file, namespace)
            found, wrong = list(reading.documents), list(reading.problems)
        documents += found
        problems += wrong
    return documents, problems


def report(problems: Sequence[Problem]) -> bool:
    """Print what is wrong with manifests; whether anything of it is a mistake."""
    for problem in problems:
        click.echo(f"{'skipped' if problem.skipped else 'error'}: {problem}", err=True)
    return any(not problem.skipped for problem in problems)
