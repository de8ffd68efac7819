"""`sundog url`."""

import click

from sundog_operator.ports import MODEL_DEPLOYMENT, Ref
from sundog_operator.shell.exits import CommandFailed
from sundog_operator.shell.target import NAME, Server, talks_to_server
from sundog_operator.shell.verbs.get import find


@click.command()
@NAME
@talks_to_server
async def url(server: Server, name: str) -> None:
    """Print the address of a model's endpoint, for other commands: curl "$(sundog url digits)"."""
    obj = await find(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    address = (obj.get("status") or {}).get("url")
    if not address:
        raise CommandFailed(
            f"ModelDeployment {server.namespace}/{name} has no endpoint yet: `sundog describe {name}` tells why"
        )
    click.echo(address)
