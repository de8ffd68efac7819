"""What the demo shows while it runs: a live view on a terminal, else plain lines."""

from collections.abc import Mapping
from typing import Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sundog_operator.shell.demo.dataset import BROKEN, GOOD, WEAK
from sundog_operator.shell.demo.results import RecentTraffic

MODEL_STYLES: Final[Mapping[str, str]] = {WEAK: "blue", GOOD: "yellow", BROKEN: "red"}
_BAR: Final = 40


class DemoView(Protocol):
    """Where the demo tells what happens."""

    def begin(self, title: str) -> None:
        """A step begins."""

    def detail(self, text: str) -> None:
        """How far the step is."""

    def say(self, text: str) -> None:
        """A line worth keeping."""

    def end(self, outcome: str, seconds: float, *, reached: bool) -> None:
        """The step is over."""

    def traffic(self, now: RecentTraffic, models: Mapping[int, str], failed: int) -> None:
        """The last seconds of the load."""

    def rest(self) -> None:
        """Nothing is sent any more."""

    def close(self) -> None:
        """Nothing more is shown live."""


def make_view(console: Console) -> DemoView:
    """The view for a console."""
    return LiveDemoView(console) if console.is_terminal else PlainDemoView(console)


class PlainDemoView:
    """Plain lines, for logs. What changes all the time is left out."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._traffic = ""

    def begin(self, title: str) -> None:
        """See View."""
        self._print(f"{title} …")

    def detail(self, text: str) -> None:
        """See View."""

    def say(self, text: str) -> None:
        """See View."""
        self._print(f"  {text}")

    def end(self, outcome: str, seconds: float, *, reached: bool) -> None:
        """See View."""
        if self._traffic:
            self._print(f"  {self._traffic}")
        self._print(f"  {'done' if reached else 'FAILED'} in {seconds:.1f} s: {outcome}")

    def traffic(self, now: RecentTraffic, models: Mapping[int, str], failed: int) -> None:
        """See View."""
        shares = ", ".join(f"{models.get(revision, '?')} {share:.0%}" for revision, share in now.shares.items())
        self._traffic = f"traffic: {shares}; {_numbers(now, failed)}"

    def rest(self) -> None:
        """See View."""
        self._traffic = ""

    def close(self) -> None:
        """See View."""

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveDemoView:
    """Finished steps stay; below them the current one and the traffic are drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Spinner("dots", style="bold yellow")
        self._title, self._detail = "", ""
        self._bar: RenderableType = Text()
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=8)
        self._live.start()

    def begin(self, title: str) -> None:
        """See View."""
        self._title, self._detail = title, ""

    def detail(self, text: str) -> None:
        """See View."""
        self._detail = text

    def say(self, text: str) -> None:
        """See View."""
        self._console.print(Text(f"  {text}", style="dim"))

    def end(self, outcome: str, seconds: float, *, reached: bool) -> None:
        """See View."""
        mark, style = ("✓", "bold green") if reached else ("✗", "bold red")
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column()
        line.add_column(ratio=1)
        line.add_column(justify="right", style="dim")
        line.add_row(Text(mark, style=style), Text.assemble((self._title, "bold"), "  ", outcome), f"{seconds:.1f} s")
        self._console.print(line)
        self._title, self._detail = "", ""

    def traffic(self, now: RecentTraffic, models: Mapping[int, str], failed: int) -> None:
        """See View."""
        self._bar = Group(
            Text(),
            render_traffic_bar(now, models),
            Text(f"  {_numbers(now, failed)}", style="red" if failed else "dim"),
        )

    def rest(self) -> None:
        """See View."""
        self._bar = Text()

    def close(self) -> None:
        """See View."""
        self._title, self._bar = "", Text()
        self._live.stop()

    def _draw(self) -> RenderableType:
        if not self._title:
            return self._bar
        self._spinner.update(text=Text.assemble((self._title, "bold"), "  ", (self._detail, "dim")))
        return Group(self._spinner, self._bar)


def render_traffic_bar(now: RecentTraffic, models: Mapping[int, str]) -> Text:
    """The shares of the last seconds as one coloured bar of a fixed width."""
    bar, legend = Text("  "), Text("  ")
    drawn, total = 0, 0.0
    for revision, share in now.shares.items():
        model, total = models.get(revision, "?"), total + share
        until = round(total * _BAR)
        bar.append("█" * (until - drawn), style=MODEL_STYLES.get(model, ""))
        legend.append(f"{model} {share:.0%}  ", style=MODEL_STYLES.get(model, ""))
        drawn = until
    return bar.append("░" * (_BAR - drawn), style="dim").append_text(legend)


def _numbers(now: RecentTraffic, failed: int) -> str:
    return (
        f"{now.rate:.0f} requests/s, p50 {now.p50_ms:.1f} ms, p99 {now.p99_ms:.1f} ms; {now.sent} sent, {failed} failed"
    )
