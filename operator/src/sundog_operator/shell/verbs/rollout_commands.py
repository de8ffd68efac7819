"""The commands that control a rollout: each writes the command annotation and waits for its result."""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.rollout import held_back_revisions
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.rollout import commands, plan_text
from sundog_operator.errors import Conflict, DependencyError, NotFound, RequestRefused
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref, ref_of
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.server_connection import NAME_ARGUMENT, ServerConnection, with_server
from sundog_operator.shell.stored_revisions import list_revisions
from sundog_operator.shell.verbs.get import get_object

_POLL_S: Final = 0.15
_MAX_ATTEMPTS: Final = 20
_REVISION = click.option(
    "--revision",
    type=click.IntRange(min=1),
    help="Expected revision. The operator rejects the command for any other one.",
)
_WAIT = click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the result of the command.")
_TIMEOUT = click.option(
    "--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds to wait for the result."
)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (_TIMEOUT, _WAIT):
        command = option(command)
    return command


def _make_command(verb: str, text: str) -> click.Command:
    """Return the command that sends a verb for the revision that is being rolled out. `text` is its help."""

    async def send(server: ServerConnection, name: str, revision: int | None, wait: bool, timeout: float) -> None:
        await _send_to_candidate(server, name, verb, revision, wait, timeout)

    command = click.command(verb, help=text, epilog=f"Example: sundog {verb} digits")
    return command(NAME_ARGUMENT(_REVISION(_options(with_server(send)))))


skip = _make_command(
    "skip", "Skip the current step of a rollout. The next step must not be the one of 100 %. Harm still rolls back."
)
pause = _make_command("pause", "Pause a rollout at its weight.")
resume = _make_command("resume", "Resume a paused rollout.")
abort = _make_command(
    "abort", "End a rollout and send all traffic back to stable. The revision is held back until `retry`."
)


@click.command(epilog="Example: sundog promote digits --full")
@NAME_ARGUMENT
@_REVISION
@click.option("--full", is_flag=True, help="Promote all remaining steps.")
@_options
@with_server
async def promote(
    server: ServerConnection, name: str, revision: int | None, full: bool, wait: bool, timeout: float
) -> None:
    """Promote the current step of a rollout. After the last step its revision is stable."""
    await _send_to_candidate(server, name, "promote", revision, wait, timeout, " full=true" if full else "")


@click.command(epilog="Example: sundog retry digits")
@NAME_ARGUMENT
@_REVISION
@_options
@with_server
async def retry(server: ServerConnection, name: str, revision: int | None, wait: bool, timeout: float) -> None:
    """Retry a revision that failed, was aborted or was rolled back.

    After a rollback or an abort a new attempt begins, with no old counts and an alpha of its own. So the chance that a worse revision is
    promoted adds up over attempts: fix the cause first.
    """
    obj = await get_object(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    with _prefix_errors(obj):
        number = revision or find_revision_to_retry(ModelDeploymentStatus.parse(obj.get("status")))
    attempts = await _find_attempts(server, name, number)
    await _send(server, obj, "retry", number, wait, timeout)
    if attempts and all(phases.is_over(each) for each in attempts) and attempts[-1].plan.alpha is not None:
        text = plan_text.describe_attempt(len(attempts) + 1, attempts[-1].plan.alpha)
        click.echo(f"{name}: {text}")


async def _find_attempts(server: ServerConnection, name: str, revision: int) -> list[ExperimentStatus]:
    """Return the statuses of the rollout's attempts of a revision that are stored."""
    labels = {
        names.LABEL_MODEL_DEPLOYMENT: name,
        names.LABEL_REVISION: str(revision),
        names.LABEL_ROLLOUT: "true",
    }
    found = await server.kube.list(EXPERIMENT, server.namespace, labels)
    return [ExperimentStatus.parse(each.get("status")) for each in found]


@click.command(epilog="Example: sundog rollback digits --to 3")
@NAME_ARGUMENT
@click.option("--to", type=click.IntRange(min=1), help="The revision to roll back to. Default: the previous one.")
@_options
@with_server
async def rollback(server: ServerConnection, name: str, to: int | None, wait: bool, timeout: float) -> None:
    """Roll back to an earlier revision at once. The revision of the spec is held back until `retry`."""
    obj = await get_object(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    with _prefix_errors(obj):
        number = to or find_previous_revision(
            ModelDeploymentStatus.parse(obj.get("status")), await list_revisions(server, obj)
        )
    await _send(server, obj, "rollback", number, wait, timeout)


@click.command(epilog="Example: sundog stop digits")
@NAME_ARGUMENT
@_REVISION
@_options
@with_server
async def stop(server: ServerConnection, name: str, revision: int | None, wait: bool, timeout: float) -> None:
    """End the Experiment that runs on a ModelDeployment, with the evidence so far. Stable gets all traffic."""
    obj = await _find_deployment_to_stop(server, name)
    status = ModelDeploymentStatus.parse(obj.get("status"))
    if status.arms is None or status.stable is None:
        raise CommandFailed(f"ModelDeployment {server.namespace}/{name}: no Experiment is running")
    await _send(server, obj, "stop", revision or status.stable.revision, wait, timeout)


@contextmanager
def _prefix_errors(obj: Object) -> Iterator[None]:
    """Put the object's name before the message of CommandFailed."""
    try:
        yield
    except CommandFailed as failed:
        raise CommandFailed(f"{ref_of(obj)}: {failed}", failed.exit_code) from None


@contextmanager
def _explain_lost_server(ref: Ref, explanation: str) -> Iterator[None]:
    """Add the state of a command to the error if the API server is gone, for example because its instance stops."""
    try:
        yield
    except (Conflict, NotFound, RequestRefused):
        raise
    except DependencyError as lost:
        raise CommandFailed(f"{ref}: {explanation} ({lost})", ExitCode.UNREACHABLE) from None


async def _find_deployment_to_stop(server: ServerConnection, name: str) -> Object:
    """Return the ModelDeployment. Raises NotFound, which names the ModelDeployment if `name` is an Experiment."""
    try:
        return await get_object(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    except NotFound as missing:
        experiment = await server.kube.get(Ref(EXPERIMENT, server.namespace, name))
        if experiment is None:
            raise
        owner = experiment["spec"]["modelDeployment"]
        raise NotFound(f"{missing}. Experiment {name} runs on {owner}: use `sundog stop {owner}`") from None


async def _send_to_candidate(
    server: ServerConnection, name: str, verb: str, revision: int | None, wait: bool, timeout: float, options: str = ""
) -> None:
    """Send a command for a revision, by default the one being rolled out. Raises CommandFailed."""
    obj = await get_object(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    if revision is None:
        candidate = ModelDeploymentStatus.parse(obj.get("status")).candidate
        if candidate is None:
            raise CommandFailed(f"ModelDeployment {server.namespace}/{name}: no rollout to {verb}")
        revision = candidate.revision
    await _send(server, obj, verb, revision, wait, timeout, options)


async def _send(
    server: ServerConnection, obj: Object, verb: str, revision: int, wait: bool, timeout: float, options: str = ""
) -> None:
    """Write the annotation and print the result. Raises CommandFailed."""
    ref = Ref(MODEL_DEPLOYMENT, server.namespace, obj["metadata"]["name"])
    ident = secrets.token_hex(8)
    with _explain_lost_server(ref, "the API server may have stored the command; `sundog describe` shows it"):
        await _write(server, obj, f"{verb} revision={revision} id={ident}{options}")
    if not wait:
        click.echo(f"{ref.name}: {verb} revision {revision} sent as {ident}")
        return
    stored = f"{verb} revision {revision} is stored as {ident}; an operator handles it when it runs"
    try:
        with _explain_lost_server(ref, stored):
            async with asyncio.timeout(timeout):
                result = await _wait_for_result(server, ref, ident)
    except TimeoutError:
        raise CommandFailed(
            f"{ref}: no operator handled the command within {timeout:g} s; it stays in the annotation as {ident}",
            ExitCode.TIMEOUT,
        ) from None
    if result["result"] != "Accepted":
        raise CommandFailed(
            f"{ref}: {verb} revision {revision} was rejected: {result.get('message') or 'no reason given'}"
        )
    click.echo(f"{ref.name}: {verb} revision {revision} accepted")


async def _write(server: ServerConnection, obj: Object, command: str) -> None:
    """Write the annotation without overwriting a pending command, even if others write meanwhile. Raises CommandFailed."""
    ref = ref_of(obj)
    for _ in range(_MAX_ATTEMPTS):
        _require_no_pending_command(obj)
        version = obj["metadata"]["resourceVersion"]
        try:
            await server.kube.annotate(ref, {names.ANNOTATION_COMMAND: command}, resource_version=version)
        except Conflict:
            obj = await get_object(server, ref)
        else:
            return
    raise CommandFailed(
        f"{ref}: the object changed {_MAX_ATTEMPTS} times before the command was written. Try again later"
    )


def _require_no_pending_command(obj: Object) -> None:
    """Raise CommandFailed if the operator has not handled the present command yet."""
    text = _command(obj)
    last = (obj.get("status") or {}).get("lastCommand") or {}
    if text and commands.parse_command(text).id != last.get("id"):
        raise CommandFailed(f"{ref_of(obj)}: the command {text!r} is not handled yet. Try again later")


def _command(obj: Object) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(names.ANNOTATION_COMMAND) or "")


async def _wait_for_result(server: ServerConnection, ref: Ref, ident: str) -> dict[str, Any]:
    """Wait for the result of a command. Raises CommandFailed if another command overwrites it first."""
    while True:
        obj = await get_object(server, ref)
        last: dict[str, Any] = (obj.get("status") or {}).get("lastCommand") or {}
        if last.get("id") == ident:
            return last
        if commands.parse_command(_command(obj)).id != ident:
            problem = f"the command {ident} was overwritten before its result was known"
            raise CommandFailed(f"{ref}: {problem}; the annotation is {_command(obj)!r}")
        await asyncio.sleep(_POLL_S)


def find_revision_to_retry(status: ModelDeploymentStatus) -> int:
    """Return the revision that `retry` retries: the candidate, else the one held back last. Raises CommandFailed."""
    if status.candidate is not None:
        return status.candidate.revision
    newest = status.held_back[-1] if status.held_back else status.last_rollout
    if newest is not None and held_back_revisions.is_failed_rollout(newest):
        return newest.revision
    raise CommandFailed("nothing to retry: no revision failed, was aborted or was rolled back")


def find_previous_revision(status: ModelDeploymentStatus, known: Sequence[Revision]) -> int:
    """Return the stable revision during a rollout, else the one that was stable before it. Raises CommandFailed.

    An arm of an Experiment never was stable, however much traffic it had.
    """
    if status.stable is None:
        raise CommandFailed("nothing to roll back: no revision serves yet")
    stable = status.stable.revision
    if status.candidate is not None:
        return stable
    numbers = sorted(revision.number for revision in known)
    before = next((number for number in status.stable_before if number in numbers), None)
    if before is None:
        history = ", ".join(str(number) for number in numbers)
        raise CommandFailed(f"no revision was stable before {stable}. Choose one with --to; the history has {history}")
    return before
