"""`sundog describe`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.desired_state import find_shared_places
from sundog_operator.core.ray import groups
from sundog_operator.errors import Forbidden
from sundog_operator.ports import EVENT, EXPERIMENT, POD, Object, Ref
from sundog_operator.shell import kinds
from sundog_operator.shell.live_counts import add_live_counts
from sundog_operator.shell.output import TEXT_OUTPUT_OPTION, print_document, print_rich
from sundog_operator.shell.server_connection import ServerConnection, complete_names, with_server
from sundog_operator.shell.stored_revisions import list_revisions
from sundog_operator.shell.verbs.get import get_object
from sundog_operator.shell.view.experiment import describe_experiment
from sundog_operator.shell.view.model_deployment import (
    DeploymentDetails,
    describe_model_deployment,
    find_wait_reason,
    newest_rollout_revision,
)
from sundog_operator.shell.view.waiting_pods import describe_waiting_pods

_MAX_EVENTS: Final = 12


@click.command(epilog="Example: sundog describe digits")
@click.argument("what", nargs=-1, required=True, metavar="[mdep|mexp] NAME...", shell_complete=complete_names)
@TEXT_OUTPUT_OPTION
@with_server
async def describe(server: ServerConnection, what: tuple[str, ...], output: str) -> None:
    """Show a ModelDeployment or an Experiment in full: revisions, steps, what it waits for, conditions, events."""
    kind, names = kinds.parse_kind_and_names(what)
    if not names:
        raise click.UsageError("give a NAME")
    objects = [await get_object(server, Ref(kind, server.namespace, name)) for name in names]
    events = await server.kube.list(EVENT, server.namespace)
    descriptions = [await _read_details(server, obj, events) for obj in objects]
    if output != "text":
        documents = [_document(details) for details in descriptions]
        print_document(documents[0] if len(documents) == 1 else documents, output)
    else:
        _print(descriptions)
    server.print_problems()


def _print(descriptions: Sequence[DeploymentDetails]) -> None:
    now = datetime.now(UTC)
    for position, details in enumerate(descriptions):
        if position:
            click.echo()
        if details.obj["kind"] == EXPERIMENT.kind:
            text = describe_experiment(details.obj, details.events, now)
        else:
            text = describe_model_deployment(details, now)
        print_rich(text)


def _document(details: DeploymentDetails) -> dict[str, Any]:
    """Return all parts of a description, as the API server has them."""
    if details.obj["kind"] == EXPERIMENT.kind:
        return {"experiment": details.obj, "events": list(details.events)}
    status = ModelDeploymentStatus.parse(details.obj.get("status"))
    return {
        "modelDeployment": details.obj,
        "waitsFor": find_wait_reason(details.obj, status),
        "revisions": [{"revision": each.number, "content": dict(each.content)} for each in details.revisions],
        "experiment": details.experiment,
        "raised": details.exception,
        "waitingPods": [text for _, text in details.waiting],
        "events": list(details.events),
    }


async def _read_details(server: ServerConnection, obj: Object, events: Sequence[Object]) -> DeploymentDetails:
    """Return an object with related objects. `events` are those of its namespace."""
    meta, own_events = obj["metadata"], _find_newest(events, obj)
    if obj["kind"] == EXPERIMENT.kind:
        return DeploymentDetails(obj=await add_live_counts(server, obj), events=own_events)
    known = await list_revisions(server, obj)
    status = ModelDeploymentStatus.parse(obj.get("status"))
    experiment = status.experiment or (status.last_rollout.experiment if status.last_rollout else "")
    shared = {*find_shared_places(status, known).values()}
    return DeploymentDetails(
        obj=obj,
        revisions=known,
        experiment=await _read_experiment(server, Ref(EXPERIMENT, server.namespace, experiment))
        if experiment
        else None,
        exception=_find_exception(server, obj, newest_rollout_revision(status)),
        events=own_events,
        waiting=tuple(describe_waiting_pods(await _read_pods(server, meta["name"], sorted(shared)), events)),
    )


async def _read_pods(server: ServerConnection, name: str, shared: Sequence[str]) -> list[Object]:
    """Return the pods of a ModelDeployment and the shared pods of these RayClusters; none in local mode, or without permission."""
    if server.local:
        return []
    selectors = [{names.LABEL_MODEL_DEPLOYMENT: name}, *map(groups.shared_pod_labels, shared)]
    try:
        return [pod for labels in selectors for pod in await server.kube.list(POD, server.namespace, labels)]
    except Forbidden:
        return []


async def _read_experiment(server: ServerConnection, ref: Ref) -> Object | None:
    experiment = await server.kube.get(ref)
    return None if experiment is None else await add_live_counts(server, experiment)


def _find_exception(server: ServerConnection, obj: Object, revision: int | None) -> str:
    """Return the last exception of a revision's model; empty if its replicas' logs are not on this machine."""
    if server.state is None or revision is None:
        return ""
    from sundog_operator.adapters.local import replica_logs

    return replica_logs.find_last_exception(server.state, obj, revision)


def _find_newest(events: Sequence[Object], obj: Object) -> list[Object]:
    """Return the newest events about an object."""
    uid = obj["metadata"]["uid"]
    own = [event for event in events if (event.get("regarding") or {}).get("uid") == uid]
    return sorted(own, key=lambda event: str(event.get("eventTime") or ""))[-_MAX_EVENTS:]
