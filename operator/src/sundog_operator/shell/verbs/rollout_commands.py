"""The verbs that steer a rollout: each writes the command annotation and waits for what became of it."""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import held_back_revisions
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import commands, state
from sundog_operator.errors import Conflict, DependencyError, Forbidden, NotFound
from sundog_operator.ports import CONTROLLER_REVISION, EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref, ref_of
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.server_connection import NAME_ARGUMENT, ServerConnection, with_server
from sundog_operator.shell.verbs.get import find

_POLL_S: Final = 0.15
_TRIES: Final = 20
_REVISION = click.option("--revision", type=click.IntRange(min=1), help="Only if this is the revision it is about.")
_WAIT = click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the command was handled.")
_TIMEOUT = click.option(
    "--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds to wait for that."
)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (_TIMEOUT, _WAIT):
        command = option(command)
    return command


@click.command()
@NAME_ARGUMENT
@_REVISION
@click.option("--full", is_flag=True, help="Pass all steps that are left.")
@_options
@with_server
async def promote(
    server: ServerConnection, name: str, revision: int | None, full: bool, wait: bool, timeout: float
) -> None:
    """Let a rollout pass its current step; after the last one its revision is stable."""
    await _steer(server, name, "promote", revision, wait, timeout, " full=true" if full else "")


@click.command()
@NAME_ARGUMENT
@_REVISION
@_options
@with_server
async def skip(server: ServerConnection, name: str, revision: int | None, wait: bool, timeout: float) -> None:
    """Leave out a rollout's current step and go on with the next one, which is never that of all traffic; harm is looked for on."""
    await _steer(server, name, "skip", revision, wait, timeout)


@click.command()
@NAME_ARGUMENT
@_REVISION
@_options
@with_server
async def pause(server: ServerConnection, name: str, revision: int | None, wait: bool, timeout: float) -> None:
    """Let a rollout stand still at its weight."""
    await _steer(server, name, "pause", revision, wait, timeout)


@click.command()
@NAME_ARGUMENT
@_REVISION
@_options
@with_server
async def resume(server: ServerConnection, name: str, revision: int | None, wait: bool, timeout: float) -> None:
    """Let a paused rollout go on."""
    await _steer(server, name, "resume", revision, wait, timeout)


@click.command()
@NAME_ARGUMENT
@_REVISION
@_options
@with_server
async def abort(server: ServerConnection, name: str, revision: int | None, wait: bool, timeout: float) -> None:
    """End a rollout; all traffic goes back to stable, and the revision is held back until `retry`."""
    await _steer(server, name, "abort", revision, wait, timeout)


@click.command()
@NAME_ARGUMENT
@_REVISION
@_options
@with_server
async def retry(server: ServerConnection, name: str, revision: int | None, wait: bool, timeout: float) -> None:
    """Try a revision again that failed, was aborted or was rolled back."""
    obj = await find(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    with _named(obj):
        number = revision or find_revision_to_retry(ModelDeploymentStatus.parse(obj.get("status")))
    await _send(server, obj, "retry", number, wait, timeout)


@click.command()
@NAME_ARGUMENT
@click.option("--to", type=click.IntRange(min=1), help="The revision to go back to; by default the one before.")
@_options
@with_server
async def rollback(server: ServerConnection, name: str, to: int | None, wait: bool, timeout: float) -> None:
    """Go back to an earlier revision at once; what the spec stands for is held back until `retry`."""
    obj = await find(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    with _named(obj):
        number = to or await _previous(server, obj)
    await _send(server, obj, "rollback", number, wait, timeout)


@click.command()
@NAME_ARGUMENT
@_REVISION
@_options
@with_server
async def stop(server: ServerConnection, name: str, revision: int | None, wait: bool, timeout: float) -> None:
    """End the Experiment that runs on a ModelDeployment, with the evidence so far; stable gets all traffic."""
    obj = await _stopped(server, name)
    status = ModelDeploymentStatus.parse(obj.get("status"))
    if status.arms is None or status.stable is None:
        raise CommandFailed(f"ModelDeployment {server.namespace}/{name}: no Experiment of a user's own is under way")
    await _send(server, obj, "stop", revision or status.stable.revision, wait, timeout)


@contextmanager
def _named(obj: Object) -> Iterator[None]:
    """Why a command fails begins with the object."""
    try:
        yield
    except CommandFailed as failed:
        raise CommandFailed(f"{ref_of(obj)}: {failed}", failed.exit_code) from None


@contextmanager
def _told_if_cut_off(ref: Ref, what_follows: str) -> Iterator[None]:
    """What becomes of a command whose API server went away meanwhile, as one does while its instance stops."""
    try:
        yield
    except (Conflict, NotFound, Forbidden):
        raise
    except DependencyError as lost:
        raise CommandFailed(f"{ref}: {what_follows} ({lost})", ExitCode.UNREACHABLE) from None


async def _stopped(server: ServerConnection, name: str) -> Object:
    """The ModelDeployment. Raises NotFound, which tells whoever gave an Experiment's name whose it is."""
    try:
        return await find(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    except NotFound as missing:
        experiment = await server.kube.get(Ref(EXPERIMENT, server.namespace, name))
        if experiment is None:
            raise
        owner = experiment["spec"]["modelDeployment"]
        raise NotFound(f"{missing}; Experiment {name} is one of {owner}: `sundog stop {owner}`") from None


async def _steer(
    server: ServerConnection, name: str, verb: str, revision: int | None, wait: bool, timeout: float, options: str = ""
) -> None:
    obj = await find(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    if revision is None:
        candidate = ModelDeploymentStatus.parse(obj.get("status")).candidate
        if candidate is None:
            raise CommandFailed(
                f"ModelDeployment {server.namespace}/{name}: no rollout is under way, there is nothing to {verb}"
            )
        revision = candidate.revision
    await _send(server, obj, verb, revision, wait, timeout, options)


async def _send(
    server: ServerConnection, obj: Object, verb: str, revision: int, wait: bool, timeout: float, options: str = ""
) -> None:
    """Write the annotation and report what became of it. Raises CommandFailed."""
    ref = Ref(MODEL_DEPLOYMENT, server.namespace, obj["metadata"]["name"])
    ident = secrets.token_hex(8)
    with _told_if_cut_off(ref, "whether the API server has taken the command is not known: `sundog describe` shows it"):
        await _write(server, obj, f"{verb} revision={revision} id={ident}{options}")
    if not wait:
        click.echo(f"{ref.name}: {verb} revision {revision} sent as {ident}")
        return
    kept = f"{verb} revision {revision} is kept as {ident}, and handled when an operator runs"
    try:
        with _told_if_cut_off(ref, kept):
            async with asyncio.timeout(timeout):
                done = await _handled(server, ref, ident)
    except TimeoutError:
        raise CommandFailed(
            f"{ref}: no operator handled the command within {timeout:g} s; it stays in the annotation as {ident}",
            ExitCode.TIMEOUT,
        ) from None
    if done["result"] != "Accepted":
        raise CommandFailed(
            f"{ref}: {verb} revision {revision} was rejected: {done.get('message') or 'no reason given'}"
        )
    click.echo(f"{ref.name}: {verb} revision {revision} accepted")


async def _write(server: ServerConnection, obj: Object, command: str) -> None:
    """Write the annotation over no command that nobody has handled, whoever else writes meanwhile. Raises CommandFailed."""
    ref = ref_of(obj)
    for _ in range(_TRIES):
        _wait_in_line(obj)
        version = obj["metadata"]["resourceVersion"]
        try:
            await server.kube.annotate(ref, {names.ANNOTATION_COMMAND: command}, resource_version=version)
        except Conflict:
            obj = await find(server, ref)
        else:
            return
    raise CommandFailed(f"{ref}: changed {_TRIES} times before the command was written: try again in a moment")


def _wait_in_line(obj: Object) -> None:
    """Do not overwrite a command that nobody has handled yet. Raises CommandFailed."""
    text = _command(obj)
    last = (obj.get("status") or {}).get("lastCommand") or {}
    if text and commands.parse_command(text).id != last.get("id"):
        raise CommandFailed(f"{ref_of(obj)}: the command {text!r} is not handled yet: try again in a moment")


def _command(obj: Object) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(names.ANNOTATION_COMMAND) or "")


async def _handled(server: ServerConnection, ref: Ref, ident: str) -> dict[str, Any]:
    """What became of a command. Raises CommandFailed where somebody overwrote it before that was told."""
    while True:
        obj = await find(server, ref)
        last: dict[str, Any] = (obj.get("status") or {}).get("lastCommand") or {}
        if last.get("id") == ident:
            return last
        if commands.parse_command(_command(obj)).id != ident:
            told = f"the command {ident} was overwritten before anybody told what became of it"
            raise CommandFailed(f"{ref}: {told}; the annotation is {_command(obj)!r}")
        await asyncio.sleep(_POLL_S)


def find_revision_to_retry(status: ModelDeploymentStatus) -> int:
    """The revision that `retry` is about: the candidate, else the one that is held back. Raises CommandFailed."""
    if status.candidate is not None:
        return status.candidate.revision
    newest = status.held_back[-1] if status.held_back else status.last_rollout
    if newest is not None and held_back_revisions.is_failed_rollout(newest):
        return newest.revision
    raise CommandFailed("no revision failed, was aborted or was rolled back: there is nothing to retry")


async def _previous(server: ServerConnection, obj: Object) -> int:
    """The revision that `rollback` goes back to. Raises CommandFailed."""
    uid, name = obj["metadata"]["uid"], obj["metadata"]["name"]
    labels = {names.LABEL_MODEL_DEPLOYMENT: name}
    stored = await server.kube.list(CONTROLLER_REVISION, server.namespace, labels)
    known = [
        r for each in stored if revisions.is_owned_by(each, uid) and (r := revisions.parse_controller_revision(each))
    ]
    attempts = await server.kube.list(EXPERIMENT, server.namespace, labels)
    failed = find_failed_revisions([each for each in attempts if revisions.is_owned_by(each, uid)])
    return find_previous_revision(ModelDeploymentStatus.parse(obj.get("status")), known, failed)


def find_failed_revisions(attempts: Sequence[Object]) -> frozenset[int]:
    """Revisions whose rollouts all ended without a promotion."""
    promoted: set[int] = set()
    stopped: set[int] = set()
    for attempt in attempts:
        label = str((attempt["metadata"].get("labels") or {}).get(names.LABEL_REVISION, ""))
        number = int(label) if label.isdecimal() else 0
        phase = ExperimentStatus.parse(attempt.get("status")).phase
        (promoted if phase == state.CONCLUDED else stopped).add(number)
    return frozenset(stopped - promoted)


def find_previous_revision(status: ModelDeploymentStatus, known: Sequence[Revision], failed: frozenset[int]) -> int:
    """The stable revision while a candidate is under way, else the newest earlier one that ever served. Raises CommandFailed."""
    if status.stable is None:
        raise CommandFailed("nothing serves yet: there is nothing to roll back")
    stable = status.stable.revision
    if status.candidate is not None:
        return stable
    earlier = [revision.number for revision in known if revision.number < stable and revision.number not in failed]
    if not earlier:
        history = ", ".join(str(number) for number in sorted(revision.number for revision in known))
        raise CommandFailed(f"no revision before {stable} ever served; choose one with --to. The history: {history}")
    return max(earlier)
