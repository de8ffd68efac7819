"""Render the reference of the command line from its commands."""

import inspect
from collections.abc import Iterator
from typing import Final

import click

from reference.markdown import GENERATED, cell, paragraph, table
from sundog_operator.shell.cli import COMMANDS, root
from sundog_operator.shell.exit_codes import EXIT_CODE_MEANINGS

EXAMPLE_PREFIX: Final = "Example: "
"""Start of the epilog of every command."""
_PREFORMATTED: Final = "\b\n"
"""Start of a paragraph that click does not wrap."""
_SERVER: Final = ("namespace", "kubeconfig", "context", "instance", "state_dir", "verbose")
_TOP: Final = f"""# Command line

{GENERATED.format("the commands")}

`sundog` also runs as `kubectl sundog`: the package installs a plugin that kubectl finds on the
`PATH`. `SUNDOG_DEBUG=1` shows the traceback of an error.

## Exit codes

"""
_WHICH: Final = """
## Which API server

The commands are the same for the local instance and for a cluster. They use the first of these
that exists; `-v` shows which:

1. `--kubeconfig FILE`, with `--context NAME` to choose one of its contexts;
2. the local instance of `--state-dir DIR`, `--instance NAME` or `SUNDOG_STATE_DIR`, which must run;
3. the local instance `default`, if it runs;
4. the kubeconfig of `KUBECONFIG`, or `~/.kube/config`.

If both 3 and 4 exist, `sundog` uses 3 and prints one line about it on standard error.
`kubectl sundog` uses 4. Options follow the verb, because kubectl passes none of its own options to
a plugin: `kubectl sundog get -n vision --context staging`.
`-n NAME` is the namespace; the default is the namespace of the kubeconfig.

## Manifests

`-f` takes a file, a folder or `-` for standard input. From a folder it reads all `*.yaml` and
`*.yml` below it, except hidden ones. It reads the kinds of `serving.sundog.dev` and Secrets.

`file://` URIs in manifests are absolute, or begin with `file://${MANIFEST_DIR}`, which stands for
the folder of the manifest. `kubectl` does not replace this placeholder, and a cluster's nodes do
not have your folders: use another scheme there.

## Commands
"""


def render_page() -> str:
    """Return the page, as Markdown."""
    context = click.Context(root, info_name="sundog")
    codes = ((str(code.value), meaning) for code, meaning in EXIT_CODE_MEANINGS.items())
    text = _TOP + table(("code", "meaning"), codes) + _WHICH
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        text += "".join(_command(command, click.Context(command, parent=context, info_name=name)))
    return text


def _paragraph(text: str) -> str:
    if text.startswith(_PREFORMATTED):
        return f"```\n{text.removeprefix(_PREFORMATTED)}\n```"
    return paragraph(text)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _command(child, click.Context(child, parent=context, info_name=name))
        return
    usage = " ".join(command.collect_usage_pieces(context)).replace("[OPTIONS] ", "").replace("[OPTIONS]", "")
    yield f"\n### {context.command_path}\n\n`{context.command_path} {usage}".rstrip() + "`\n\n"
    yield "\n\n".join(map(_paragraph, inspect.cleandoc(command.help or "").split("\n\n"))) + "\n"
    assert command.epilog, f"{context.command_path} has no example"
    yield f"\n{EXAMPLE_PREFIX}`{command.epilog.removeprefix(EXAMPLE_PREFIX)}`\n"
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in _SERVER]
    rows = [record for option in options if (record := option.get_help_record(context)) is not None]
    if rows:
        yield "\n" + table(("option", "meaning"), ((f"`{cell(names)}`", cell(text)) for names, text in rows))
