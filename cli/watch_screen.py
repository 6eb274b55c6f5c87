"""The live screen of `tutelage watch`: verdicts at the top, topics, partitions and replicas below."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Header, Static

from tutelage.cli.exit_codes import INTERRUPTED
from tutelage.cli.printing import line
from tutelage.cli.watch_replicas import replicas_of
from tutelage.schemas.printable import printable
from tutelage.tools.verdicts import verdicts
from tutelage.tools.watch_view import PartitionView, TopicView, View

_STYLES = {"good": "green", "warning": "yellow", "bad": "bold red", "plain": ""}
_MARKS = {"good": "●", "warning": "▲", "bad": "■", "plain": "·"}
_BAR_WIDTH = 40
# A longer name of a teacher is cut off, so that the other columns fit.
_MOST_NAME_CHARACTERS = 40


class WatchScreen(App[None]):
    """Measures at intervals, in a thread, and draws the result.

    Args:
        look: Measures once; it may block.
        every_s: Seconds from one measurement to the next.
        title: The screen's title.
    """

    CSS = """
    #verdicts { height: auto; padding: 1 2; background: $panel; }
    #topics { height: auto; padding: 1 2; }
    #replicas { height: auto; padding: 0 2 1 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "Quit"),
        ("p", "pause", "Pause"),
        ("r", "look", "Look now"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
    ]

    def __init__(self, look: Callable[[], View], *, every_s: float, title: str) -> None:
        super().__init__()
        self._look = look
        self._every_s = every_s
        self._paused = False
        self._looking = False
        self.title = printable(title)
        self.view: View | None = None

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Header(show_clock=True)
        yield Static("looking ...", id="verdicts")
        with VerticalScroll():
            yield Static(id="topics")
            yield Static(id="replicas")
        yield Footer()

    def on_mount(self) -> None:
        """Measure at intervals."""
        self.set_interval(self._every_s, self.look_again)
        self.look_again()

    def action_pause(self) -> None:
        """Pause, or continue."""
        self._paused = not self._paused
        self.sub_title = "paused" if self._paused else ""

    def action_interrupt(self) -> None:
        """Exit as the other commands do after Ctrl-C."""
        self.exit(return_code=INTERRUPTED)

    def action_look(self) -> None:
        """Measure now."""
        self._look_in_thread()

    def look_again(self) -> None:
        """Measure, unless paused."""
        if not self._paused:
            self._look_in_thread()

    def _look_in_thread(self) -> None:
        # One at a time: a broker that does not answer makes a measurement take long.
        if not self._looking:
            self._looking = True
            self._looked()

    @work(thread=True)
    def _looked(self) -> None:
        try:
            view = self._look()
        finally:
            self._looking = False
        self.call_from_thread(self._show, view)

    def _show(self, view: View) -> None:
        self.view = view
        self.query_one("#verdicts", Static).update(verdicts_of(view))
        self.query_one("#topics", Static).update(topics_of(view))
        self.query_one("#replicas", Static).update(replicas_of(view))


def verdicts_of(view: View) -> Text:
    """The verdicts, one line each."""
    lines = [line(f"{_MARKS[how]} {text}", _STYLES[how]) for how, text in verdicts(view)]
    return Text("\n").join(lines) if lines else Text("nothing to say yet")


def topics_of(view: View) -> Table:
    """The table of all topics: each partition's end, and how far it is read."""
    table = Table(box=None, expand=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("topic", "", "read", "end", "behind", "records/s"):
        table.add_column(title, justify="left" if title in ("topic", "") else "right", no_wrap=True)
    waits = view.student.waits if view.student is not None else {}
    for topic in view.topics:
        table.add_row(*_heading(topic, waits.get(topic.teacher)))
        for index, part in enumerate(topic.partitions):
            table.add_row(
                Text(f"  {index}", style="dim"),
                _bar(part),
                f"{part.read:,}" if part.read is not None else "-",
                f"{part.end:,}",
                f"{part.behind:,}" if part.behind is not None else "-",
                f"{part.rate:,.1f}",
            )
        table.add_row()
    return table


def _heading(topic: TopicView, wait: float | None) -> list[Text | str]:
    if not topic.partitions:
        return [line(topic.topic, "bold"), Text("not there yet", style="yellow"), "", "", "", ""]
    rows = f"{topic.rate * topic.rows_per_record:,.0f} rows/s" if topic.rate else ""
    quiet = (
        f"quiet for {topic.quiet_s:,.0f} s" if topic.quiet_s is not None and not topic.rate else ""
    )
    waited = f"waited for {wait:.0%}" if wait is not None else ""
    name = printable(topic.teacher)
    if len(name) > _MOST_NAME_CHARACTERS:
        name = f"{name[:_MOST_NAME_CHARACTERS]}..."
    teacher = f"teacher {name}" if name else ""
    heading = ", ".join(part for part in (teacher, rows, quiet, waited) if part)
    behind = f"{topic.behind:,}" if topic.behind is not None else "-"
    return [
        line(topic.topic, "bold"),
        line(heading),
        "",
        "",
        Text(behind, style="bold"),
        Text(f"{topic.rate:,.1f}", style="bold"),
    ]


def _bar(part: PartitionView) -> Text:
    """A bar from the partition's first offset to its end, filled as far as it is read."""
    span = max(1, part.end - part.first)
    read = part.read if part.read is not None else part.first
    done = (
        round(_BAR_WIDTH * min(1.0, max(0.0, (read - part.first) / span)))
        if part.end > part.first
        else 0
    )
    return Text("━" * done, style="green") + Text("─" * (_BAR_WIDTH - done), style="dim")
