"""`sundog plan`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import click

from sundog_operator.adapters.clock import SystemClock
from sundog_operator.api.installation import Installation
from sundog_operator.app.observe import observe
from sundog_operator.app.world import Settings, World
from sundog_operator.core.observed import EdgeReport, ServeState, WebhookAnswer
from sundog_operator.ports import MODEL_DEPLOYMENT, SECRET, Object
from sundog_operator.shell.exits import CommandFailed, Exit
from sundog_operator.shell.manifests import Document
from sundog_operator.shell.output import print_document
from sundog_operator.shell.preview import Preview, blank, preview
from sundog_operator.shell.target import Server, talks_to_server
from sundog_operator.shell.verbs.apply import FILES, read_all, report

_TITLES: Final = {
    "create": "is created",
    "change": "changes",
    "unchanged": "stays as it is",
    "refused": "is refused",
}


class _Unasked:
    """Serve and the edges, which a preview does not ask: they may not be reachable from here, and decide nothing about a manifest."""

    async def read(self, dashboard: str, namespace: str) -> ServeState:  # noqa: ARG002
        """Nothing is known."""
        return ServeState(known=False)

    async def phases(self, dashboard: str, namespace: str, application: str) -> Mapping[str, float]:  # noqa: ARG002
        """Nothing is known."""
        return {}

    async def put(self, dashboard: str, namespace: str, document: Mapping[str, Any]) -> None:
        """A preview writes nothing."""
        raise AssertionError(f"a preview wrote to {dashboard} of {namespace}: {document}")


class _UnaskedEdges:
    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        """Nothing is known."""
        return [EdgeReport(pod["metadata"]["name"], ready=False, terminating=False, evidence=None) for pod in pods]

    async def count(self, pods: Sequence[Object], service: str, *, by_unit: bool = False) -> list[EdgeReport]:
        """Nothing is known."""
        del service, by_unit
        return await self.read(pods)


class _UnaskedWebhooks:
    async def post(self, url: str, document: Mapping[str, Any], timeout_s: float) -> WebhookAnswer:  # noqa: ARG002
        """Nothing is asked."""
        return WebhookAnswer(problem="is not asked by a preview")


@click.command()
@FILES
@click.option("-o", "--output", type=click.Choice(("text", "json", "yaml")), default="text", show_default=True)
@talks_to_server
async def plan(server: Server, files: Sequence[Path], output: str) -> int:
    """Tell what applying manifests would do, and why. Nothing is written.

    The operator's own planner decides, over what the API server holds now. Exit code 1 when something would be refused.
    """
    documents, problems = read_all(files, server.namespace)
    mistaken = report(problems)
    given = [document.object for document in documents if document.ref.kind == SECRET]
    previews = [
        await _preview(server, document, given) for document in documents if document.ref.kind == MODEL_DEPLOYMENT
    ]
    others = [document for document in documents if document.ref.kind != MODEL_DEPLOYMENT]
    if not documents and not mistaken:
        raise CommandFailed(f"no ModelDeployment in {', '.join(map(str, files))}")
    if output == "json" or output == "yaml":
        print_document([asdict(each) for each in previews], "json" if output == "json" else "yaml")
    else:
        for each in previews:
            _print(each)
    for document in others:
        click.echo(f"skipped: {document.source}: {document.ref}: only ModelDeployments are previewed", err=True)
    refused = any(each.outcome == "refused" for each in previews)
    return Exit.REFUSED if refused or mistaken else Exit.OK


async def _preview(server: Server, document: Document, given: Sequence[Object]) -> Preview:
    """`given` are the Secrets that are applied together with it."""
    stored = await server.kube.get(document.ref)
    clock = SystemClock()
    # What an administrator set is not known here; what matters is whether there are pods.
    settings = Settings(installation=None if server.local else Installation())
    world = World(server.kube, _Unasked(), _UnaskedEdges(), _UnaskedWebhooks(), clock, settings)
    wanted = {**(stored or blank(document.object)), "spec": document.object.get("spec")}
    seen = await observe(world, wanted)
    known = {
        each["metadata"]["name"]: frozenset({**(each.get("data") or {}), **(each.get("stringData") or {})})
        for each in given
        if each["metadata"]["namespace"] == document.ref.namespace
    }
    return preview(document.object, stored, replace(seen, secrets={**seen.secrets, **known}), clock.now())


def _print(each: Preview) -> None:
    click.echo(f"ModelDeployment {each.name} {_TITLES[each.outcome]}")
    for problem in each.problems:
        click.echo(f"  ✗ {problem}")
    for line in each.lines:
        click.echo(f"  • {line}")
