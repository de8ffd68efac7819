"""`sundog plan`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from sundog_operator.adapters.clock import SystemClock
from sundog_operator.api.installation import UNKNOWN_INSTALLATION
from sundog_operator.app.dependencies import Dependencies, OperatorSettings
from sundog_operator.app.neighbours import list_salt_owners
from sundog_operator.app.observe import observe
from sundog_operator.core.edge import salts
from sundog_operator.core.edge.salts import SaltOwner
from sundog_operator.core.observed import EdgeReport, ServeState, WebhookResult
from sundog_operator.core.trial.experiment import log_exports
from sundog_operator.errors import Conflict, DependencyError, Invalid, NotFound, RequestRefused
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, SECRET, Kind, Object, Ref
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode, one_line
from sundog_operator.shell.installation import find_installation
from sundog_operator.shell.manifests import ManifestObject, has_mistakes, read_all_manifests
from sundog_operator.shell.output import TEXT_OUTPUT_OPTION, print_document
from sundog_operator.shell.preview.experiment import describe_kept_plan, preview_experiment
from sundog_operator.shell.preview.local_models import preview_local_models
from sundog_operator.shell.preview.model_deployment import (
    Preview,
    describe_kept_revision,
    find_server_violations,
    make_new_object,
    preview_model_deployment,
)
from sundog_operator.shell.server_connection import ServerConnection, fail_offline, with_server
from sundog_operator.shell.verbs.apply import FILES_OPTION, check_documents, find_offline_problems

_OUTCOMES: Final = {
    "create": "would be created",
    "change": "would change",
    "unchanged": "would not change",
    "refused": "would be refused",
}
_SALTED: Final[Mapping[Kind, salts.SaltOwnerKind]] = {EXPERIMENT: "Experiment", MODEL_DEPLOYMENT: "ModelDeployment"}


_IS_NOT_CHECKED: Final = re.compile(r'User ".*" cannot \w+ resource|does not support dry run')
"""Answers of Kubernetes to a dry run that say nothing of the apply: the user may lack a permission that who applies has."""


@dataclass(frozen=True, slots=True)
class _DryRun:
    """The API server's answer to the dry run of an apply.

    Attributes:
        applied: the object as it would be stored; None if that is unknown.
        problems: why the apply would be refused.
        note: why it is unknown whether the apply would be refused; else empty.
    """

    applied: Object | None = None
    problems: tuple[str, ...] = ()
    note: str = ""

    def add_note(self, preview: Preview) -> Preview:
        """Return the preview with the note, unless it is refused anyway."""
        if not self.note or preview.outcome == "refused":
            return preview
        return replace(preview, lines=(*preview.lines, self.note))


class _UnknownServe:
    """Serve without requests: it may be unreachable from here, and does not decide about a manifest."""

    async def read(self, dashboard: str, namespace: str) -> ServeState:  # noqa: ARG002
        """Return an unknown state."""
        return ServeState(known=False)

    async def put(self, dashboard: str, namespace: str, document: Mapping[str, Any]) -> None:
        """Fail: a preview writes nothing."""
        raise AssertionError(f"a preview wrote to {dashboard} of {namespace}: {document}")


class _UnknownEdges:
    """Edges without requests, for the same reasons."""

    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        """Return reports without evidence."""
        return [EdgeReport(pod["metadata"]["name"], ready=False, terminating=False, evidence=None) for pod in pods]

    async def count(self, pods: Sequence[Object], service: str, *, by_unit: bool = False) -> list[EdgeReport]:
        """Return reports without evidence."""
        del service, by_unit
        return await self.read(pods)


class _NoWebhooks:
    async def post(self, url: str, document: Mapping[str, Any], timeout_s: float) -> WebhookResult:  # noqa: ARG002
        """Return a problem without a request."""
        return WebhookResult(problem="is not called by a preview")


@click.command(epilog="Example: sundog plan -f digits.yaml")
@FILES_OPTION
@TEXT_OUTPUT_OPTION
@partial(with_server, find_offline_problems=find_offline_problems)
async def plan(server: ServerConnection, files: Sequence[Path], output: str) -> int:
    """Show what an apply would change, and why. Writes nothing.

    The operator's planner decides, with the objects that the API server holds now. Exit code 1 if an object would be refused.
    If the API server cannot be asked, the manifests are checked alone: exit code 1 if one is invalid, else 4.
    """
    documents, problems = read_all_manifests(files, server.namespace)
    try:
        previews = [
            await _preview(server, document, documents)
            if document.ref.kind == MODEL_DEPLOYMENT
            else await _preview_experiment(server, document, documents)
            for document in documents
            if document.ref.kind in (MODEL_DEPLOYMENT, EXPERIMENT)
        ]
        secrets = [(each, await _dry_run_apply(server, each)) for each in documents if each.ref.kind == SECRET]
    except DependencyError as err:
        raise fail_offline([*problems, *check_documents(documents)], f"not compared with the cluster: {err}") from None
    for problem in problems:
        problem.print()
    has_mistake = has_mistakes(problems)
    if not documents and not has_mistake:
        raise CommandFailed(f"no ModelDeployment and no Experiment in {', '.join(map(str, files))}")
    if output != "text":
        print_document([asdict(each) for each in previews], output)
    else:
        for each in previews:
            _print(each)
    for document, dry_run in secrets:
        outcome = f"error: {document.source}" if dry_run.problems else f"skipped: {document.source}"
        reason = "; ".join(dry_run.problems) or dry_run.note or "Secrets are not previewed"
        click.echo(f"{outcome}: {document.ref}: {reason}", err=True)
    refused = any(each.outcome == "refused" for each in previews) or any(each.problems for _, each in secrets)
    return ExitCode.REFUSED if refused or has_mistake else ExitCode.OK


async def _preview(server: ServerConnection, document: ManifestObject, documents: Sequence[ManifestObject]) -> Preview:
    """Preview a ModelDeployment of `documents`, which are applied together."""
    namespace = document.ref.namespace
    stored, dependencies = await server.kube.get(document.ref), await _make_dependencies(server, namespace)
    dry_run = await _dry_run_apply(server, document)
    if dry_run.problems:
        return _refuse(document, stored, dry_run, describe_kept_revision(stored))
    observed = await observe(dependencies, _make_desired(document, stored))
    secrets = {
        each.ref.name: _secret_keys(each.object)
        for each in documents
        if (each.ref.kind, each.ref.namespace) == (SECRET, namespace)
    }
    observed = replace(
        observed,
        secrets={**observed.secrets, **secrets},
        salts=_merge_salts(observed.salts, documents, namespace),
    )
    preview = preview_model_deployment(document.object, stored, observed, dependencies.clock.now(), dry_run.applied)
    return dry_run.add_note(await _with_local_models(server, document, preview))


def _secret_keys(secret: Object) -> frozenset[str]:
    """Return the keys of a Secret of a manifest. The API server refuses maps of another type."""
    maps = (secret.get("data"), secret.get("stringData"))
    return frozenset(key for each in maps if isinstance(each, dict) for key in each)


def _make_desired(document: ManifestObject, stored: Object | None) -> Object:
    """Return the object as it would be after an apply."""
    return make_new_object(document.object) if stored is None else _with_spec(stored, document.object.get("spec"))


def _with_spec(stored: Object, spec: Any) -> Object:
    """Return a stored object with another spec, which its status does not describe yet."""
    meta = stored["metadata"]
    return {**stored, "metadata": {**meta, "generation": meta.get("generation", 0) + 1}, "spec": spec}


async def _dry_run_apply(server: ServerConnection, document: ManifestObject) -> _DryRun:
    """Return the API server's answer to a dry run. Raises DependencyError if there is none."""
    try:
        return _DryRun(await server.kube.apply(document.object, dry_run=True))
    except Invalid as err:
        return _DryRun(problems=err.causes)
    except (RequestRefused, Conflict, NotFound) as err:
        reason = one_line(err).removeprefix(f"{document.ref}: ")
        if isinstance(err, NotFound) or _IS_NOT_CHECKED.search(reason):
            return _DryRun(note=f"the API server's admission is unknown: {reason}")
        return _DryRun(problems=(reason,))


def _refuse(document: ManifestObject, stored: Object | None, dry_run: _DryRun, kept: tuple[str, ...]) -> Preview:
    """Preview an object that the API server refuses, in our own words where there are some."""
    ref, own = document.ref, find_server_violations(document.object, _make_desired(document, stored), stored)
    name, problems = f"{ref.namespace}/{ref.name}", own or dry_run.problems
    return Preview(name, "refused", lines=kept, problems=problems, kind=ref.kind.kind)


async def _with_local_models(server: ServerConnection, document: ManifestObject, preview: Preview) -> Preview:
    """Add what is found of the model's files, if this machine is the one that would load them."""
    if not server.local or preview.outcome == "refused":
        return preview
    return replace(preview, lines=(*preview.lines, *await preview_local_models(document.object["spec"])))


async def _preview_experiment(
    server: ServerConnection, document: ManifestObject, documents: Sequence[ManifestObject]
) -> Preview:
    """Preview an Experiment of `documents`, which are applied together."""
    namespace = document.ref.namespace
    stored, dependencies = await server.kube.get(document.ref), await _make_dependencies(server, namespace)
    dry_run = await _dry_run_apply(server, document)
    if dry_run.problems:
        return _refuse(document, stored, dry_run, describe_kept_plan(stored))
    name = (document.object.get("spec") or {}).get("modelDeployment")
    ref = Ref(MODEL_DEPLOYMENT, namespace, name) if isinstance(name, str) and name else None
    deployment = await server.kube.get(ref) if ref is not None else None
    observed = await observe(dependencies, deployment) if deployment is not None else None
    known = observed.salts if observed is not None else await list_salt_owners(dependencies, namespace)
    preview = preview_experiment(
        document.object,
        stored,
        observed,
        dependencies.clock.now(),
        comes=ref in {each.ref for each in documents},
        log_refusal=await make_log_place_check(server, namespace),
        known_salts=_merge_salts(known, documents, namespace),
    )
    return dry_run.add_note(await _with_local_models(server, document, preview))


def _merge_salts(
    stored: Sequence[SaltOwner], documents: Sequence[ManifestObject], namespace: str
) -> tuple[SaltOwner, ...]:
    """Return the salt owners of a namespace after all documents are applied."""
    applied = [each for each in documents if each.ref.kind in _SALTED and each.ref.namespace == namespace]
    replaced = {(_SALTED[each.ref.kind], each.ref.name) for each in applied}
    kept = [each for each in stored if (each.kind, each.name) not in replaced]
    return (*kept, *filter(None, (salts.find_salt_owner(_SALTED[each.ref.kind], each.object) for each in applied)))


async def make_log_place_check(server: ServerConnection, namespace: str) -> Callable[[str], str]:
    """Return a check that gives the reason why a place may hold no exposure log.

    The reason is empty if the place is allowed, or if the installation cannot be read.
    """
    if server.local:
        return partial(log_exports.find_place_violation, allowed=None)
    installation = await find_installation(server.kube, namespace)
    if installation is None:
        return lambda _: ""
    return partial(log_exports.find_place_violation, allowed=installation.exposure_logs.places)


async def _make_dependencies(server: ServerConnection, namespace: str) -> Dependencies:
    """Return the dependencies of a preview, with the administrator's settings if the user may read them, else unknown ones."""
    installation = None if server.local else await find_installation(server.kube, namespace) or UNKNOWN_INSTALLATION
    settings = OperatorSettings(installation=installation)
    return Dependencies(server.kube, _UnknownServe(), _UnknownEdges(), _NoWebhooks(), SystemClock(), settings)


def _print(preview: Preview) -> None:
    click.echo(f"{preview.kind} {preview.name} {_OUTCOMES[preview.outcome]}")
    for problem in preview.problems:
        click.echo(f"  ✗ {problem}")
    for line in preview.lines:
        click.echo(f"  • {line}")
