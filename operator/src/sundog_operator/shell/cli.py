"""The command `sundog`. It imports a verb only when the verb runs, so it starts fast."""

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
"""Name of the command when it runs as a plugin of kubectl."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_PACKAGE: Final = "sundog_operator.shell"


ENTRY_POINT_GROUP: Final = "sundog.commands"
"""Entry points of commands that other packages provide. The operator imports none of those packages."""


class CommandEntry(NamedTuple):
    """A command's import path and its line in the overview.

    The path is relative to this package. It is empty for a command of another package: see `ENTRY_POINT_GROUP`.
    """

    import_path: str
    help: str


COMMANDS: Final[dict[str, CommandEntry]] = {
    "apply": CommandEntry("verbs.apply:apply", "Create or update the objects of manifests."),
    "get": CommandEntry("verbs.get:get", "List ModelDeployments or Experiments."),
    "describe": CommandEntry("verbs.describe:describe", "Show one object in full, and what it waits for."),
    "capacity": CommandEntry(
        "verbs.capacity:capacity", "Show who uses which GPUs, CPU and memory, and what still fits."
    ),
    "logs": CommandEntry("verbs.logs:logs", "Print the logs of a model's replicas."),
    "delete": CommandEntry("verbs.delete:delete", "Delete ModelDeployments or Experiments."),
    "plan": CommandEntry("verbs.plan:plan", "Show what an apply would change, and why."),
    "experiment": CommandEntry(
        "verbs.experiment:experiment", "Estimate how a rollout or an Experiment ends, or report it."
    ),
    "predict": CommandEntry("verbs.predict:predict", "Send a request to a model's endpoint."),
    "url": CommandEntry("verbs.url:url", "Print the address of a model's endpoint."),
    "promote": CommandEntry("verbs.rollout_commands:promote", "Promote the current step of a rollout."),
    "skip": CommandEntry("verbs.rollout_commands:skip", "Skip the current step of a rollout."),
    "pause": CommandEntry("verbs.rollout_commands:pause", "Pause a rollout."),
    "resume": CommandEntry("verbs.rollout_commands:resume", "Resume a paused rollout."),
    "abort": CommandEntry("verbs.rollout_commands:abort", "End a rollout and send all traffic back to stable."),
    "rollback": CommandEntry("verbs.rollout_commands:rollback", "Roll back to an earlier revision at once."),
    "stop": CommandEntry("verbs.rollout_commands:stop", "End the Experiment that runs on a ModelDeployment."),
    "retry": CommandEntry("verbs.rollout_commands:retry", "Retry a failed, aborted or rolled-back revision."),
    "package": CommandEntry("", "Create and test a model directory from code and weights."),
    "digest": CommandEntry("", "Print the digest of a model directory or file."),
    "local": CommandEntry("local.commands:local", "Serve manifests on this machine, without a cluster."),
    "demo": CommandEntry("demo.command:demo", "Show a rollout of two small models on this machine."),
    "doctor": CommandEntry(
        "verbs.doctor:doctor", "Check whether this machine can run local mode, or a cluster can run Sundog."
    ),
    "completion": CommandEntry("verbs.completion:completion", "Print a shell's completion script."),
    "version": CommandEntry("verbs.version:version", "Print the version."),
}


_OTHER_WORDS: Final = {
    "status": "sundog describe NAME",
    "list": "sundog get",
    "ls": "sundog get",
    "up": "sundog local up PATH",
    "serve": "sundog local up PATH",
    "run": "sundog local up PATH",
    "deploy": "sundog apply -f FILE",
    "create": "sundog apply -f FILE",
    "scale": "kubectl scale mdep/NAME --replicas=N, or set spec.replicas and apply",
    "rollout": "sundog describe NAME; promote, pause, resume, abort and rollback control a rollout",
    "report": "sundog experiment report NAME",
}
"""What to use instead of words that other command lines know."""


class LazyGroup(click.Group):
    """A group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return all commands in display order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command. Raises CommandFailed when a package that it needs is not installed."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        try:
            command = _import_command(entry.import_path) if entry.import_path else _load_entry_point(cmd_name)
        except ModuleNotFoundError as err:
            raise CommandFailed(
                f"`sundog {cmd_name}` needs {err.name}, which is not installed. Run: pip install 'sundog[local]'"
            ) from err
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises UsageError for an unknown one, with what to use instead if that is known."""
        import difflib

        word = args[0].lower() if args else ""
        if args and args[0] not in COMMANDS:
            near = [f"sundog {name}" for name in difflib.get_close_matches(word, COMMANDS, n=1)]
            instead = _OTHER_WORDS.get(word) or next(iter(near), "")
            if instead:
                raise click.UsageError(f"no command {args[0]!r}; use {instead}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the overview without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), meaning) for code, meaning in EXIT_CODE_MEANINGS.items()])


def _import_command(import_path: str) -> object:
    module, _, attribute = import_path.partition(":")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), attribute)


def _load_entry_point(name: str) -> object:
    """Import a command of another package. Raises CommandFailed when no installed package provides it."""
    from importlib.metadata import entry_points

    found = next(iter(entry_points(group=ENTRY_POINT_GROUP, name=name)), None)
    if found is None:
        raise CommandFailed(
            f"`sundog {name}` is not part of this installation. Run: pip install --upgrade 'sundog[runtime]'"
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

    Commands use the local instance if one runs on this machine, else the cluster of the kubeconfig.
    """


def run(arguments: Sequence[str], program: str = "sundog") -> int:
    """Run a command line and return its exit code. Errors are one line on standard error, unless SUNDOG_DEBUG=1."""
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
        # The reader of our output closed the pipe. The interpreter would report an error when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except SundogError as err:
        return _fail(err, one_line(err), exit_code_of(err))
    except OSError as err:
        if err.errno not in _FULL:
            return _fail_inside(err)
        what = f"{err.filename}: " if err.filename else ""
        return _fail(err, f"{what}{err.strerror}. Free some space, or choose another --state-dir", ExitCode.REFUSED)
    except Exception as err:  # noqa: BLE001 no user sees a traceback
        return _fail_inside(err)
    return int(code) if isinstance(code, int) else ExitCode.OK


def _fail_inside(error: Exception) -> int:
    return _fail(
        error,
        f"in sundog itself: {type(error).__name__}: {one_line(error)} ({DEBUG_VARIABLE}=1 shows the traceback)",
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
