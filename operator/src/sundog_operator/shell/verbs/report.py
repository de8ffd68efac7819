"""`sundog experiment report`."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import orjson

from sundog_operator.api import MetricStatus
from sundog_operator.core.kubernetes import names
from sundog_operator.errors import NotFound
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref
from sundog_operator.shell import kinds
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.output import print_json, print_rich
from sundog_operator.shell.report import terminal
from sundog_operator.shell.report.build import make_report
from sundog_operator.shell.report.model import ExperimentReport
from sundog_operator.shell.server_connection import ServerConnection, complete_names, with_server

_JSON: Final = Path("json")
_UNDERSCORE: Final = re.compile(r"_([a-z])")
_SUFFIXES: Final = (".html", ".htm")


@click.command(epilog="Example: sundog experiment report digits -o report.html")
@click.argument("name", callback=kinds.parse_name, shell_complete=complete_names)
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html|json",
    help="Write one HTML page with charts, which needs no network; or print the numbers as JSON.",
)
@with_server
async def report(server: ServerConnection, name: str, file: Path | None) -> None:
    """Report a rollout or an Experiment: verdict and reasons, samples, data quality, and traffic and intervals over time.

    NAME is an Experiment, or a ModelDeployment. Of a ModelDeployment, the rollout under way is reported, else the newest one.
    """
    is_json = file == _JSON
    if file is not None and not is_json and file.suffix.lower() not in _SUFFIXES:
        raise click.BadParameter(
            f"{file}: expected a file that ends with {_SUFFIXES[0]}, or {_JSON}", param_hint="'-o'"
        )
    now = datetime.now(UTC)
    content = make_report(await _find_experiment(server, name), now)
    if is_json:
        print_json(_camel_case(orjson.loads(orjson.dumps(content, default=_to_json))))
        return
    if file is None:
        print_rich(terminal.render_report(content))
        return
    _write(file, content, now)
    click.echo(f"wrote {file}")


def _to_json(part: object) -> object:
    """Return the metrics of a report as the API writes them."""
    assert isinstance(part, MetricStatus)
    return part.to_json()


def _camel_case(document: Any) -> Any:
    """Return a document with its keys in camel case, as in the API."""
    match document:
        case dict():
            return {
                _UNDERSCORE.sub(lambda each: each[1].upper(), key): _camel_case(value)
                for key, value in document.items()
            }
        case list():
            return [_camel_case(each) for each in document]
    return document


def _write(file: Path, content: ExperimentReport, now: datetime) -> None:
    """Write the HTML page. Raises CommandFailed."""
    from sundog_operator.shell.report.page import render_html
    from sundog_operator.shell.verbs.version import own_version

    try:
        file.write_text(render_html(content, own_version(), now), encoding="utf-8")
    except OSError as err:
        raise CommandFailed(f"{file}: cannot be written: {err.strerror or err}") from err


async def _find_experiment(server: ServerConnection, name: str) -> Object:
    """Return the Experiment to report. Raises NotFound, and CommandFailed for a ModelDeployment without any."""
    found = await server.kube.get(Ref(EXPERIMENT, server.namespace, name))
    if found is not None:
        return found
    deployment = await server.kube.get(Ref(MODEL_DEPLOYMENT, server.namespace, name))
    if deployment is None:
        raise NotFound(f"no Experiment and no ModelDeployment is named {server.namespace}/{name}")
    current = str((deployment.get("status") or {}).get("experiment") or "")
    experiments = {
        each["metadata"]["name"]: each
        for each in await server.kube.list(EXPERIMENT, server.namespace, {names.LABEL_MODEL_DEPLOYMENT: name})
    }
    if not experiments:
        raise CommandFailed(f"ModelDeployment {server.namespace}/{name} has had no rollout yet", ExitCode.NOT_FOUND)
    return experiments.get(current) or max(experiments.values(), key=_creation)


def _creation(experiment: Object) -> tuple[str, str]:
    meta = experiment["metadata"]
    return str(meta.get("creationTimestamp") or ""), str(meta["name"])
