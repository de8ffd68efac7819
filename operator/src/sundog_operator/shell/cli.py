"""The command `sundog`. Every verb is imported when it is used, so that the command starts fast."""

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

import click

from sundog_operator.errors import SundogError
from sundog_operator.shell.exit_codes import EXIT_CODE_MEANINGS, CommandFailed, ExitCode, exit_code_of, one_line

DEBUG_VARIABLE: Final = "SUNDOG_DEBUG"
PLUGIN_NAME: Final = "kubectl sundog"
"""What the command calls itself as kubectl's plugin."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_PACKAGE: Final = "sundog_operator.shell"


ENTRY_POINT_GROUP: Final = "sundog.commands"
"""The entry points of commands that other packages bring: the operator imports none of them."""


class CommandEntry(NamedTuple):
    """Where a command is, and its line in the overview. Without a place, another package brings it: see `GROUP`."""

    place: str
    help: str


COMMANDS: Final[dict[str, CommandEntry]] = {
    "apply": CommandEntry("verbs.apply:apply", "Create or change what manifests describe."),
    "get": CommandEntry("verbs.get:get", "List ModelDeployments or Experiments."),
    "describe": CommandEntry("verbs.describe:describe", "Tell all about one, and what it waits for."),
    "logs": CommandEntry("verbs.logs:logs", "Print what the replicas of a model log."),
    "delete": CommandEntry("verbs.delete:delete", "Delete ModelDeployments or Experiments."),
    "plan": CommandEntry("verbs.plan:plan", "Tell what applying manifests would do, and why."),
    "experiment": CommandEntry("verbs.experiment:experiment", "Look ahead at what evidence will say, or report it."),
    "predict": CommandEntry("verbs.predict:predict", "Send a request to a model's endpoint."),
    "url": CommandEntry("verbs.url:url", "Print the address of a model's endpoint."),
    "promote": CommandEntry("verbs.rollout_commands:promote", "Let a rollout pass its current step."),
    "skip": CommandEntry("verbs.rollout_commands:skip", "Leave out a rollout's current step."),
    "pause": CommandEntry("verbs.rollout_commands:pause", "Let a rollout stand still."),
    "resume": CommandEntry("verbs.rollout_commands:resume", "Let a paused rollout go on."),
    "abort": CommandEntry("verbs.rollout_commands:abort", "End a rollout; all traffic goes back to stable."),
    "rollback": CommandEntry("verbs.rollout_commands:rollback", "Go back to an earlier revision at once."),
    "stop": CommandEntry("verbs.rollout_commands:stop", "End the Experiment that runs on a ModelDeployment."),
    "retry": CommandEntry("verbs.rollout_commands:retry", "Try a failed, aborted or rolled-back revision again."),
    "package": CommandEntry("", "Write a model's directory from code and weights, and try it."),
    "digest": CommandEntry("", "Print the digest of a model's directory or file."),
    "local": CommandEntry("local.commands:local", "Serve manifests on this machine, without a cluster."),
    "demo": CommandEntry("demo.command:demo", "Show a rollout of two small models on this machine."),
    "doctor": CommandEntry("verbs.doctor:doctor", "Check whether this machine can run local mode."),
    "completion": CommandEntry("verbs.completion:completion", "Print a shell's completion script."),
    "version": CommandEntry("verbs.version:version", "Print the version."),
}


class LazyGroup(click.Group):
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
            formatter.write_dl([(str(code.value), meaning) for code, meaning in EXIT_CODE_MEANINGS.items()])


def _imported(place: str) -> object:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), attribute)


def _brought(name: str) -> object:
    """A command of another package. Raises CommandFailed where none brings it."""
    from importlib.metadata import entry_points

    found = next(iter(entry_points(group=ENTRY_POINT_GROUP, name=name)), None)
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


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
        return ExitCode.USAGE
    except click.ClickException as err:
        hint = f"; see `{err.ctx.command_path} --help`" if isinstance(err, click.UsageError) and err.ctx else ""
        return _fail(err, f"{one_line(err.format_message()).rstrip('.')}{hint}", ExitCode(err.exit_code))
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough; the interpreter must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except SundogError as err:
        return _fail(err, one_line(err), exit_code_of(err))
    except OSError as err:
        if err.errno not in _FULL:
            return _fail_inside(err)
        what = f"{err.filename}: " if err.filename else ""
        return _fail(err, f"{what}{err.strerror}: free some space, or choose another --state-dir", ExitCode.REFUSED)
    except Exception as err:  # noqa: BLE001 the last line of defence: no user sees a traceback
        return _fail_inside(err)
    return int(code) if isinstance(code, int) else ExitCode.OK


def _fail_inside(error: Exception) -> int:
    return _fail(
        error,
        f"in sundog itself: {type(error).__name__}: {one_line(error)} ({DEBUG_VARIABLE}=1 tells more)",
        ExitCode.INTERNAL,
    )


def _fail(error: Exception, message: str, code: ExitCode) -> int:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        raise error
    click.echo(f"error: {message}", err=True)
    return code


def main() -> None:
    """Entry point of `sundog`, and of `kubectl sundog`."""
    sys.exit(run(sys.argv[1:], PLUGIN_NAME if sys.argv[0].endswith("kubectl-sundog") else "sundog"))


if __name__ == "__main__":
    main()
