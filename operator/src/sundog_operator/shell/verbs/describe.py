"""`sundog describe`."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.ports import CONTROLLER_REVISION, EVENT, EXPERIMENT, Object, Ref
from sundog_operator.shell import kinds
from sundog_operator.shell.describe import (
    DeploymentDetails,
    describe_model_deployment,
    find_wait_reason,
    newest_rollout_revision,
)
from sundog_operator.shell.describe_experiment import describe_experiment
from sundog_operator.shell.live_counts import add_live_counts
from sundog_operator.shell.output import PIPE_WIDTH_COLUMNS, print_document, print_rich
from sundog_operator.shell.server_connection import ServerConnection, complete_names, with_server
from sundog_operator.shell.verbs.get import find

_EVENTS: Final = 12


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="[mdep|mexp] NAME...", shell_complete=complete_names)
@click.option("-o", "--output", type=click.Choice(("text", "json", "yaml")), default="text", show_default=True)
@with_server
async def describe(server: ServerConnection, what: tuple[str, ...], output: str) -> None:
    """Tell all about a ModelDeployment or an Experiment: revisions, steps, what it waits for, conditions, events."""
    kind, found = kinds.parse_kind_and_names(what)
    if not found:
        raise click.UsageError("give a NAME")
    objects = [await find(server, Ref(kind, server.namespace, name)) for name in found]
    known = [await _subject(server, obj, await _events(server, obj)) for obj in objects]
    if output == "json" or output == "yaml":
        documents = [_document(subject) for subject in known]
        print_document(documents[0] if len(documents) == 1 else documents, "json" if output == "json" else "yaml")
    else:
        _print(known)
    server.print_problems()


def _print(known: Sequence[DeploymentDetails]) -> None:
    now = datetime.now(UTC)
    for position, subject in enumerate(known):
        if position:
            click.echo()
        if subject.obj["kind"] == EXPERIMENT.kind:
            shown = describe_experiment(subject.obj, subject.events, now)
        else:
            shown = describe_model_deployment(subject, now)
        print_rich(shown, None if sys.stdout.isatty() else PIPE_WIDTH_COLUMNS)


def _document(subject: DeploymentDetails) -> dict[str, Any]:
    """All that a description is made of, as the API server has it."""
    if subject.obj["kind"] == EXPERIMENT.kind:
        return {"experiment": subject.obj, "events": list(subject.events)}
    status = ModelDeploymentStatus.parse(subject.obj.get("status"))
    return {
        "modelDeployment": subject.obj,
        "waitsFor": find_wait_reason(subject.obj, status),
        "revisions": [{"revision": each.number, "content": dict(each.content)} for each in subject.revisions],
        "experiment": subject.experiment,
        "raised": subject.exception,
        "events": list(subject.events),
    }


async def _subject(server: ServerConnection, obj: Object, events: list[Object]) -> DeploymentDetails:
    meta = obj["metadata"]
    if obj["kind"] == EXPERIMENT.kind:
        return DeploymentDetails(obj=await add_live_counts(server, obj), events=events)
    stored = await server.kube.list(CONTROLLER_REVISION, server.namespace, {names.LABEL_MODEL_DEPLOYMENT: meta["name"]})
    own = [each for each in stored if revisions.is_owned_by(each, meta["uid"])]
    status = ModelDeploymentStatus.parse(obj.get("status"))
    experiment = status.experiment or (status.last_rollout.experiment if status.last_rollout else "")
    return DeploymentDetails(
        obj=obj,
        revisions=[revision for each in own if (revision := revisions.parse_controller_revision(each)) is not None],
        experiment=await _with_counts(server, Ref(EXPERIMENT, server.namespace, experiment)) if experiment else None,
        exception=_exception(server, meta["name"], newest_rollout_revision(status)),
        events=events,
    )


async def _with_counts(server: ServerConnection, ref: Ref) -> Object | None:
    experiment = await server.kube.get(ref)
    return None if experiment is None else await add_live_counts(server, experiment)


def _exception(server: ServerConnection, name: str, revision: int | None) -> str:
    """What the model of a revision raised last, where its replicas' logs are on this machine."""
    if server.state is None or revision is None:
        return ""
    from sundog_operator.adapters.local import replica_logs

    return replica_logs.find_last_exception(server.state, name, revision)


async def _events(server: ServerConnection, obj: Object) -> list[Object]:
    """The newest events about an object."""
    uid = obj["metadata"]["uid"]
    own = [
        event
        for event in await server.kube.list(EVENT, server.namespace)
        if (event.get("regarding") or {}).get("uid") == uid
    ]
    return sorted(own, key=lambda event: str(event.get("eventTime") or ""))[-_EVENTS:]
