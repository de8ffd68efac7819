"""`sundog logs`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import click

from sundog_operator.adapters.local import replica_logs
from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import desired_state
from sundog_operator.core.ray import groups
from sundog_operator.errors import Forbidden
from sundog_operator.ports import CONTROLLER_REVISION, MODEL_DEPLOYMENT, POD, Object, Ref
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.server_connection import NAME_ARGUMENT, ServerConnection, with_server
from sundog_operator.shell.verbs.get import get_object

_POLL_S: Final = 0.5
_CONTAINER: Final = "ray-worker"
_FILES: Final = "/tmp/ray/session_latest/logs/serve"  # noqa: S108 in the pod


@click.command(epilog="Example: sundog logs digits --revision 2 -f")
@NAME_ARGUMENT
@click.option("--revision", type=click.IntRange(1), help="Print only this revision. Default: all that have replicas.")
@click.option("-f", "--follow", is_flag=True, help="Print new lines until Ctrl-C.")
@click.option(
    "--tail",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Print at most this many lines of each replica.",
)
@with_server
async def logs(server: ServerConnection, name: str, revision: int | None, follow: bool, tail: int) -> None:
    """Print the logs of a ModelDeployment's replicas: their start, and the output, logs and exceptions of models by request id.

    Local mode also prints the logs of ended replicas. In a cluster you need permission to get and create `pods/exec`.
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
                click.echo(f"{file.label} | {line}")
        if not readers and not follow:
            raise _no_logs(obj["metadata"]["name"], revision)
        if not follow:
            return
        await asyncio.sleep(_POLL_S)


async def _print_pods(server: ServerConnection, obj: Object, revision: int | None, follow: bool, tail: int) -> None:
    name = obj["metadata"]["name"]
    labels = {names.LABEL_MODEL_DEPLOYMENT: name}
    own = [
        (pod, int(_label(pod, names.LABEL_REVISION))) for pod in await server.kube.list(POD, server.namespace, labels)
    ]
    shared = [
        (pod, number)
        for number, cluster in (await _find_shared_revisions(server, obj)).items()
        for pod in await server.kube.list(POD, server.namespace, groups.shared_pod_labels(cluster))
    ]
    places = [*own, *shared]
    wanted = [(pod, number) for pod, number in places if _is_running(pod) and revision in (None, number)]
    if not wanted:
        raise _no_logs(name, revision)
    await asyncio.gather(*(_print_pod(server, pod, name, number, follow, tail) for pod, number in wanted))


async def _find_shared_revisions(server: ServerConnection, obj: Object) -> dict[int, str]:
    """Return the RayCluster of each revision with replicas in shared pods; none without permission to list ControllerRevisions."""
    meta, status = obj["metadata"], ModelDeploymentStatus.parse(obj.get("status"))
    labels = {names.LABEL_MODEL_DEPLOYMENT: meta["name"]}
    try:
        stored = await server.kube.list(CONTROLLER_REVISION, server.namespace, labels)
    except Forbidden:
        return {}
    known = [revisions.parse_controller_revision(each) for each in stored if revisions.is_owned_by(each, meta["uid"])]
    return desired_state.find_shared_places(status, filter(None, known))


async def _print_pod(server: ServerConnection, pod: Object, service: str, number: int, follow: bool, tail: int) -> None:
    name, application = pod["metadata"]["name"], names.application(service, number)
    # `-q` omits the names of the files. A pod has several of a revision only where its replicas share it. A shared pod may have none,
    # and then the pattern names no file.
    options = f"-q -n {tail}{' -F' if follow else ''}"
    command = f'set -- {_FILES}/replica_{application}_*.log; [ ! -e "$1" ] || tail {options} "$@" 2>/dev/null'
    async for line in _lines(
        server.kube.output_of(Ref(POD, server.namespace, name), _CONTAINER, ("sh", "-c", command))
    ):
        click.echo(f"r{number} {name} | {line}")


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
