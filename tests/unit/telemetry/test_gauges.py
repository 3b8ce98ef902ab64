"""Gauges: present states, for readers who cannot wait for the database."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from functools import partial

import pytest

from stage.core.states import ParkCause, SagaState
from stage.engine.clock import SystemClock
from stage.ports.store import Approvals, Backlog
from stage.telemetry import gauges as measured
from stage.telemetry import names
from stage.telemetry.exposition import Exposition
from stage.telemetry.gauges import Gauges, Sources
from stage.telemetry.metrics import Metrics
from tests.waits import HANG_SECONDS

NOW = 1_000.0


class Queried:
    """telemetry.gauges.Running: the second query raises an exception that never should be."""

    ready = True
    draining = False
    live = 0
    in_doubt = 0
    pauses = ()

    def __init__(self) -> None:
        self.queries = 0
        self.enough = asyncio.Event()
        self.began = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def count(self) -> dict[SagaState, int]:
        """As many sagas as queries; it answers once the gate is open."""
        self.queries += 1
        self.began.set()
        await self.gate.wait()
        if self.queries == 4:
            self.enough.set()
        if self.queries == 2:
            raise sqlite3.OperationalError("no such table: saga")
        return {SagaState.ACTIVE: self.queries}

    clock_jump = 0.0

    async def backlog(self) -> Backlog:
        """Nothing waits."""
        ends = NOW + 30.0
        risk = Approvals(step="risk", sagas=2, oldest_asked_at=NOW - 90.0, first_ends_at=ends)
        return Backlog(
            parked={ParkCause.IN_DOUBT: 2},
            oldest_accepted_at=None,
            longest_due_at=None,
            approvals=(risk, Approvals(step="review")),
        )


async def test_gauges_stay_fresh_after_any_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a collector would read the same numbers for ever. The error is reported, once."""
    monkeypatch.setattr(measured, "REFRESH_SECONDS", 0.0)
    engine, reported = Queried(), list[Exception]()
    gauges = Gauges(engine, SystemClock(), Sources(queued=lambda: 0, breakers=dict))
    fresh = asyncio.create_task(gauges.keep_fresh(reported.append))
    async with asyncio.timeout(HANG_SECONDS):
        await engine.enough.wait()
    fresh.cancel()
    assert ["no such table: saga"] == [str(error) for error in reported]
    assert gauges.read(names.M_SAGAS)[(SagaState.ACTIVE.value,)] >= 3


async def test_a_gauge_that_could_not_be_read_keeps_its_value() -> None:
    """An alert must not resolve itself because the database is damaged: an error gauge is up."""
    gauges = Gauges(engine := Queried(), SystemClock(), Sources(queued=lambda: 0, breakers=dict))
    await gauges.refresh()
    assert {(SagaState.ACTIVE.value,): 1} == gauges.read(names.M_SAGAS)
    assert {(): 0.0} == gauges.read(names.M_STALE)
    with pytest.raises(sqlite3.OperationalError):
        await gauges.refresh()
    assert 2 == engine.queries
    assert {(SagaState.ACTIVE.value,): 1} == gauges.read(names.M_SAGAS)
    parked = gauges.read(names.M_PARKED)
    assert (2, 0) == (parked["in_doubt",], parked["defect",])
    assert {(cause.value,) for cause in ParkCause} == set(parked)
    assert {(): 1.0} == gauges.read(names.M_STALE)
    await gauges.refresh()
    assert {(SagaState.ACTIVE.value,): 3} == gauges.read(names.M_SAGAS)
    assert {(): 0.0} == gauges.read(names.M_STALE)


async def test_approvals_that_wait_are_said_by_step() -> None:
    """One that nobody is asked for has a count, and nothing that could end."""
    clock = SystemClock()
    clock.now = lambda: NOW  # type: ignore[method-assign]
    gauges = Gauges(Queried(), clock, Sources(queued=lambda: 0, breakers=dict))
    of_approvals = (names.M_APPROVALS, names.M_OLDEST_APPROVAL, names.M_APPROVAL_EXPIRY)
    assert [{}, {}, {}] == [gauges.read(name) for name in of_approvals]
    await gauges.refresh()
    assert [
        {("risk",): 2, ("review",): 0},
        {("risk",): 90.0, ("review",): 0.0},
        {("risk",): 30.0},
    ] == [gauges.read(name) for name in of_approvals]


async def test_callers_at_the_same_time_share_a_query() -> None:
    """A query counts every saga there ever was: many at once would keep other readers out."""
    gauges = Gauges(engine := Queried(), SystemClock(), Sources(queued=lambda: 0, breakers=dict))
    await asyncio.gather(*(gauges.refresh() for _ in range(5)))
    assert 1 == engine.queries
    with pytest.raises(sqlite3.OperationalError):
        await gauges.refresh()
    assert 2 == engine.queries


async def test_a_caller_does_not_share_a_query_that_began_before_it_came() -> None:
    """That one may have counted before the caller's last write: a scrape would lack it."""
    gauges = Gauges(engine := Queried(), SystemClock(), Sources(queued=lambda: 0, breakers=dict))
    engine.queries = 2  # the one that fails is behind us
    engine.gate.clear()
    periodical = asyncio.create_task(gauges.refresh())
    async with asyncio.timeout(HANG_SECONDS):
        await engine.began.wait()
        scrapes = [asyncio.create_task(gauges.refresh()) for _ in range(3)]
        await asyncio.sleep(0)  # they wait for it
        engine.gate.set()
        await asyncio.gather(periodical, *scrapes)
    assert 4 == engine.queries, "the three of them shared the next one"
    assert {(SagaState.ACTIVE.value,): 4} == gauges.read(names.M_SAGAS)


async def test_a_caller_shares_a_query_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a slow database would make a scrape wait for two of them."""
    monkeypatch.setattr(measured, "BEFORE_SECONDS_MAX", 0.0)
    gauges = Gauges(engine := Queried(), SystemClock(), Sources(queued=lambda: 0, breakers=dict))
    engine.gate.clear()
    first = asyncio.create_task(gauges.refresh())
    async with asyncio.timeout(HANG_SECONDS):
        await engine.began.wait()
        scrape = asyncio.create_task(gauges.refresh())
        done, _ = await asyncio.wait([scrape], timeout=0.05)
        assert not done
        engine.gate.set()
        await asyncio.gather(first, scrape)
    assert 1 == engine.queries


async def test_a_query_that_was_cancelled_is_made_anew() -> None:
    """Even before it began: the gauges would never be read again."""
    gauges = Gauges(engine := Queried(), SystemClock(), Sources(queued=lambda: 0, breakers=dict))
    first = asyncio.create_task(gauges.refresh())
    await asyncio.sleep(0)
    assert gauges._query is not None and gauges._query.cancel()
    await asyncio.wait([first])
    async with asyncio.timeout(HANG_SECONDS):
        await gauges.refresh()
    assert 1 == engine.queries


async def test_one_replica_reports_the_gauges_of_the_database() -> None:
    """The others count nothing, so that a sum over all replicas is right; doubts are their own."""
    first, other = Queried(), Queried()
    other.in_doubt = first.in_doubt = 1
    share = {"first": True, "other": False}
    readers = [
        Gauges(
            engine,
            SystemClock(),
            Sources(queued=lambda: 0, breakers=dict, speaks=partial(share.__getitem__, name)),
        )
        for engine, name in ((first, "first"), (other, "other"))
    ]
    for each in readers:
        await each.refresh()
    assert (1, 0) == (first.queries, other.queries)
    assert [1, {}] == [len(each.read(names.M_SAGAS)) or {} for each in readers]
    assert [3, 1] == [each.read(names.M_IN_DOUBT)[()] for each in readers]
    share["first"] = False
    await readers[0].refresh()
    assert {} == readers[0].read(names.M_PARKED) == readers[0].read(names.M_APPROVALS)


async def test_a_scrape_reads_the_gauges_in_the_event_loop() -> None:
    """Live sagas and breakers change there; a thread writes the text."""
    readers: set[int] = set()

    def queued() -> int:
        readers.add(threading.get_ident())
        return 7

    gauges = Gauges(Queried(), SystemClock(), Sources(queued=queued, breakers=dict))
    text, _ = await Exposition(Metrics(), gauges).write("")
    assert {threading.get_ident()} == readers
    assert b"\nstage_writer_queue 7.0\n" in text
