"""`sundog apply`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from sundog_operator.api import unknown_fields
from sundog_operator.errors import SundogError
from sundog_operator.shell import manifests
from sundog_operator.shell.exits import CommandFailed, Exit, exit_of, one_line
from sundog_operator.shell.manifests import Document, Problem
from sundog_operator.shell.output import full_name
from sundog_operator.shell.target import Server, talks_to_server

FILES: Final = click.option(
    "-f",
    "--filename",
    "files",
    type=click.Path(exists=True, path_type=Path, allow_dash=True),
    multiple=True,
    required=True,
    help="A manifest, a folder of them, or - for standard input.",
)


@click.command()
@FILES
@click.option("--validate/--no-validate", default=True, show_default=True, help="Refuse fields that do not exist.")
@talks_to_server
async def apply(server: Server, files: Sequence[Path], validate: bool) -> int:
    """Create or change what manifests describe.

    Each object is applied on its own; one that is refused keeps what serves. In a manifest, file://${MANIFEST_DIR} stands for its folder.
    """
    documents, problems = read_all(files, server.namespace)
    worst = Exit.REFUSED if report(problems) else Exit.OK
    for document in documents:
        try:
            click.echo(await _apply(server, document, validate))
        except SundogError as err:
            click.echo(f"error: {document.source}: {one_line(err)}", err=True)
            worst = max(worst, exit_of(err))
            if worst == Exit.UNREACHABLE:
                break
    if not documents and worst == Exit.OK:
        raise CommandFailed(f"no ModelDeployment, Experiment or Secret in {', '.join(map(str, files))}")
    return worst


async def _apply(server: Server, document: Document, validate: bool) -> str:
    if validate and (unknown := unknown_fields(document.object)):
        raise CommandFailed(f"{document.ref}: {unknown[0]}")
    before = await server.kube.get(document.ref)
    after = await server.kube.apply(document.object)
    done = "created" if before is None else "unchanged" if manifests.is_same(before, after) else "configured"
    return f"{full_name(document.ref.kind, document.ref.name)} {done}"


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
