"""The circuit breaker: it opens, tries again, and never stays open for ever."""

from __future__ import annotations

from stage.outbound.breaker import FAILURES_MAX, OPEN_SECONDS_MAX, OPEN_SECONDS_MIN, Breaker


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(time: Time) -> Breaker:
    breaker = Breaker(time)
    for _ in range(FAILURES_MAX):
        assert breaker.refuses() is None
        breaker.record(answered=False)
    return breaker


def test_failures_in_a_row_open_it_for_a_while() -> None:
    """It refuses and says for how long."""
    time = Time()
    assert OPEN_SECONDS_MIN == opened(time).refuses()


def test_one_answer_between_them_keeps_it_closed() -> None:
    """Only failures in a row count."""
    breaker = Breaker(Time())
    for _ in range(3):
        for _ in range(FAILURES_MAX - 1):
            breaker.record(answered=False)
        breaker.record(answered=True)
    assert breaker.refuses() is None


def test_one_trial_is_let_through_and_its_answer_closes_it() -> None:
    """Half open: one at a time."""
    time = Time()
    breaker = opened(time)
    time.now += OPEN_SECONDS_MIN
    assert breaker.refuses() is None
    assert breaker.refuses() is not None
    breaker.record(answered=True)
    assert breaker.refuses() is None


def test_it_never_stays_open_for_longer_than_its_limit() -> None:
    """However often the trial fails, the next one comes (rule 13)."""
    time = Time()
    breaker = opened(time)
    for _ in range(50):
        time.now += OPEN_SECONDS_MAX
        assert breaker.refuses() is None
        breaker.record(answered=False)
        left = breaker.refuses()
        assert left is not None
        assert left <= OPEN_SECONDS_MAX


def test_requests_that_had_left_before_it_opened_do_not_lengthen_the_wait() -> None:
    """A peer that dies takes many requests with it: one outage, and the first trial comes soon."""
    breaker = opened(Time())
    for _ in range(100):
        breaker.record(answered=False)
    assert OPEN_SECONDS_MIN == breaker.refuses()
