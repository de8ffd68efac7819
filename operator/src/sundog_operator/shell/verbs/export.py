"""`sundog experiment export`."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp
import click

from sundog_operator.adapters import export_destinations, exports
from sundog_operator.adapters.edges import find_agent_port
from sundog_operator.adapters.exports import EdgeAgent
from sundog_operator.adapters.log_tables import Format
from sundog_operator.core.edge import feedback_store
from sundog_operator.core.kubernetes import names
from sundog_operator.core.text import format_count
from sundog_operator.core.trial.experiment.exposure_log import ExposureLogReader
from sundog_operator.ports import EXPERIMENT, POD, Object, Ref
from sundog_operator.shell import kinds
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.server_connection import ServerConnection, with_server
from sundog_operator.shell.url_options import validate_http_url
from sundog_operator.shell.verbs.get import get_object

LOOPBACK: Final = "127.0.0.1"
"""Address of the pods of local mode."""


@click.command(epilog="Example: sundog experiment export checkout --to ./data --format parquet")
@click.argument("name", callback=kinds.parse_name)
@click.option(
    "--to",
    "place",
    metavar="PLACE",
    default=".",
    show_default=True,
    help="A directory, or s3://BUCKET/PREFIX or gs://BUCKET/PREFIX with the credentials of the environment.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("jsonl", "parquet")),
    default="jsonl",
    show_default=True,
    help="Format of exposures and outcomes.",
)
@click.option(
    "--url",
    callback=validate_http_url,
    help="Address of an edge's agent, such as a kubectl port-forward, if the API server cannot reach one.",
)
@with_server
async def export(server: ServerConnection, name: str, place: str, form: Format, url: str | None) -> None:
    """Export the data of an Experiment with outcomes, to analyse it elsewhere.

    Writes three files: the first exposure of each unit, the outcomes, and plan.json with the plan, the verdict and the counts of the edges.
    Units are hashes. In a cluster you need permission to get `pods/proxy`, unless you give --url.
    """
    experiment = await get_object(server, Ref(EXPERIMENT, server.namespace, name))
    if not feedback_store.is_needed_by(experiment):
        raise CommandFailed(
            f"Experiment {server.namespace}/{name} has no metric of outcomes, or records a rollout that is over,"
            " so it has nothing to export"
        )
    with tempfile.TemporaryDirectory(prefix="sundog-export-") as folder:
        lines, files = await _fetch(server, experiment, url, Path(folder), form)
        plan = exports.write_plan(experiment, lines, Path(folder), datetime.now(UTC))
        await export_destinations.put_files([*files, plan], place)
    click.echo(
        f"wrote {format_count(lines.exposures, 'exposure')} and {format_count(lines.outcomes, 'outcome')} to {place}"
    )
    if not lines.is_whole:
        click.echo(f"the sums in {exports.PLAN_FILE} differ from the files: {_explain_difference(lines)}", err=True)


def _explain_difference(lines: ExposureLogReader) -> str:
    counted = lines.end.get("events", 0)
    if counted > lines.outcomes:
        return f"the edge keeps only the newest {lines.outcomes} of {counted} outcomes"
    return "more outcomes arrived meanwhile. Export again after the Experiment has ended"


async def _fetch(
    server: ServerConnection, experiment: Object, url: str | None, folder: Path, form: Format
) -> tuple[ExposureLogReader, list[Path]]:
    """Write an edge's data to files; return its reader and the files. Raises CommandFailed, FormatMissing."""

    async def source() -> EdgeAgent:
        return await _find_agent(server) if url is None else exports.make_direct_agent(url, url)

    try:
        return await exports.fetch_export(experiment, source, folder, form)
    except exports.ExportError as err:
        raise CommandFailed(str(err), ExitCode.UNREACHABLE) from None
    except aiohttp.InvalidURL:
        raise click.UsageError(f"--url {url!r} is not an address") from None


async def _find_agent(server: ServerConnection) -> EdgeAgent:
    """Return the agent of a ready edge; in a cluster through the API server. Raises CommandFailed."""
    pod = exports.find_ready_edge(await server.kube.list(POD, server.namespace, {names.LABEL_NAME: names.EDGE}))
    if pod is None:
        raise CommandFailed(f"namespace {server.namespace} has no ready edge", ExitCode.UNREACHABLE)
    port, address, meta = find_agent_port(pod) or 0, pod["status"].get("podIP"), pod["metadata"]
    label = f"pod {meta['name']}"
    if address == LOOPBACK:
        return exports.make_direct_agent(label, f"http://{address}:{port}")

    async def get_through_api_server(path: str, stack: AsyncExitStack) -> aiohttp.ClientResponse:
        async with asyncio.timeout(exports.CONNECT_TIMEOUT_S):
            response = await server.kube.get_from_pod(Ref(POD, meta["namespace"], meta["name"]), port, path)
        stack.callback(response.close)
        return response

    return EdgeAgent(label, get_through_api_server)
