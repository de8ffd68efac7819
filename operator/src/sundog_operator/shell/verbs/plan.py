"""`sundog plan`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from sundog_operator.adapters.clock import SystemClock
from sundog_operator.api.installation import Installation
from sundog_operator.app.dependencies import Dependencies, OperatorSettings
from sundog_operator.app.neighbours import list_salt_owners
from sundog_operator.app.observe import observe
from sundog_operator.core.edge import salts
from sundog_operator.core.edge.salts import SaltOwner
from sundog_operator.core.experiments import log_exports
from sundog_operator.core.observed import EdgeReport, ServeState, WebhookResult
from sundog_operator.errors import SundogError
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, SECRET, Kind, Object, Ref
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.installation import find_installation
from sundog_operator.shell.manifests import ManifestObject
from sundog_operator.shell.output import print_document
from sundog_operator.shell.preview.experiment import preview_experiment
from sundog_operator.shell.preview.model_deployment import Preview, make_new_object, preview_model_deployment
from sundog_operator.shell.server_connection import ServerConnection, with_server
from sundog_operator.shell.verbs.apply import FILES_OPTION, read_all_manifests, report_offline_problems, report_problems

_TITLES: Final = {
    "create": "is created",
    "change": "changes",
    "unchanged": "stays as it is",
    "refused": "is refused",
}
_FILE: Final = "file://"
_SALTED: Final[Mapping[Kind, salts.SaltOwnerKind]] = {EXPERIMENT: "Experiment", MODEL_DEPLOYMENT: "ModelDeployment"}


class _Unasked:
    """Serve and the edges, which a preview does not ask: they may not be reachable from here, and decide nothing about a manifest."""

    async def read(self, dashboard: str, namespace: str) -> ServeState:  # noqa: ARG002
        """Nothing is known."""
        return ServeState(known=False)

    async def put(self, dashboard: str, namespace: str, document: Mapping[str, Any]) -> None:
        """A preview writes nothing."""
        raise AssertionError(f"a preview wrote to {dashboard} of {namespace}: {document}")


class _UnaskedEdges:
    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        """Nothing is known."""
        return [EdgeReport(pod["metadata"]["name"], ready=False, terminating=False, evidence=None) for pod in pods]

    async def count(self, pods: Sequence[Object], service: str, *, by_unit: bool = False) -> list[EdgeReport]:
        """Nothing is known."""
        del service, by_unit
        return await self.read(pods)


class _UnaskedWebhooks:
    async def post(self, url: str, document: Mapping[str, Any], timeout_s: float) -> WebhookResult:  # noqa: ARG002
        """Nothing is asked."""
        return WebhookResult(problem="is not asked by a preview")


@click.command()
@FILES_OPTION
@click.option("-o", "--output", type=click.Choice(("text", "json", "yaml")), default="text", show_default=True)
@partial(with_server, without=report_offline_problems)
async def plan(server: ServerConnection, files: Sequence[Path], output: str) -> int:
    """Tell what applying manifests would do, and why. Nothing is written.

    The operator's own planner decides, over what the API server holds now. Exit code 1 when something would be refused.
    """
    documents, problems = read_all_manifests(files, server.namespace)
    mistaken = report_problems(problems)
    previews = [
        await _preview(server, document, documents)
        if document.ref.kind == MODEL_DEPLOYMENT
        else await _preview_experiment(server, document, documents)
        for document in documents
        if document.ref.kind in (MODEL_DEPLOYMENT, EXPERIMENT)
    ]
    if not documents and not mistaken:
        raise CommandFailed(f"no ModelDeployment and no Experiment in {', '.join(map(str, files))}")
    if output == "json" or output == "yaml":
        print_document([asdict(each) for each in previews], "json" if output == "json" else "yaml")
    else:
        for each in previews:
            _print(each)
    for document in documents:
        if document.ref.kind == SECRET:
            click.echo(f"skipped: {document.source}: {document.ref}: Secrets are not previewed", err=True)
    refused = any(each.outcome == "refused" for each in previews)
    return ExitCode.REFUSED if refused or mistaken else ExitCode.OK


async def _preview(server: ServerConnection, document: ManifestObject, given: Sequence[ManifestObject]) -> Preview:
    """`given` is all that is applied together."""
    stored, world, namespace = await server.kube.get(document.ref), _world(server), document.ref.namespace
    wanted = {**(stored or make_new_object(document.object)), "spec": document.object.get("spec")}
    seen = await observe(world, wanted)
    known = {
        each.ref.name: frozenset({**(each.object.get("data") or {}), **(each.object.get("stringData") or {})})
        for each in given
        if (each.ref.kind, each.ref.namespace) == (SECRET, namespace)
    }
    seen = replace(seen, secrets={**seen.secrets, **known}, salts=_salts_with(seen.salts, given, namespace))
    applied = None if stored is None else await _applied(server, document.object)
    return _with_missing_files(
        server, document, preview_model_deployment(document.object, stored, seen, world.clock.now(), applied)
    )


async def _applied(server: ServerConnection, manifest: Object) -> Object | None:
    """The object as the API server would store it; None where it refuses, also for want of a permission."""
    try:
        return await server.kube.apply(manifest, dry_run=True)
    except SundogError:
        return None


def _with_missing_files(server: ServerConnection, document: ManifestObject, found: Preview) -> Preview:
    """Add which model files this machine lacks, where it is the one that would load them."""
    if not server.local or found.outcome == "refused":
        return found
    missing = tuple(
        f"{where}: {path} does not exist on this machine; nothing of it starts before it does"
        for where, path in _files(document.object["spec"])
        if not path.exists()
    )
    return replace(found, lines=(*found.lines, *missing))


def _files(spec: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The local paths of the models of a valid spec, by their fields."""
    models = {"spec.model.uri": spec.get("model")} | {
        f"spec.arms[{index}].model.uri": arm.get("model") for index, arm in enumerate(spec.get("arms") or ())
    }
    for where, model in models.items():
        uri = str((model or {}).get("uri", ""))
        if uri.startswith(_FILE):
            yield where, Path(uri.removeprefix(_FILE))


async def _preview_experiment(
    server: ServerConnection, document: ManifestObject, given: Sequence[ManifestObject]
) -> Preview:
    """`given` is all that is applied together."""
    stored, world, namespace = await server.kube.get(document.ref), _world(server), document.ref.namespace
    named = (document.object.get("spec") or {}).get("modelDeployment")
    ref = Ref(MODEL_DEPLOYMENT, namespace, named) if isinstance(named, str) and named else None
    deployment = await server.kube.get(ref) if ref is not None else None
    seen = await observe(world, deployment) if deployment is not None else None
    known = seen.salts if seen is not None else await list_salt_owners(world, namespace)
    found = preview_experiment(
        document.object,
        stored,
        seen,
        world.clock.now(),
        comes=ref in {each.ref for each in given},
        log_refusal=await make_log_place_check(server, namespace),
        known_salts=_salts_with(known, given, namespace),
    )
    return _with_missing_files(server, document, found)


def _salts_with(stored: Sequence[SaltOwner], given: Sequence[ManifestObject], namespace: str) -> tuple[SaltOwner, ...]:
    """Those of a namespace once all that is given is applied."""
    applied = [each for each in given if each.ref.kind in _SALTED and each.ref.namespace == namespace]
    named = {(_SALTED[each.ref.kind], each.ref.name) for each in applied}
    kept = [each for each in stored if (each.kind, each.name) not in named]
    return (*kept, *filter(None, (salts.find_salt_owner(_SALTED[each.ref.kind], each.object) for each in applied)))


async def make_log_place_check(server: ServerConnection, namespace: str) -> Callable[[str], str]:
    """Why no exposure log of a namespace may be written to a place, as a function of that; nothing is told where nobody can know."""
    if server.local:
        return partial(log_exports.find_place_violation, allowed=None)
    installation = await find_installation(server.kube, namespace)
    if installation is None:
        return lambda _: ""
    return partial(log_exports.find_place_violation, allowed=installation.exposure_logs.places)


def _world(server: ServerConnection) -> Dependencies:
    # What an administrator set is not known here; what matters is whether there are pods.
    settings = OperatorSettings(installation=None if server.local else Installation())
    return Dependencies(server.kube, _Unasked(), _UnaskedEdges(), _UnaskedWebhooks(), SystemClock(), settings)


def _print(each: Preview) -> None:
    click.echo(f"{each.kind} {each.name} {_TITLES[each.outcome]}")
    for problem in each.problems:
        click.echo(f"  ✗ {problem}")
    for line in each.lines:
        click.echo(f"  • {line}")
