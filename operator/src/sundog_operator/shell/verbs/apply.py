"""`sundog apply`."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click

from sundog_operator.api import find_violations, unknown_fields
from sundog_operator.api.installation import UNKNOWN_INSTALLATION, Installation
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.trial.experiment import admission
from sundog_operator.errors import SundogError
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, SECRET, Object
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode, exit_code_of, is_server_lost, one_line
from sundog_operator.shell.manifests import (
    ManifestObject,
    ManifestProblem,
    has_mistakes,
    is_unchanged,
    read_all_manifests,
)
from sundog_operator.shell.output import format_full_name, print_left_out
from sundog_operator.shell.server_connection import ServerConnection, with_server
from sundog_operator.shell.url_options import LocalPath

FILES_OPTION: Final = click.option(
    "-f",
    "--filename",
    "files",
    type=LocalPath(allow_dash=True),
    multiple=True,
    required=True,
    help="A manifest, a folder of manifests, or - for standard input.",
)


def find_offline_problems(
    files: Sequence[Path], namespace: str, validate: bool = True, **_: object
) -> Sequence[ManifestProblem]:
    """Return the problems of manifests that can be found without an API server."""
    documents, problems = read_all_manifests(files, namespace)
    return [*problems, *check_documents(documents, validate=validate)]


def check_documents(documents: Sequence[ManifestObject], *, validate: bool = True) -> Iterator[ManifestProblem]:
    """Yield a problem for each object that would be refused, as far as that is known without an API server."""
    for document in documents:
        if document.ref.kind == SECRET:
            continue
        violations = [*(unknown_fields(document.object) if validate else ()), *find_violations(document.object)]
        if message := "; ".join(map(str, violations)) or _find_refusal_anywhere(document.object):
            yield ManifestProblem(document.source, f"{document.ref}: {message}")


def _find_refusal_anywhere(manifest: Object) -> str:
    """Return why the operator will refuse a spec, both in a cluster and in local mode; empty if one of them accepts it."""
    local, in_cluster = _find_refusal(manifest, None), _find_refusal(manifest, UNKNOWN_INSTALLATION)
    return local and in_cluster


@click.command(epilog="Example: sundog apply -f digits.yaml")
@FILES_OPTION
@click.option("--validate/--no-validate", default=True, show_default=True, help="Refuse fields that do not exist.")
@partial(with_server, find_offline_problems=find_offline_problems)
async def apply(server: ServerConnection, files: Sequence[Path], validate: bool) -> int:
    """Create or update the objects of manifests.

    Each object is applied independently. If one is refused, its present revision keeps serving.
    In a manifest, file://${MANIFEST_DIR} stands for its folder.

    Exit code 1 also if the API server stores a spec that the operator will refuse, such as one with an unsupported field.
    """
    documents, problems = read_all_manifests(files, server.namespace)
    for problem in problems:
        problem.print()
    worst = ExitCode.REFUSED if has_mistakes(problems) else ExitCode.OK
    for position, document in enumerate(documents):
        try:
            after = await _apply(server, document, validate)
            # The administrator's settings are unknown here. Only the existence of pods matters.
            if refusal := _find_refusal(after, None if server.local else UNKNOWN_INSTALLATION):
                raise CommandFailed(f"{document.ref}: {refusal}")
        except SundogError as err:
            click.echo(f"error: {document.source}: {one_line(err)}", err=True)
            worst = max(worst, exit_code_of(err))
            if is_server_lost(err):
                print_left_out("not applied", [each.ref for each in documents[position + 1 :]])
                break
    if not documents and worst == ExitCode.OK:
        raise CommandFailed(f"no ModelDeployment, Experiment or Secret in {', '.join(map(str, files))}")
    return worst


async def _apply(server: ServerConnection, document: ManifestObject, validate: bool) -> Object:
    """Apply an object, print the result, and return the stored object. Raises SundogError."""
    if validate and (unknown := unknown_fields(document.object)):
        raise CommandFailed(f"{document.ref}: {unknown[0]}")
    before = await server.kube.get(document.ref)
    after = await server.kube.apply(document.object)
    result = "created" if before is None else "unchanged" if is_unchanged(before, after) else "configured"
    click.echo(f"{format_full_name(document.ref.kind, document.ref.name)} {result}")
    return after


def _find_refusal(stored: Object, installation: Installation | None) -> str:
    """Return why the operator will refuse a spec, as its condition will show; empty if it accepts it.

    No installation means local mode.
    """
    match stored["kind"]:
        case MODEL_DEPLOYMENT.kind:
            deployment = accept_model_deployment(stored, installation)
            reason, message = deployment.reason, deployment.message
        case EXPERIMENT.kind:
            experiment = admission.check_admission(stored)
            # A stopped Experiment ends even if its spec is invalid.
            reason, message = ("", "") if experiment.stopped else (experiment.reason, experiment.message)
        case _:
            reason, message = "", ""
    return f"{reason}: {message}" if reason else ""
