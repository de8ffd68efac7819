"""`sundog url`."""

import click

from sundog_operator.ports import MODEL_DEPLOYMENT, Object, Ref
from sundog_operator.shell.exit_codes import CommandFailed
from sundog_operator.shell.server_connection import NAME_ARGUMENT, ServerConnection, with_server
from sundog_operator.shell.verbs.get import get_object


@click.command(epilog='Example: curl "$(sundog url digits)"')
@NAME_ARGUMENT
@with_server
async def url(server: ServerConnection, name: str) -> None:
    """Print the address of a model's endpoint, for use in other commands."""
    click.echo(endpoint_url(await get_object(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))))


def endpoint_url(deployment: Object) -> str:
    """Return the address of a ModelDeployment's endpoint. Raises CommandFailed while there is none."""
    address = (deployment.get("status") or {}).get("url")
    if not address:
        namespace, name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
        raise CommandFailed(
            f"ModelDeployment {namespace}/{name} has no endpoint yet. `sundog describe {name}` shows why"
        )
    return str(address)
