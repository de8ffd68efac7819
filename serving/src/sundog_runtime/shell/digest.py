"""`sundog digest`."""

from pathlib import Path

import click

from sundog_runtime.errors import StartError
from sundog_runtime.sources.file_digests import make_os_start_error, path_digest


@click.command(epilog="Example: sundog digest models/v1")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
def digest(path: Path) -> None:
    """Print the digest of a model's directory or file, for spec.model.digest.

    The directory may hold only regular files. All of them count, hidden files too.
    """
    try:
        click.echo(path_digest(path)[0])
    except StartError as error:
        raise click.ClickException(f"{error.reason}: {error.message}") from None
    except OSError as error:
        raise click.ClickException(make_os_start_error(error, path).message) from None
