"""The pure stages together under faults: order, rebatch, align, merge and checkpoints, driven by thousands of drawn schedules.

One to three teachers of up to four partitions, duplicates of restarted writers, zombies, kills of the student at any step, streams that
are cut or damaged: the batches must be, bit for bit and in order, those that row arithmetic alone gives, or a typed error comes after
the last right one. `TUTELAGE_SCHEDULES=1000000 pytest tests/simulation` runs that many schedules in place of 10,000.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from support.schedules import Schedule, damaged, examples, healthy, interrupted, restarted, unequal
from support.verdicts import check_damaged, check_interrupted, check_unequal, check_whole

QUICK = [HealthCheck.too_slow]


@given(healthy)
@settings(max_examples=examples(2500), deadline=None, suppress_health_check=QUICK)
def test_restarted_writers_and_zombies_change_no_batch(schedule: Schedule) -> None:
    check_whole(schedule)


@given(restarted)
@settings(max_examples=examples(3500), deadline=None, suppress_health_check=QUICK)
def test_a_student_killed_anywhere_goes_on_with_the_same_batches(schedule: Schedule) -> None:
    check_whole(schedule)


@given(interrupted)
@settings(max_examples=examples(1500), deadline=None, suppress_health_check=QUICK)
def test_of_a_stream_that_stops_what_is_whole_comes_and_then_the_student_waits(
    schedule: Schedule,
) -> None:
    check_interrupted(schedule)


@given(damaged)
@settings(max_examples=examples(1500), deadline=None, suppress_health_check=QUICK)
def test_a_record_that_is_missing_or_altered_is_an_error_and_never_a_wrong_batch(
    schedule: Schedule,
) -> None:
    check_damaged(schedule)


@given(unequal())
@settings(max_examples=examples(1000), deadline=None, suppress_health_check=QUICK)
def test_teachers_of_different_length_are_truncated_or_refused(schedule: Schedule) -> None:
    check_unequal(schedule)
