"""The part of the screen of `tutelage watch` that shows queries and the replicas that answer them."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tutelage.cli.printing import line
from tutelage.tools.replica_view import QueriesView, ReplicaMetricsView, ReplicasView
from tutelage.tools.watch_view import View

_LEFT = ("", "replica", "host", "partitions", "owner", "metrics of")
# More partitions of a replica are counted, not listed.
_MOST_LISTED = 8


def replicas_of(view: View) -> RenderableType:
    """The queries of each partition, the members of each group, and what metrics ports say."""
    tables: list[RenderableType] = []
    for group in view.replicas:
        if group.partitions:
            tables += [_queries(group), _members(group)]
    if view.replica_metrics:
        tables.append(_metrics(view.replica_metrics))
    return Group(*tables)


def _table(*titles: str) -> Table:
    table = Table(box=None, expand=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, justify="left" if title in _LEFT else "right", no_wrap=True)
    return table


def _queries(group: ReplicasView) -> Table:
    table = _table("", "answered", "end", "waiting", "oldest", "answers/s", "owner")
    table.columns[0].header = line(group.queries)
    for number, part in enumerate(group.partitions):
        table.add_row(
            Text(f"  {number}", style="dim"),
            f"{part.answered:,}",
            f"{part.end:,}",
            f"{part.waiting:,}",
            _seconds(part),
            f"{part.rate:,.1f}",
            line(part.owner) if part.owner is not None else Text("nobody", style="yellow"),
        )
    table.add_row()
    return table


def _members(group: ReplicasView) -> Table:
    table = _table("replica", "host", "partitions", "answers/s")
    for member in group.replicas or ():
        listed = ", ".join(map(str, member.partitions[:_MOST_LISTED]))
        more = len(member.partitions) - _MOST_LISTED
        table.add_row(
            line(member.client),
            line(member.host),
            f"{listed} and {more} more" if more > 0 else listed or "none",
            f"{member.rate:,.1f}",
        )
    if not group.replicas:
        who = "not known" if group.replicas is None else "none"
        table.add_row(Text(who, style="yellow"), "", "", "")
    table.add_row()
    return table


def _metrics(found: list[ReplicaMetricsView]) -> Table:
    table = _table("metrics of", "queries/s", "rows/s", "tokens/s", "rebalances", "discarded")
    for each in found:
        table.add_row(
            line(each.address),
            _rate(each.queries_rate),
            _rate(each.rows_rate),
            _rate(each.tokens_rate),
            f"{each.rebalances:,}",
            f"{each.discarded:,}",
        )
    return table


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _seconds(part: QueriesView) -> str:
    return "-" if part.oldest_s is None else f"{part.oldest_s:,.0f} s"
