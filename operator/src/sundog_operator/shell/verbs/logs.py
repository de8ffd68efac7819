"""`sundog logs`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import click

from sundog_operator.adapters.local import replica_logs
from sundog_operator.core.kubernetes import names
from sundog_operator.ports import MODEL_DEPLOYMENT, POD, Object, Ref
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
    await get_object(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    if server.state is not None:
        await _print_files(server.state, name, revision, follow, tail)
    else:
        await _print_pods(server, name, revision, follow, tail)


async def _print_files(state: Path, name: str, revision: int | None, follow: bool, tail: int) -> None:
    readers: dict[Path, replica_logs.ReplicaLogReader] = {}
    while True:
        for file in replica_logs.find_logs(state, name, revision):
            known = readers.get(file.path)
            reader = readers.setdefault(file.path, replica_logs.ReplicaLogReader(file.path))
            for line in reader.last(tail) if known is None else reader.more():
                click.echo(f"{file.label} | {line}")
        if not readers and not follow:
            raise _no_logs(name, revision)
        if not follow:
            return
        await asyncio.sleep(_POLL_S)


async def _print_pods(server: ServerConnection, name: str, revision: int | None, follow: bool, tail: int) -> None:
    labels = {names.LABEL_MODEL_DEPLOYMENT: name}
    if revision is not None:
        labels[names.LABEL_REVISION] = str(revision)
    pods = [pod for pod in await server.kube.list(POD, server.namespace, labels) if _is_running(pod)]
    if not pods:
        raise _no_logs(name, revision)
    await asyncio.gather(*(_print_pod(server, pod, name, follow, tail) for pod in pods))


async def _print_pod(server: ServerConnection, pod: Object, name: str, follow: bool, tail: int) -> None:
    meta = pod["metadata"]
    number = (meta.get("labels") or {}).get(names.LABEL_REVISION, "")
    # `-q` omits the names of the files. A pod has several only where its replicas share a GPU.
    options = f"-q -n {tail}{' -F' if follow else ''}"
    command = ("sh", "-c", f"tail {options} {_FILES}/replica_{name}-r{number}_*.log 2>/dev/null")
    async for line in _lines(server.kube.output_of(Ref(POD, server.namespace, meta["name"]), _CONTAINER, command)):
        click.echo(f"r{number} {meta['name']} | {line}")


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
