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
from sundog_operator.shell.demo.run_record import DemoRecord
from sundog_operator.shell.demo.scenario import DemoFolder, DemoScenario
from sundog_operator.shell.demo.view import make_view
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode

_NEEDED: Final = ("torch", "safetensors", "sklearn", "matplotlib", "ray")
# What a model's URI cannot hold.
_REFUSED: Final = "%?#\\"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/demo"),
    show_default=True,
    help="Where the models, the manifest and the results go.",
)
@click.option("--keep", is_flag=True, help="Leave it up at the end.")
def demo(out: Path, keep: bool) -> int:
    """Show a rollout of two small models on this machine, under load.

    Trains two networks on real images of handwritten digits, serves the first, walks a canary to the second, tries a
    broken third, and tells what the clients saw: accuracy through the endpoint, failed requests, shares, latency.
    """
    folder = DemoFolder(out.absolute())
    _check(folder)
    console = Console(soft_wrap=False)
    # Below /tmp, not below $TMPDIR: the sockets in it need a short path.
    state_dir = Path(tempfile.mkdtemp(prefix="sundog-demo-", dir="/tmp"))
    story = DemoScenario(folder, state_dir, make_view(console))
    kept, began = False, time.monotonic()
    try:
        kept = asyncio.run(_run(story, keep))
    finally:
        if not kept:
            shutil.rmtree(state_dir, ignore_errors=True)
    story.record.seconds = time.monotonic() - began
    _conclude(console, folder, story)
    if kept:
        report.print_instance_help(console, folder, story)
    return ExitCode.REFUSED if story.record.problems() else ExitCode.OK


def _check(folder: DemoFolder) -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandFailed(f"the demo needs {', '.join(missing)}: pip install 'sundog[local]'")
    if found := [char for char in _REFUSED if char in str(folder.path)]:
        raise CommandFailed(
            f"--out: {folder.path} holds {found[0]!r}, which the URI of a model cannot: choose another folder"
        )
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"--out: {folder.path}: {error.strerror}") from error


async def _run(story: DemoScenario, keep: bool) -> bool:
    """Run the story until it ends or somebody asks for the end; whether the instance is still up.

    What is not reached is in the record. Raises KeyboardInterrupt after everything was ended.
    """
    running = asyncio.ensure_future(story.run(keep=keep))
    with _signals(running):
        try:
            await running
        except SundogError:
            return False
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            story.view.close()
    return keep


@contextlib.contextmanager
def _signals(running: "asyncio.Future[None]") -> Iterator[None]:
    """Let Ctrl-C and its like end the story, once: what is being ended meanwhile must not be left half way."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        for number in _SIGNALS:
            loop.add_signal_handler(number, lambda: None)
        running.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _conclude(console: Console, folder: DemoFolder, story: DemoScenario) -> None:
    """Write the results and print them."""
    record = story.record
    files = [folder.path / "results.json"]
    files[0].write_bytes(orjson.dumps(record.document(), option=orjson.OPT_INDENT_2))
    if record.samples:
        files.append(_plot(folder, record))
    report.print_results(console, record, files)


def _plot(folder: DemoFolder, record: DemoRecord) -> Path:
    # Imported late: it takes a second, and whoever looks at --help has no use for it.
    from sundog_operator.shell.demo import plot

    path = folder.path / "rollout.png"
    plot.write_plot(path, record)
    return path
