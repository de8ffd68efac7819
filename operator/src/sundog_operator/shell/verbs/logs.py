"""`sundog logs`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import orjson

from sundog_operator.adapters.local import replica_logs
from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import desired_state
from sundog_operator.core.ray import groups
from sundog_operator.errors import DependencyError, Forbidden
from sundog_operator.ports import MODEL_DEPLOYMENT, POD, Object, Ref
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode, one_line
from sundog_operator.shell.server_connection import NAME_ARGUMENT, ServerConnection, with_server
from sundog_operator.shell.stored_revisions import list_revisions
from sundog_operator.shell.verbs.get import get_object

_POLL_S: Final = 0.5
_LIST_S: Final = 5.0
_CONTAINER: Final = "ray-worker"
_FILES: Final = "/tmp/ray/session_latest/logs/serve"  # noqa: S108 in the pod


@dataclass(slots=True)
class _PodLog:
    """The log of a revision in a pod.

    Attributes:
        has_lines: whether lines of it were printed.
        failure: why its last stream ended early; None if none did.
    """

    pod: str
    revision: int
    has_lines: bool = False
    failure: DependencyError | None = None


@click.command(epilog="Example: sundog logs digits --revision 2 -f")
@NAME_ARGUMENT
@click.option("--revision", type=click.IntRange(1), help="Print only this revision. Default: all that have replicas.")
@click.option("-f", "--follow", is_flag=True, help="Print new lines until Ctrl-C.")
@click.option(
    "--tail",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Print at most this many records of each replica. A record is a line of the log, with its traceback.",
)
@with_server
async def logs(server: ServerConnection, name: str, revision: int | None, follow: bool, tail: int) -> None:
    """Print the logs of a ModelDeployment's replicas: their start, and the output, logs and exceptions of models by request id.

    With -f it also follows replicas that start later. Local mode also prints the logs of ended replicas.
    In a cluster you need permission to get and create `pods/exec`.
    """
    obj = await get_object(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    if server.state is not None:
        await _print_files(server.state, obj, revision, follow, tail)
    else:
        await _print_pods(server, obj, revision, follow, tail)


async def _print_files(state: Path, obj: Object, revision: int | None, follow: bool, tail: int) -> None:
    readers: dict[Path, replica_logs.ReplicaLogReader] = {}
    while True:
        for file in replica_logs.find_logs(state, obj, revision):
            known = readers.get(file.path)
            reader = readers.setdefault(file.path, replica_logs.ReplicaLogReader(file.path))
            for line in reader.last(tail) if known is None else reader.more():
                _print_line(file.label, line)
        if not readers and not follow:
            raise _no_logs(obj["metadata"]["name"], revision)
        if not follow:
            return
        await asyncio.sleep(_POLL_S)


async def _print_pods(server: ServerConnection, obj: Object, revision: int | None, follow: bool, tail: int) -> None:
    """Print the logs of all pods at once. With `follow`, look for new pods, and resume streams that ended.

    A pod that fails is a line on standard error. Raises Forbidden, and the error of a pod if all fail without `follow`.
    """
    meta, logs = obj["metadata"], dict[tuple[str, int], _PodLog]()
    running: dict[tuple[str, int], asyncio.Task[None]] = {}
    try:
        found = await _find_pods(server, obj, revision)
        while True:
            for key in found:
                log = logs.setdefault(key, _PodLog(*key))
                if key not in running:
                    running[key] = asyncio.create_task(_print_pod(server, log, meta["name"], follow, tail))
            if not follow:
                break
            await _await_errors(running, _LIST_S)
            found = await _find_pods_again(server, Ref(MODEL_DEPLOYMENT, meta["namespace"], meta["name"]), revision)
        if not logs:
            raise _no_logs(meta["name"], revision)
        await asyncio.gather(*running.values())
        failures = [log.failure for log in logs.values() if log.failure is not None]
        if len(failures) == len(logs):
            raise failures[-1]
    finally:
        for task in running.values():
            task.cancel()


async def _await_errors(running: dict[tuple[str, int], asyncio.Task[None]], seconds: float) -> None:
    """Wait for some time, and remove the streams that end meanwhile. Raises the first error of one."""
    pause = asyncio.create_task(asyncio.sleep(seconds))
    try:
        while not pause.done():
            await asyncio.wait((pause, *running.values()), return_when=asyncio.FIRST_COMPLETED)
            for key in [key for key, task in running.items() if task.done()]:
                running.pop(key).result()
    finally:
        pause.cancel()


async def _find_pods_again(server: ServerConnection, ref: Ref, revision: int | None) -> list[tuple[str, int]]:
    """Return the pods of the ModelDeployment as it is now: a new revision can have replicas in those of another RayCluster.

    No pods while the API server does not answer: streams that are open go on. Raises Forbidden, and CommandFailed if it was deleted.
    """
    try:
        obj = await server.kube.get(ref)
        if obj is not None:
            return await _find_pods(server, obj, revision)
    except Forbidden:
        raise
    except DependencyError as err:
        click.echo(f"error: {one_line(err)}", err=True)
        return []
    raise CommandFailed(f"{ref} was deleted", ExitCode.NOT_FOUND)


async def _find_pods(server: ServerConnection, obj: Object, revision: int | None) -> list[tuple[str, int]]:
    """Return (pod, revision) of all running replicas, or of one revision."""
    labels = {names.LABEL_MODEL_DEPLOYMENT: obj["metadata"]["name"]}
    own = [
        (pod, int(_label(pod, names.LABEL_REVISION))) for pod in await server.kube.list(POD, server.namespace, labels)
    ]
    shared = [
        (pod, number)
        for number, cluster in (await _find_shared_revisions(server, obj)).items()
        for pod in await server.kube.list(POD, server.namespace, groups.shared_pod_labels(cluster))
    ]
    return [
        (pod["metadata"]["name"], number)
        for pod, number in (*own, *shared)
        if _is_running(pod) and revision in (None, number)
    ]


async def _find_shared_revisions(server: ServerConnection, obj: Object) -> dict[int, str]:
    """Return the RayCluster of each revision with replicas in shared pods; none without permission to list ControllerRevisions."""
    try:
        known = await list_revisions(server, obj)
    except Forbidden:
        return {}
    return desired_state.find_shared_places(ModelDeploymentStatus.parse(obj.get("status")), known)


async def _print_pod(server: ServerConnection, log: _PodLog, service: str, follow: bool, tail: int) -> None:
    """Print a log until its stream ends. Lines that were printed before are not printed again."""
    application = names.application(service, log.revision)
    # `-q` omits the names of the files. A pod has several of a revision only where its replicas share it. A shared pod may have none,
    # and then the pattern names no file.
    options = f"-q -n {0 if log.has_lines else tail}{' -F' if follow else ''}"
    command = f'set -- {_FILES}/replica_{application}_*.log; [ ! -e "$1" ] || tail {options} "$@" 2>/dev/null'
    pod = Ref(POD, server.namespace, log.pod)
    try:
        async for line in _lines(server.kube.output_of(pod, _CONTAINER, ("sh", "-c", command))):
            log.has_lines, log.failure = True, None
            _print_line(f"r{log.revision} {log.pod}", line)
    except Forbidden:
        raise
    except DependencyError as err:
        if str(err) != str(log.failure):
            click.echo(f"error: {one_line(err)}", err=True)
        log.failure = err


def _print_line(label: str, line: str) -> None:
    """Print a line of a log after its label. A traceback in a JSON line follows as lines of its own."""
    traceback: list[str] = []
    if line.startswith("{") and '"exception"' in line:
        with contextlib.suppress(ValueError):
            document = orjson.loads(line)
            traceback = str(document.pop("exception", "")).splitlines()
            line = orjson.dumps(document).decode()
    for each in (line, *traceback):
        click.echo(f"{label} | {each}")


def _label(pod: Object, key: str) -> str:
    return str((pod["metadata"].get("labels") or {}).get(key, "0"))


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield text line by line, with a last line that may lack its end."""
    partial = b""
    async for chunk in chunks:
        *whole, partial = (partial + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")
    if partial:
        yield partial.decode("utf-8", "replace")


def _is_running(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running"


def _no_logs(name: str, revision: int | None) -> CommandFailed:
    subject = f"revision {revision} of {name}" if revision is not None else name
    return CommandFailed(
        f"no replica of {subject} has written a log. `sundog describe {name}` shows what it waits for",
        ExitCode.NOT_FOUND,
    )
