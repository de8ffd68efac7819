"""`sundog experiment report`."""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import orjson

from sundog_operator.api import MetricStatus
from sundog_operator.core.kubernetes import names
from sundog_operator.errors import NotFound
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.output import PIPE_WIDTH_COLUMNS, print_json, print_rich
from sundog_operator.shell.report import terminal
from sundog_operator.shell.report.build import make_report
from sundog_operator.shell.report.model import ExperimentReport
from sundog_operator.shell.server_connection import NAME_ARGUMENT, ServerConnection, with_server

_JSON: Final = Path("json")
_NAMES: Final = re.compile(r"_([a-z])")
_SUFFIXES: Final = (".html", ".htm")


@click.command()
@NAME_ARGUMENT
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html|json",
    help="Write a page with charts instead: one file that needs no other and no network. json prints the numbers.",
)
@with_server
async def report(server: ServerConnection, name: str, file: Path | None) -> None:
    """Report a rollout or an Experiment: verdict and why, samples, data quality, and traffic and intervals over time.

    NAME is that of an Experiment, or of a ModelDeployment, whose rollout that is under way is taken, else its newest.
    """
    as_json = file == _JSON
    if file is not None and not as_json and file.suffix.lower() not in _SUFFIXES:
        raise click.BadParameter(f"{file} does not end with {_SUFFIXES[0]}, nor is it {_JSON}", param_hint="'-o'")
    now = datetime.now(UTC)
    told = make_report(await _attempt(server, name), now)
    if as_json:
        print_json(_camel(orjson.loads(orjson.dumps(told, default=_plain))))
        return
    if file is None:
        print_rich(terminal.render_report(told), None if sys.stdout.isatty() else PIPE_WIDTH_COLUMNS)
        return
    _write(file, told, now)
    click.echo(f"wrote {file}")


def _plain(part: object) -> object:
    """What is no dataclass, as JSON: numbers of a metric as the API has them."""
    assert isinstance(part, MetricStatus)
    return part.to_json()


def _camel(document: Any) -> Any:
    """A document with the names of its fields as the API writes names."""
    match document:
        case dict():
            return {_NAMES.sub(lambda each: each[1].upper(), key): _camel(value) for key, value in document.items()}
        case list():
            return [_camel(each) for each in document]
    return document


def _write(file: Path, told: ExperimentReport, now: datetime) -> None:
    """Raises CommandFailed."""
    from sundog_operator.shell.report.page import render_html
    from sundog_operator.shell.verbs.version import own_version

    try:
        file.write_text(render_html(told, own_version(), now), encoding="utf-8")
    except OSError as err:
        raise CommandFailed(f"{file}: cannot be written: {err.strerror or err}") from err


async def _attempt(server: ServerConnection, name: str) -> Object:
    """The Experiment that is meant. Raises NotFound, and CommandFailed for a ModelDeployment without any."""
    found = await server.kube.get(Ref(EXPERIMENT, server.namespace, name))
    if found is not None:
        return found
    deployment = await server.kube.get(Ref(MODEL_DEPLOYMENT, server.namespace, name))
    if deployment is None:
        raise NotFound(f"there is neither an Experiment nor a ModelDeployment {server.namespace}/{name}")
    current = str((deployment.get("status") or {}).get("experiment") or "")
    attempts = {
        each["metadata"]["name"]: each
        for each in await server.kube.list(EXPERIMENT, server.namespace, {names.LABEL_MODEL_DEPLOYMENT: name})
    }
    if not attempts:
        raise CommandFailed(
            f"ModelDeployment {server.namespace}/{name} has had no rollout: there is nothing to report",
            ExitCode.NOT_FOUND,
        )
    return attempts.get(current) or max(attempts.values(), key=_age)


def _age(attempt: Object) -> tuple[str, str]:
    meta = attempt["metadata"]
    return str(meta.get("creationTimestamp") or ""), str(meta["name"])
