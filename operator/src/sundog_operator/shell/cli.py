"""The command `sundog`. Every verb is imported when it is used, so that the command starts fast."""

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

import click

from sundog_operator.errors import SundogError
from sundog_operator.shell.exits import MEANINGS, CommandFailed, Exit, exit_of, one_line

DEBUG: Final = "SUNDOG_DEBUG"
PLUGIN: Final = "kubectl sundog"
"""What the command calls itself as kubectl's plugin."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_PACKAGE: Final = "sundog_operator.shell"


GROUP: Final = "sundog.commands"
"""The entry points of commands that other packages bring: the operator imports none of them."""


class Entry(NamedTuple):
    """Where a command is, and its line in the overview. Without a place, another package brings it: see `GROUP`."""

    place: str
    help: str


COMMANDS: Final[dict[str, Entry]] = {
    "apply": Entry("verbs.apply:apply", "Create or change what manifests describe."),
    "get": Entry("verbs.get:get", "List ModelDeployments or Experiments."),
    "describe": Entry("verbs.describe:describe", "Tell all about one, and what it waits for."),
    "logs": Entry("verbs.logs:logs", "Print what the replicas of a model log."),
    "delete": Entry("verbs.delete:delete", "Delete ModelDeployments or Experiments."),
    "plan": Entry("verbs.plan:plan", "Tell what applying manifests would do, and why."),
    "experiment": Entry("verbs.experiment:experiment", "Look ahead at what evidence will say, or report it."),
    "predict": Entry("verbs.predict:predict", "Send a request to a model's endpoint."),
    "url": Entry("verbs.url:url", "Print the address of a model's endpoint."),
    "promote": Entry("verbs.steer:promote", "Let a rollout pass its current step."),
    "skip": Entry("verbs.steer:skip", "Leave out a rollout's current step."),
    "pause": Entry("verbs.steer:pause", "Let a rollout stand still."),
    "resume": Entry("verbs.steer:resume", "Let a paused rollout go on."),
    "abort": Entry("verbs.steer:abort", "End a rollout; all traffic goes back to stable."),
    "rollback": Entry("verbs.steer:rollback", "Go back to an earlier revision at once."),
    "stop": Entry("verbs.steer:stop", "End the Experiment that runs on a ModelDeployment."),
    "retry": Entry("verbs.steer:retry", "Try a failed, aborted or rolled-back revision again."),
    "package": Entry("", "Write a model's directory from code and weights, and try it."),
    "digest": Entry("", "Print the digest of a model's directory or file."),
    "local": Entry("local.commands:local", "Serve manifests on this machine, without a cluster."),
    "demo": Entry("demo.command:demo", "Show a rollout of two small models on this machine."),
    "doctor": Entry("verbs.doctor:doctor", "Check whether this machine can run local mode."),
    "completion": Entry("verbs.completion:completion", "Print a shell's completion script."),
    "version": Entry("verbs.version:version", "Print the version."),
}


class Root(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """All commands, in the order in which they are shown."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command. Raises CommandFailed when what it needs is not installed."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        try:
            command = _imported(entry.place) if entry.place else _brought(cmd_name)
        except ModuleNotFoundError as err:
            raise CommandFailed(
                f"`sundog {cmd_name}` needs {err.name}, which is not installed: pip install 'sundog[local]'"
            ) from err
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The overview, written without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), meaning) for code, meaning in MEANINGS.items()])


def _imported(place: str) -> object:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), attribute)


def _brought(name: str) -> object:
    """A command of another package. Raises CommandFailed where none brings it."""
    from importlib.metadata import entry_points

    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None:
        raise CommandFailed(
            f"`sundog {name}` is not part of this installation: pip install --upgrade 'sundog[runtime]'"
        )
    return found.load()


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from sundog_operator.shell.verbs.version import own_version

        click.echo(f"sundog {own_version()}")
        ctx.exit()


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def root() -> None:
    """Serve PyTorch models on Ray Serve, with canaries, on a cluster or on this machine.

    Verbs talk to the local instance that runs here, else to the cluster of the kubeconfig.
    """


def run(arguments: Sequence[str], program: str = "sundog") -> int:
    """Run a command line; its exit code. Errors are one line on standard error, unless SUNDOG_DEBUG=1."""
    try:
        code = root.main(list(arguments), prog_name=program, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as err:
        err.show()
        return Exit.USAGE
    except click.ClickException as err:
        hint = f"; see `{err.ctx.command_path} --help`" if isinstance(err, click.UsageError) and err.ctx else ""
        return _fail(err, f"{one_line(err.format_message()).rstrip('.')}{hint}", Exit(err.exit_code))
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough; the interpreter must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except SundogError as err:
        return _fail(err, one_line(err), exit_of(err))
    except OSError as err:
        if err.errno not in _FULL:
            return _fail_inside(err)
        what = f"{err.filename}: " if err.filename else ""
        return _fail(err, f"{what}{err.strerror}: free some space, or choose another --state-dir", Exit.REFUSED)
    except Exception as err:  # noqa: BLE001 the last line of defence: no user sees a traceback
        return _fail_inside(err)
    return int(code) if isinstance(code, int) else Exit.OK


def _fail_inside(error: Exception) -> int:
    return _fail(
        error, f"in sundog itself: {type(error).__name__}: {one_line(error)} ({DEBUG}=1 tells more)", Exit.INTERNAL
    )


def _fail(error: Exception, message: str, code: Exit) -> int:
    if os.environ.get(DEBUG) == "1":
        raise error
    click.echo(f"error: {message}", err=True)
    return code


def main() -> None:
    """Entry point of `sundog`, and of `kubectl sundog`."""
    sys.exit(run(sys.argv[1:], PLUGIN if sys.argv[0].endswith("kubectl-sundog") else "sundog"))


if __name__ == "__main__":
    main()
