"""The `sundog` command: overview, start-up, errors, exit codes, reference."""

import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from reference.cli import EXAMPLE_PREFIX
from sundog_operator.errors import (
    Conflict,
    DependencyError,
    Forbidden,
    NotFound,
    NotServed,
    RayUnavailable,
    SpecError,
    SundogError,
)
from sundog_operator.shell import cli
from sundog_operator.shell.exit_codes import EXIT_CODE_MEANINGS, CommandFailed, ExitCode, exit_code_of
from waiting import PATIENCE_S


def test_help_names_every_command_and_every_exit_code(sundog: Any) -> None:
    done = sundog("--help")
    assert done.code == 0
    for name, entry in cli.COMMANDS.items():
        assert f"  {name} " in done.out
        assert entry.help.split()[0] in done.out
    for code, meaning in EXIT_CODE_MEANINGS.items():
        assert f"  {code.value} " in done.out
        assert meaning.split()[0] in done.out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sundog_operator.shell import cli; cli.run(['--help']);"
        "heavy = {'kubernetes', 'kopf', 'ray', 'torch', 'aiohttp', 'pydantic', 'rich', 'yaml', 'psutil'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("verb", ["get", "describe", "plan", "experiment", "local", "doctor", "predict"])
def test_verbs_need_neither_ray_nor_torch(verb: str) -> None:
    foreign = {"ray", "torch", "kopf"} | (set() if verb in ("plan", "experiment", "local") else {"numpy"})
    code = (
        "import sys; from sundog_operator.shell import cli;"
        f"cli.run([{verb!r}, '--help']);"
        f"print(sorted({foreign} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "demo"])
def test_every_command_can_be_imported_and_explains_itself(name: str, sundog: Any) -> None:
    done = sundog(name, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: sundog {name}")


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below a group with its full name."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from commands(child, f"{path} {name}")


def test_every_command_has_an_example_on_one_line() -> None:
    for name, command in commands(cli.root, "sundog"):
        epilog = command.epilog or ""
        assert epilog.startswith(EXAMPLE_PREFIX), name
        assert name in epilog
        assert len(epilog) < 78, "longer ones are wrapped"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["xyzzy"], "error: No such command 'xyzzy'; see `sundog --help`"),
        (["status", "digits"], "error: no command 'status'; use sundog describe NAME; see `sundog --help`"),
        (["up"], "error: no command 'up'; use sundog local up PATH"),
        (["scale"], "error: no command 'scale'; use kubectl scale mdep/NAME --replicas=N, or set spec.replicas"),
        (["rollout"], "error: no command 'rollout'; use sundog describe NAME; promote, pause, resume, abort"),
        (["promot"], "error: no command 'promot'; use sundog promote; see `sundog --help`"),
        (["logs", "mexp/digits"], "error: 'mexp/digits': expected a ModelDeployment, as NAME or mdep/NAME"),
        (["logs", "pod/digits"], "error: 'pod/digits': expected KIND/NAME"),
        (["get", "--wide"], "error: No such option '--wide'"),
        (["promote"], "error: Missing argument 'NAME'"),
        (["get", "-o", "xml"], "error: Invalid value for '-o' / '--output'"),
        (["apply", "-f", "/does/not/exist.yaml"], "'/does/not/exist.yaml' does not exist"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(sundog: Any, arguments: list[str], message: str) -> None:
    done = sundog(*arguments)
    assert done.code == ExitCode.USAGE
    assert message in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (["apply", "-f"], "a file, a folder, or - for standard input"),
        (["plan", "-f"], "a file, a folder, or - for standard input"),
        (["delete", "-f"], "a file, a folder, or - for standard input"),
        (["experiment", "simulate", "-f"], "a file, a folder, or - for standard input"),
        (["local", "up"], "a file or a folder"),
    ],
)
@pytest.mark.parametrize("address", ["https://example.com/tiny.yaml", "s3://bucket/tiny.yaml"])
def test_an_address_as_manifest_is_shown_as_one(sundog: Any, arguments: list[str], instead: str, address: str) -> None:
    done = sundog(*arguments, address)
    assert done.code == ExitCode.USAGE
    assert f"{address!r} is an address; expected {instead};" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_path_like_an_address_is_a_path(sundog: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a:").mkdir()
    (tmp_path / "a:" / "x.yaml").write_text("b: [1")
    monkeypatch.chdir(tmp_path)
    assert (
        "a:/x.yaml: line 1: "
        in sundog("experiment", "simulate", "--rps", "1", "--errors", "1%", "-f", "a://x.yaml").err
    )


def test_no_command_shows_the_overview(sundog: Any) -> None:
    done = sundog()
    assert done.code == ExitCode.USAGE
    assert "Commands:" in done.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandFailed("x", ExitCode.TIMEOUT), ExitCode.TIMEOUT),
        (NotFound("x"), ExitCode.NOT_FOUND),
        (Conflict("x"), ExitCode.REFUSED),
        (DependencyError("x"), ExitCode.UNREACHABLE),
        (NotServed("x"), ExitCode.UNREACHABLE),
        (Forbidden("x"), ExitCode.REFUSED),
        (RayUnavailable("x"), ExitCode.UNREACHABLE),
        (SpecError("Invalid", "x"), ExitCode.REFUSED),
        (SundogError("x"), ExitCode.REFUSED),
    ],
)
def test_each_error_has_its_exit_code(error: SundogError, code: ExitCode) -> None:
    assert exit_code_of(error) == code


def _failing(error: BaseException) -> click.Command:
    def fail() -> None:
        raise error

    return click.Command("version", callback=fail)


def test_an_error_of_our_own_is_one_line(sundog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.root, "get_command", lambda *_: _failing(KeyError("some\nthing")))
    done = sundog("version")
    assert done.code == ExitCode.INTERNAL
    assert done.err.startswith("error: in sundog itself: KeyError: ")
    assert len(done.err.splitlines()) == 1


def test_debug_shows_the_traceback(sundog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.root, "get_command", lambda *_: _failing(KeyError("something")))
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    with pytest.raises(KeyError):
        sundog("version")


def test_ctrl_c_is_code_130(sundog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.root, "get_command", lambda *_: _failing(KeyboardInterrupt()))
    assert sundog("version").code == ExitCode.INTERRUPTED


def test_ctrl_c_while_the_command_is_imported_shows_no_traceback() -> None:
    code = (
        "import builtins, os, signal\n"
        "found = builtins.__import__\n"
        "def interrupted(name, *more):\n"
        "    if name == 'click': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return found(name, *more)\n"
        "builtins.__import__ = interrupted\n"
        "from sundog_operator.shell.entry import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_full_disk_is_one_line(sundog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/state/origins.json")
    monkeypatch.setattr(cli.root, "get_command", lambda *_: _failing(full))
    done = sundog("version")
    assert done.code == ExitCode.REFUSED
    assert done.err == (
        "error: /state/origins.json: No space left on device. Free some space, or choose another --state-dir\n"
    )


def test_what_is_not_installed_is_named(sundog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sundog_operator.shell.demo.command", None)
    done = sundog("demo")
    assert done.code == ExitCode.REFUSED
    assert "pip install 'sundog[local]'" in done.err


def test_a_command_that_no_package_brings_says_how_to_get_it(sundog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    done = sundog("digest", "x")
    assert done.code == ExitCode.REFUSED
    assert done.err == (
        "error: `sundog digest` is not part of this installation. Run: pip install --upgrade 'sundog[runtime]'\n"
    )


@pytest.mark.parametrize("verb", ["package", "digest"])
def test_commands_of_the_model_server_explain_themselves_without_torch(verb: str) -> None:
    code = (
        "import sys; from sundog_operator.shell import cli;"
        f"cli.run([{verb!r}, '--help']);"
        "print(sorted({'ray', 'torch', 'kopf'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stderr == "[]\n"


def test_get_and_completion_of_a_local_instance_import_nothing_slow(local_state: Path) -> None:
    """The imports of these modules took more than half of the time."""
    slow = ("kubernetes", "pydantic", "sundog_operator.api", "numpy", "sundog_operator.adapters.memory_kubernetes")
    code = (
        "import sys; from sundog_operator.shell import cli\n"
        f"assert cli.run(['get', '--state-dir', {str(local_state)!r}]) == 0\n"
        f"print([name for name in {slow!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_what_a_model_is_refused_for_is_code_1(sundog: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    done = sundog("digest", str(tmp_path))
    assert done.code == ExitCode.REFUSED
    assert "link is a symbolic link" in done.err


def test_version_names_what_is_installed(sundog: Any) -> None:
    assert sundog("--version").out.startswith("sundog ")
    assert sundog("version", "-o", "json").json["kubernetes"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(sundog: Any, shell: str) -> None:
    done = sundog("completion", shell)
    assert done.code == 0
    assert "_SUNDOG_COMPLETE" in done.out
