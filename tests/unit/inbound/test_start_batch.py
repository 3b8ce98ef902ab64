"""Starts that are let in together, and when the next of them are."""

from __future__ import annotations

import pytest

from stage.inbound.start_batch import LEFT_MAX, STARTS_MAX, STARTS_MIN, WAITS_SECONDS, StartBatch


@pytest.fixture
def full() -> StartBatch:
    """A batch in which all began at second 1."""
    batch = StartBatch()
    for number in range(STARTS_MIN):
        batch.begins(number, 1.0)
    return batch


def test_the_next_batch_begins_once_nearly_all_are_answered(full: StartBatch) -> None:
    """Until then none is let in: the event loop and the writer would fight."""
    for number in range(STARTS_MIN - LEFT_MAX - 1):
        full.ends(number)
    assert (False, 0) == (full.is_over, full.room(1.01))
    full.ends(STARTS_MIN - 1)
    assert (True, STARTS_MIN - LEFT_MAX) == (full.is_over, full.room(1.01))


def test_nobody_waits_for_sagas_that_wait_for_a_neighbour(full: StartBatch) -> None:
    """They cost no time."""
    full.begins("late", 1.0 + WAITS_SECONDS)
    assert STARTS_MIN - 1 == full.room(1.0 + WAITS_SECONDS)


def test_an_answer_to_what_was_never_let_in_changes_nothing(full: StartBatch) -> None:
    """A compensation, or a start whose time was over."""
    full.ends("compensation")
    assert 0 == full.room(1.01)


def test_a_batch_grows_while_the_processor_is_idle_and_shrinks_again() -> None:
    """More of them share the commit of a slow disk."""
    batch = StartBatch()
    for _ in range(100):
        batch.tick(busy=0.5)
    assert STARTS_MAX == batch.most == batch.room(1.0)
    for _ in range(100):
        batch.tick(busy=1.0)
    assert STARTS_MIN == batch.most
