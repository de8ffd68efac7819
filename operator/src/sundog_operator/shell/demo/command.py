"""`sundog demo`."""

import asyncio
import contextlib
import importlib.util
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import orjson
from rich.console import Console

from sundog_operator.errors import SundogError
from sundog_operator.shell.demo import report
from sundog_operator.shell.demo.scenario import DemoFolder, DemoScenario
from sundog_operator.shell.demo.view import make_view
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.run_until_signal import handle_signals

_REQUIRED_PACKAGES: Final = ("torch", "safetensors", "sklearn", "ray")
# Characters that the URI of a model cannot hold.
_FORBIDDEN: Final = "%?#\\"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(epilog="Example: sundog demo --keep")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/demo"),
    show_default=True,
    help="Directory for the models, the manifest and the results.",
)
@click.option("--keep", is_flag=True, help="Keep the instance running at the end.")
def demo(out: Path, keep: bool) -> int:
    """Show a rollout of two small models on this machine, under load.

    It trains two networks on real images of handwritten digits, serves the first, promotes the second through a canary,
    and tries a broken third one. It reports what the clients measured: accuracy, failed requests, shares and latency.
    """
    folder = DemoFolder(out.absolute())
    _check(folder)
    console = Console(soft_wrap=False)
    # Below /tmp, not below $TMPDIR: the sockets in it need a short path.
    state_dir = Path(tempfile.mkdtemp(prefix="sundog-demo-", dir="/tmp"))
    scenario = DemoScenario(folder, state_dir, make_view(console))
    is_kept, start = False, time.monotonic()
    try:
        is_kept = asyncio.run(_run(scenario, keep))
    finally:
        if not is_kept:
            shutil.rmtree(state_dir, ignore_errors=True)
    scenario.record.seconds = time.monotonic() - start
    _write_results(console, folder, scenario)
    if is_kept:
        report.print_instance_help(console, folder, scenario)
    return ExitCode.REFUSED if scenario.record.problems() else ExitCode.OK


def _check(folder: DemoFolder) -> None:
    missing = [name for name in _REQUIRED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandFailed(f"the demo needs {', '.join(missing)}. Run: pip install 'sundog[local]'")
    if found := [char for char in _FORBIDDEN if char in str(folder.path)]:
        raise CommandFailed(
            f"--out: {folder.path} has {found[0]!r}, which the URI of a model cannot hold. Choose another folder"
        )
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"--out: {folder.path}: {error.strerror}") from error


async def _run(scenario: DemoScenario, keep: bool) -> bool:
    """Run the scenario until it ends or a signal stops it; return whether the instance still runs.

    The record has the steps that were not reached. Raises KeyboardInterrupt after everything has ended.
    """
    running = asyncio.ensure_future(scenario.run(keep=keep))
    with _cancel_on_signals(running):
        try:
            await running
        except SundogError:
            return False
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            scenario.view.close()
    return keep


@contextlib.contextmanager
def _cancel_on_signals(running: "asyncio.Future[None]") -> Iterator[None]:
    """Cancel the scenario at the first signal, and ignore others: a second one must not interrupt the clean-up."""
    is_cancelled = False

    def cancel_once() -> None:
        nonlocal is_cancelled
        if not is_cancelled:
            is_cancelled = True
            running.cancel()

    with handle_signals(_SIGNALS, cancel_once):
        yield


def _write_results(console: Console, folder: DemoFolder, scenario: DemoScenario) -> None:
    """Write and print the results."""
    record = scenario.record
    folder.results.write_bytes(orjson.dumps(record.document(), option=orjson.OPT_INDENT_2))
    report.print_results(console, record, [each for each in (folder.results, folder.report) if each.exists()])
