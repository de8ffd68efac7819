"""`sundog describe`."""

import sys
from datetime import UTC, datetime
from typing import Final

import click

from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.core import names, revisions
from sundog_operator.ports import CONTROLLER_REVISION, EVENT, EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref
from sundog_operator.shell import kinds
from sundog_operator.shell.describing import (
    Subject,
    describe_experiment,
    describe_model_deployment,
    newest_rollout,
)
from sundog_operator.shell.output import NO_TERMINAL, print_rich
from sundog_operator.shell.target import Server, complete_name, talks_to_server
from sundog_operator.shell.verbs.get import find

_EVENTS: Final = 12


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="[mdep|mexp] NAME...", shell_complete=complete_name)
@talks_to_server
async def describe(server: Server, what: tuple[str, ...]) -> None:
    """Tell all about a ModelDeployment or an Experiment: revisions, steps, what it waits for, conditions, events."""
    kind, found = kinds.split(what)
    if not found:
        raise click.UsageError("give a NAME")
    for position, name in enumerate(found):
        obj = await find(server, Ref(kind, server.namespace, name))
        events = await _events(server, obj)
        now = datetime.now(UTC)
        if position:
            click.echo()
        if kind == EXPERIMENT:
            shown = describe_experiment(obj, events, now)
        else:
            shown = describe_model_deployment(await _subject(server, obj, events), now)
        print_rich(shown, None if sys.stdout.isatty() else NO_TERMINAL)
    server.show_problems()


async def _subject(server: Server, obj: Object, events: list[Object]) -> Subject:
    meta = obj["metadata"]
    assert obj["kind"] == MODEL_DEPLOYMENT.kind
    stored = await server.kube.list(CONTROLLER_REVISION, server.namespace, {names.LABEL_MODEL_DEPLOYMENT: meta["name"]})
    own = [each for each in stored if revisions.owned_by(each, meta["uid"])]
    status = ModelDeploymentStatus.parse(obj.get("status"))
    experiment = status.experiment or (status.last_rollout.experiment if status.last_rollout else "")
    return Subject(
        obj=obj,
        revisions=[revision for each in own if (revision := revisions.read_controller_revision(each)) is not None],
        experiment=await server.kube.get(Ref(EXPERIMENT, server.namespace, experiment)) if experiment else None,
        exception=_exception(server, meta["name"], newest_rollout(status)),
        events=events,
    )


def _exception(server: Server, name: str, revision: int | None) -> str:
    """What the model of a revision raised last, where its replicas' logs are on this machine."""
    if server.state is None or revision is None:
        return ""
    from sundog_operator.adapters.local import replica_logs

    return replica_logs.last_exception(server.state, name, revision)


async def _events(server: Server, obj: Object) -> list[Object]:
    """The newest events about an object."""
    uid = obj["metadata"]["uid"]
    own = [
        event
        for event in await server.kube.list(EVENT, server.namespace)
        if (event.get("regarding") or {}).get("uid") == uid
    ]
    return sorted(own, key=lambda event: str(event.get("eventTime") or ""))[-_EVENTS:]
