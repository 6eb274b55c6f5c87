"""A view of `watch` -> verdicts: is a student starved, which teacher is slow, is anything dropped.

Knows neither Kafka nor screens.
"""

from __future__ import annotations

from collections.abc import Iterator

from tutelage.tools.replica_verdicts import Verdict, replica_verdicts
from tutelage.tools.watch_view import StudentView, View

# Nothing written for this long is a warning, unless the run is complete.
_QUIET_S = 30.0
# A student that spends at least this share of its time waiting is starved.
_STARVED_SHARE = 0.2
# A teacher is slow if the student waits for it at least this share of its longest wait.
_SLOW_SHARE = 0.75


def verdicts(view: View) -> list[Verdict]:
    """Say in sentences what a view shows.

    Args:
        view: What was seen.

    Returns:
        The sentences in the order in which they are shown, trouble first.
    """
    lines: list[Verdict] = [("bad", line) for line in view.trouble]
    lines += _topic_verdicts(view)
    lines += _group_verdicts(view)
    lines += replica_verdicts(view.replicas, view.replica_metrics)
    if view.student is not None:
        lines += _student_verdicts(view.student)
    lines += _lag_verdicts(view)
    return lines


def _topic_verdicts(view: View) -> Iterator[Verdict]:
    for topic in view.topics:
        if not topic.partitions:
            yield (
                "warning",
                f"topic {topic.topic} does not exist yet, or is empty: its teacher has not started",
            )
    for topic in view.topics:
        if topic.quiet_s is not None and topic.quiet_s > _QUIET_S and not topic.finished:
            yield (
                "warning",
                f"{topic.topic}: the run is not complete, and nothing was written for "
                f"{topic.quiet_s:.0f} s; is its teacher running?",
            )
    for topic in view.topics:
        if topic.finished:
            yield "good", f"{topic.topic}: its run is complete"


def _group_verdicts(view: View) -> Iterator[Verdict]:
    for topic in view.topics:
        if view.group is not None and topic.partitions and topic.behind is None:
            yield (
                "warning",
                f"group {view.group} has committed nothing for {topic.topic}: is that the name "
                "given to learn --group?",
            )
    if view.groups:
        yield (
            "plain",
            f"read by the groups {', '.join(view.groups)}: --group NAME shows the progress of one",
        )
    if view.too_many_groups:
        yield (
            "plain",
            f"{view.too_many_groups:,} groups are too many to query: --group NAME shows the "
            "progress of one",
        )


def _student_verdicts(student: StudentView) -> Iterator[Verdict]:
    if student.starved is not None:
        waiting = f"it spends {student.starved:.0%} of its time waiting for batches"
        if student.starved >= _STARVED_SHARE:
            yield "bad", f"the student is starved: {waiting}{_slow_teachers(student)}"
        else:
            yield "good", f"the student is not starved: {waiting}"
    if student.duplicates or student.zombies:
        zombies = f"; {student.zombies:,} records of zombie writers" if student.zombies else ""
        yield "warning", f"dropped: {student.duplicates:,} duplicate records{zombies}"
    else:
        yield "good", "dropped: nothing"
    if student.policy_lag is not None:
        noun = "update" if student.policy_lag == 1 else "updates"
        yield (
            "plain",
            f"policy lag: the last batch was generated with weights {student.policy_lag:,.0f} {noun} "
            "old",
        )
    if student.checkpoint_s is not None:
        yield "plain", f"last checkpoint {student.checkpoint_s:.0f} s ago"


def _slow_teachers(student: StudentView) -> str:
    """The end of the sentence about a starved student."""
    longest = max(student.waits.values(), default=0.0)
    slow = [
        teacher
        for teacher, share in student.waits.items()
        if share and share >= _SLOW_SHARE * longest
    ]
    if len(slow) == 1:
        return f"; the slow teacher is {slow[0]}"
    return f"; {' and '.join(slow)} are equally slow" if slow else ""


def _lag_verdicts(view: View) -> Iterator[Verdict]:
    behind = {
        topic.topic: records for topic in view.topics if (records := topic.behind) is not None
    }
    reader = f" (group {view.group})" if view.group is not None else ""
    if any(behind.values()):
        name, records = max(behind.items(), key=lambda item: item[1])
        noun = "record" if records == 1 else "records"
        yield "plain", f"behind: {records:,} {noun} of {name}{reader}"
    elif behind:
        yield "good", f"behind: nothing, all records are read{reader}"
