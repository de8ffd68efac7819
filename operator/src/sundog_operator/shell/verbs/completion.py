"""`sundog completion`."""

import click
from click.shell_completion import get_completion_class

from sundog_operator.shell.exit_codes import CommandFailed

_VARIABLE = "_SUNDOG_COMPLETE"


@click.command(epilog="Example: sundog completion fish | source")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: sundog completion bash > ~/.local/share/bash-completion/completions/sundog
    zsh:  sundog completion zsh > "${fpath[1]}/_sundog"
    fish: sundog completion fish > ~/.config/fish/completions/sundog.fish
    """  # noqa: D301 click needs the character itself
    from sundog_operator.shell.cli import root

    found = get_completion_class(shell)
    if found is None:
        raise CommandFailed(f"no completion for {shell}; expected bash, zsh or fish")
    click.echo(found(root, {}, "sundog", _VARIABLE).source())
