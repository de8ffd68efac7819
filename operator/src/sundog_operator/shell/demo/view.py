"""Output of the running demo: a live view on a terminal, else plain lines."""

from collections.abc import Mapping
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sundog_operator.shell.demo.results import RecentTraffic
from sundog_operator.shell.view.palette import DEMO_MODELS

_BAR_WIDTH: Final = 40


class DemoView:
    """Shows the progress of the demo. A view overrides what it shows."""

    def start_step(self, title: str) -> None:
        """Show the start of a step."""

    def detail(self, text: str) -> None:
        """Show the progress of the step."""

    def wait(self, text: str) -> None:
        """Show what the step waits for."""

    def log_line(self, text: str) -> None:
        """Print a line that stays."""

    def end_step(self, outcome: str, seconds: float, *, reached: bool) -> None:
        """Show the end of the step."""

    def traffic(self, now: RecentTraffic, models: Mapping[int, str], failed: int) -> None:
        """Show the traffic of the last seconds."""

    def clear_traffic(self) -> None:
        """Remove the traffic after the last request."""

    def close(self) -> None:
        """End the live view."""


def make_view(console: Console) -> DemoView:
    """Return the view for a console."""
    return LiveDemoView(console) if console.is_terminal else PlainDemoView(console)


class PlainDemoView(DemoView):
    """A view with plain lines for logs, without progress within a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._traffic, self._waits = "", ""

    def start_step(self, title: str) -> None:
        """See DemoView."""
        self._print(f"{title} …")

    def wait(self, text: str) -> None:
        """See DemoView."""
        if text != self._waits:
            self._waits = text
            self._print(f"  waits: {text}")

    def log_line(self, text: str) -> None:
        """See DemoView."""
        self._print(f"  {text}")

    def end_step(self, outcome: str, seconds: float, *, reached: bool) -> None:
        """See DemoView."""
        if self._traffic:
            self._print(f"  {self._traffic}")
        self._print(f"  {'done' if reached else 'FAILED'} in {seconds:.1f} s: {outcome}")

    def traffic(self, now: RecentTraffic, models: Mapping[int, str], failed: int) -> None:
        """See DemoView."""
        shares = ", ".join(f"{models.get(revision, '?')} {share:.0%}" for revision, share in now.shares.items())
        self._traffic = f"traffic: {shares}; {_format_numbers(now, failed)}"

    def clear_traffic(self) -> None:
        """See DemoView."""
        self._traffic = ""

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveDemoView(DemoView):
    """A live view: finished steps stay, and the current step and the traffic are redrawn below them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Spinner("dots", style="bold yellow")
        self._title, self._detail = "", ""
        self._bar: RenderableType = Text()
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=8)
        self._live.start()

    def start_step(self, title: str) -> None:
        """See DemoView."""
        self._title, self._detail = title, ""

    def detail(self, text: str) -> None:
        """See DemoView."""
        self._detail = text

    wait = detail

    def log_line(self, text: str) -> None:
        """See DemoView."""
        self._console.print(Text(f"  {text}", style="dim"))

    def end_step(self, outcome: str, seconds: float, *, reached: bool) -> None:
        """See DemoView."""
        mark, style = ("✓", "bold green") if reached else ("✗", "bold red")
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column()
        line.add_column(ratio=1)
        line.add_column(justify="right", style="dim")
        line.add_row(Text(mark, style=style), Text.assemble((self._title, "bold"), "  ", outcome), f"{seconds:.1f} s")
        self._console.print(line)
        self._title, self._detail = "", ""

    def traffic(self, now: RecentTraffic, models: Mapping[int, str], failed: int) -> None:
        """See DemoView."""
        self._bar = Group(
            Text(),
            render_traffic_bar(now, models),
            Text(f"  {_format_numbers(now, failed)}", style="red" if failed else "dim"),
        )

    def clear_traffic(self) -> None:
        """See DemoView."""
        self._bar = Text()

    def close(self) -> None:
        """See DemoView."""
        self._title, self._bar = "", Text()
        self._live.stop()

    def _draw(self) -> RenderableType:
        if not self._title:
            return self._bar
        self._spinner.update(text=Text.assemble((self._title, "bold"), "  ", (self._detail, "dim")))
        return Group(self._spinner, self._bar)


def render_traffic_bar(now: RecentTraffic, models: Mapping[int, str]) -> Text:
    """Draw the shares of the last seconds as one coloured bar of a fixed width."""
    bar, legend = Text("  "), Text("  ")
    drawn, total = 0, 0.0
    for revision, share in now.shares.items():
        model, total = models.get(revision, "?"), total + share
        until = round(total * _BAR_WIDTH)
        bar.append("█" * (until - drawn), style=DEMO_MODELS.get(model, ""))
        legend.append(f"{model} {share:.0%}  ", style=DEMO_MODELS.get(model, ""))
        drawn = until
    return bar.append("░" * (_BAR_WIDTH - drawn), style="dim").append_text(legend)


def _format_numbers(now: RecentTraffic, failed: int) -> str:
    return (
        f"{now.rate:.0f} requests/s, p50 {now.p50_ms:.1f} ms, p99 {now.p99_ms:.1f} ms; {now.sent} sent, {failed} failed"
    )
