"""A wall clock that jumps: nothing is closed and nothing waits on its word alone (rule 34)."""

from __future__ import annotations

import pytest

from stage.engine.clock import (
    LOOK_SECONDS,
    STEADY_SECONDS_MAX,
    STEADY_SECONDS_MIN,
    SteadyClock,
    SystemClock,
    jump_of,
)

START = 1_800_000_000.0
HOUR, DAY = 3_600.0, 86_400.0


class Clocks:
    """A wall clock and a monotonic one, moved by the test."""

    def __init__(self) -> None:
        self.wall, self.monotonic = START, 50.0
        self.steady = SteadyClock(lambda: self.wall, lambda: self.monotonic)

    def passes(self, seconds: float, every: float = 1.0) -> float:
        """Let time pass, read every so often; the time here at the end."""
        passed, now = 0.0, self.steady.now()
        while passed < seconds:
            self.wall, self.monotonic, passed = (
                self.wall + every,
                self.monotonic + every,
                passed + every,
            )
            now = self.steady.now()
        return now


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def test_it_is_the_wall_clock_as_long_as_that_is_steady(clocks: Clocks) -> None:
    """A slow correction is followed at once."""
    assert START + 5.0 == pytest.approx(clocks.passes(5.0))
    for _ in range(100):
        clocks.wall -= 0.0005
        clocks.passes(1.0)
    assert clocks.wall == pytest.approx(clocks.steady.now())
    assert 0.0 == clocks.steady.jump


@pytest.mark.parametrize("jump", [8 * DAY, 30 * DAY, -HOUR, 120.0, -120.0])
def test_a_jump_that_is_taken_back_changes_nothing(clocks: Clocks, jump: float) -> None:
    """The case that was seen: 8 days ahead for 13 s. It is known meanwhile."""
    clocks.passes(5.0)
    clocks.wall += jump
    assert START + 18.0 == pytest.approx(clocks.passes(13.0))
    assert jump == pytest.approx(clocks.steady.jump)
    clocks.wall -= jump
    assert START + 28.0 == pytest.approx(clocks.passes(10.0))
    assert 0.0 == clocks.steady.jump


def test_a_clock_that_was_put_forward_is_believed_after_as_long(clocks: Clocks) -> None:
    """A jump of 2 h after 2 h; of 8 days after a day."""
    clocks.wall += 2 * HOUR
    assert START + 2 * HOUR - 60.0 == pytest.approx(clocks.passes(2 * HOUR - 60.0, 60.0))
    clocks.passes(120.0, 60.0)
    assert clocks.wall == pytest.approx(clocks.steady.now())
    clocks.wall += 8 * DAY
    clocks.passes(STEADY_SECONDS_MAX - HOUR, HOUR)
    assert 8 * DAY == pytest.approx(clocks.steady.jump)
    clocks.passes(2 * HOUR, HOUR)
    assert 0.0 == clocks.steady.jump


def test_a_step_back_never_lets_a_wait_grow_by_its_size(clocks: Clocks) -> None:
    """A saga due in 30 s runs within 60 s, at every moment after a step back of 1 h."""
    clocks.wall -= HOUR
    for _ in range(300):
        due, waited = clocks.steady.now() + 30.0, 0.0
        while clocks.steady.now() < due:
            clocks.passes(1.0)
            waited += 1.0
        assert waited <= 61.0
    clocks.passes(3 * HOUR)
    assert clocks.wall == pytest.approx(clocks.steady.now())


def test_a_clock_that_keeps_jumping_is_never_believed(clocks: Clocks) -> None:
    """Each jump begins the time anew in which it has to be steady."""
    for _ in range(20):
        clocks.wall += DAY
        clocks.passes(STEADY_SECONDS_MIN - 10.0, 10.0)
        clocks.wall -= DAY
        clocks.passes(10.0)
    assert clocks.wall == pytest.approx(clocks.steady.now())


def test_a_clock_that_is_not_watched_never_jumped() -> None:
    """Such as that of a simulation."""
    assert 0.0 == jump_of(SystemClock())


def test_the_wall_clock_is_looked_at_again_soon_and_not_at_each_read(clocks: Clocks) -> None:
    """In between time goes on all the same, and a jump waits for the next look."""
    assert START == clocks.steady.now()
    clocks.monotonic += LOOK_SECONDS / 2
    clocks.wall += HOUR
    assert START + LOOK_SECONDS / 2 == pytest.approx(clocks.steady.now(), abs=1e-6)
    assert 0.0 == clocks.steady.jump
    clocks.monotonic += LOOK_SECONDS
    assert START + 1.5 * LOOK_SECONDS == pytest.approx(clocks.steady.now(), abs=1e-6)
    assert pytest.approx(HOUR, abs=1.0) == clocks.steady.jump


def test_the_time_before_the_beginning_counts_for_nothing(clocks: Clocks) -> None:
    """A process learns the time of its database only when that is open."""
    clocks.wall += 8 * DAY
    clocks.steady.begin()
    assert START + 8 * DAY + 5.0 == pytest.approx(clocks.passes(5.0))
    assert 0.0 == clocks.steady.jump
