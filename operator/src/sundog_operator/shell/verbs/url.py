"""`sundog url`."""

import click

from sundog_operator.ports import MODEL_DEPLOYMENT, Object, Ref
from sundog_operator.shell.exits import CommandFailed
from sundog_operator.shell.target import NAME, Server, talks_to_server
from sundog_operator.shell.verbs.get import find


@click.command()
@NAME
@talks_to_server
async def url(server: Server, name: str) -> None:
    """Print the address of a model's endpoint, for other commands: curl "$(sundog url digits)"."""
    click.echo(endpoint_of(await find(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))))


def endpoint_of(deployment: Object) -> str:
    """The address of a ModelDeployment's endpoint. Raises CommandFailed while there is none."""
    address = (deployment.get("status") or {}).get("url")
    if not address:
        namespace, name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
        raise CommandFailed(
            f"ModelDeployment {namespace}/{name} has no endpoint yet: `sundog describe {name}` tells why"
        )
    return str(address)
