"""The law of ports/store.py, held against every store. The numbers are those of its docstring."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import asyncpg
import msgspec
import pytest
from msgspec.structs import replace

from stage.core.age import WAIT_SECONDS_MAX
from stage.core.errors import StaleEpoch, StoreUnavailable, TransactionEscaped
from stage.core.events import (
    Accepted,
    ApprovalAsked,
    Approved,
    CompensationRequested,
    Event,
    Rejected,
    StillPending,
    TurnedBack,
)
from stage.core.place import Place
from stage.core.states import ParkCause, SagaState
from stage.demo.postgres_server import Server
from stage.ports.store import (
    UNKEPT,
    Backlog,
    Changes,
    Entry,
    Filter,
    LostSaga,
    Row,
    SagaRow,
    Store,
    Unit,
)
from stage.store import memory_unit
from stage.store.errors import StatementNotAwaited, StatementRefused
from stage.store.postgres import unit as postgres_unit
from stage.store.postgres.store import PostgresStore
from stage.store.sqlite import unit as sqlite_unit
from tests.unit.store.conftest import OLDEST_PROGRAMS
from tests.unit.store.given import (
    AT,
    accepted,
    in_one_batch,
    inserting,
    longer,
    parked,
    paying,
    payments,
    row,
)

DATABASE_ERRORS = (sqlite3.Error, asyncpg.PostgresError)


def rolling_back(store: Store) -> str:
    """A statement that ends the transaction, or tries to."""
    if isinstance(store, PostgresStore):
        return "DO $$ BEGIN ROLLBACK; END $$"
    return "INSERT OR ROLLBACK INTO payment (saga_id) VALUES ('taken'), (NULL)"


@pytest.mark.oldest
@pytest.mark.skipif(not OLDEST_PROGRAMS.is_dir(), reason="postgresql-15 is not installed")
def test_the_law_is_held_against_the_oldest_server_too(oldest_postgres: Server) -> None:
    """Tests that ask for a store are then run against it as well."""
    assert oldest_postgres.sql("SHOW server_version").startswith("15.")


@pytest.mark.oldest
@pytest.mark.skipif(not OLDEST_PROGRAMS.is_dir(), reason="postgresql-15 is not installed")
async def test_the_oldest_server_takes_a_first_opening(
    oldest_empty_url: str, migrations: Path
) -> None:
    """The stores of all other tests are opened where the tables are there already."""
    for made in (True, False):
        store = PostgresStore(oldest_empty_url, migrations=[migrations])
        await store.open()
        assert made is store.made
        await store.transact(inserting("a" if made else "b"))
        await store.close()


# --- 1: a unit becomes durable whole ---------------------------------------------------------


async def test_a_unit_returns_its_value_and_all_it_wrote(store: Store) -> None:
    """An inserted saga is read back equal, column by column and entry by entry."""

    async def unit(unit: Unit) -> str:
        await unit.insert(row("a"), accepted())
        await unit.tx.execute("INSERT INTO payment (saga_id, amount) VALUES ('a', 5)")
        return "done"

    assert await store.transact(unit) == "done"
    assert await store.get("a") == row("a")
    assert await store.entries("a") == [Entry(number=1, epoch=1, event=accepted()[0])]
    assert await payments(store) == ["a"]


@pytest.mark.parametrize("cause", [None, *ParkCause])
async def test_the_cause_of_parking_is_read_back(store: Store, cause: ParkCause | None) -> None:
    """By `get` and in a page, beside the text for people."""
    parked = row("a", parked="look" if cause else "", parked_cause=cause)

    await store.transact(inserting("a", parked))

    stored = await store.get("a")
    assert stored is not None and cause is stored.parked_cause
    assert [cause] == [listed.parked_cause for listed in await store.page(Filter())]


async def test_ids_that_were_seen_are_found(store: Store) -> None:
    """Also where an id is odd, stands twice, or none is given."""
    await store.transact(inserting("a"))

    assert frozenset({"a"}) == await store.seen(("a", "b", 'c"]', "a"))
    assert frozenset() == await store.seen(())


async def test_a_save_that_knows_the_row_before_leaves_the_whole_row(store: Store) -> None:
    """Column by column: what differs is written, and what does not is as it was."""
    changes: list[dict[str, object]] = [
        {"state": SagaState.COMPENSATING},
        {"parked": "a", "parked_cause": ParkCause.IN_DOUBT},
        {"parked": "", "parked_cause": None},
        {"due_at": 5.0},
        {"deadline": None},
        {"envelope": b""},
        {"traceparent": "", "tracestate": ""},
        {"answer_status": None, "answer_body": b""},
        {"accepted_at": 1.0, "updated_at": 2.0, "fingerprint": "", "version": 2},
        {"step": "charge", "peer": "externals.psp"},
        {"epoch": 2},
        {},
    ]
    await store.transact(inserting("a"))
    held = row("a")
    for change in changes:
        before, held = held, longer(held, 2, **change)

        async def save(unit: Unit, before: SagaRow = before, after: SagaRow = held) -> None:
            await unit.save(after, parked(), epoch=before.epoch, before=before)

        await store.transact(save)
        assert held == await store.get("a")
    stale = longer(held, 2)
    with pytest.raises(StaleEpoch):
        await store.transact(lambda unit: unit.save(stale, parked(), epoch=1, before=held))


async def test_a_unit_that_raises_leaves_nothing(store: Store) -> None:
    """The row, the journal and the author's rows are all gone, and the error is the unit's own."""

    async def unit(unit: Unit) -> None:
        await unit.insert(row("a"), accepted())
        await unit.save(longer(row("a"), 2), parked(), epoch=1)
        await unit.tx.execute("INSERT INTO payment (saga_id, amount) VALUES ('a', 5)")
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await store.transact(unit)
    assert await store.get("a") is None
    assert await store.entries("a") == []
    assert await payments(store) == []


async def test_a_unit_that_raises_puts_back_what_was_there(store: Store) -> None:
    """A saga that an earlier unit wrote is as it was before the unit that failed."""
    await store.transact(inserting("a"))

    async def unit(unit: Unit) -> None:
        await unit.save(longer(row("a"), 2, epoch=2), parked(), epoch=1)
        await unit.save(longer(row("a"), 4, epoch=2), parked(), epoch=2)
        raise LookupError

    with pytest.raises(LookupError):
        await store.transact(unit)
    assert await store.get("a") == row("a")
    assert len(await store.entries("a")) == 1


async def test_units_see_each_other_as_if_alone(store: Store) -> None:
    """Fifty concurrent increments of one counter give fifty."""
    await store.transact(paying("a", 0))

    async def increment(unit: Unit) -> None:
        found = await unit.tx.fetchone("SELECT amount FROM payment WHERE saga_id = 'a'")
        assert found is not None
        await unit.tx.execute("UPDATE payment SET amount = $1", found[0] + 1)

    await asyncio.gather(*(store.transact(increment) for _ in range(50)))

    async def read(unit: Unit) -> Row | None:
        return await unit.tx.fetchone("SELECT amount FROM payment")

    assert await store.transact(read) == (50,)


async def test_a_unit_reads_its_own_writes(store: Store) -> None:
    """`load` and `journal` show what the unit itself wrote before."""

    async def unit(unit: Unit) -> tuple[SagaRow | None, int, SagaRow | None]:
        await unit.insert(row("a"), accepted())
        await unit.save(longer(row("a"), 2), parked(), epoch=1)
        return await unit.load("a"), len(await unit.journal("a")), await unit.load("other")

    assert await store.transact(unit) == (longer(row("a"), 2), 3, None)


async def test_cancelling_the_caller_does_not_break_the_batch(store: Store) -> None:
    """Units queued beside that of a cancelled caller become durable, and so may its own."""
    tasks = [asyncio.ensure_future(store.transact(inserting(f"s{n}"))) for n in range(5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [saga_id for saga_id in done if isinstance(saga_id, str)][:2] == ["s0", "s1"]
    await store.transact(inserting("after"))
    there = {found.id for found in await store.page(Filter())}
    assert there >= {"s0", "s1", "s3", "s4", "after"}


async def test_a_unit_sees_the_context_of_its_caller(store: Store) -> None:
    """Context variables, such as the current span, are those of the task that called."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("mine")

    async def unit(unit: Unit) -> str:
        return variable.get()

    assert await store.transact(unit) == "mine"


# --- 2: nothing else may be awaited ----------------------------------------------------------


async def _sleep_nothing(unit: Unit) -> None:
    await asyncio.sleep(0)


async def _sleep(unit: Unit) -> None:
    await asyncio.sleep(0.01)


async def _spawn(unit: Unit) -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    await task


async def _thread(unit: Unit) -> None:
    await asyncio.to_thread(print)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("escape", [_sleep_nothing, _sleep, _spawn, _thread])
async def test_a_foreign_await_stops_the_unit(
    store: Store, escape: Callable[[Unit], Awaitable[None]]
) -> None:
    """The error says what was awaited and why not, nothing stays, and the store goes on."""

    async def unit(unit: Unit) -> None:
        await unit.tx.execute("INSERT INTO payment (saga_id, amount) VALUES ('a', 5)")
        await escape(unit)

    with pytest.raises(TransactionEscaped, match="may only await its own database"):
        await store.transact(unit)
    assert await payments(store) == []
    gc.collect()  # the warning of what was never awaited belongs here, not to a later test


async def test_an_awaited_future_is_named(store: Store) -> None:
    """The chain of functions down to the awaited object is in the message."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask_the_bank() -> None:
        await future

    async def unit(unit: Unit) -> None:
        await ask_the_bank()

    with pytest.raises(TransactionEscaped, match=r"ask_the_bank > .*Future"):
        await store.transact(unit)


async def test_an_escaped_unit_cannot_write_while_it_is_closed(store: Store) -> None:
    """The writes of its `finally` are rolled back with the rest."""

    async def unit(unit: Unit) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            await unit.tx.execute("INSERT INTO payment (saga_id, amount) VALUES ('a', 5)")

    with pytest.raises(TransactionEscaped):
        await store.transact(unit)
    assert await payments(store) == []


async def test_a_statement_that_is_not_awaited_is_found(store: Store) -> None:
    """It did not run. Those that ran, before and behind it, are not named; nor is a literal."""

    async def unit(unit: Unit) -> None:
        tx = unit.tx
        await tx.execute("INSERT INTO payment (saga_id, amount) VALUES ('a', 5)")
        tx.check_awaited()
        tx.fetchval("SELECT 'a secret'")  # type: ignore[unused-coroutine]  # the slip
        await tx.fetchall("SELECT amount FROM payment")
        with pytest.raises(StatementNotAwaited) as found:
            tx.check_awaited()
        assert str(found.value).endswith("in SELECT '...'")

    await store.transact(unit)
    assert ["a"] == await payments(store)


async def test_an_escape_within_an_attempt_ends_the_attempt(store: Store) -> None:
    """`attempt` raises TransactionEscaped, so that the unit can journal what it means."""

    async def work() -> None:
        await asyncio.sleep(0)

    async def unit(unit: Unit) -> str:
        with pytest.raises(TransactionEscaped):
            await unit.attempt(work)
        await unit.insert(row("a"), accepted())
        return "went on"

    assert await store.transact(unit) == "went on"
    assert await store.get("a") == row("a")


# --- 3: a unit that raises is rolled back alone ----------------------------------------------


async def test_a_bad_unit_does_not_touch_its_neighbours(store: Store) -> None:
    """Of ten concurrent units three fail, each with its own error; seven are durable."""

    def unit(number: int) -> Callable[[Unit], Awaitable[int]]:
        async def unit(unit: Unit) -> int:
            await unit.insert(row(f"s{number}"), accepted())
            await paying(f"s{number}")(unit)
            if number % 3 == 1:
                raise LookupError(number)
            return number

        return unit

    done = await in_one_batch(store, *(unit(number) for number in range(10)))
    good = [number for number in range(10) if number % 3 != 1]
    assert [value for value in done if isinstance(value, int)] == good
    assert [str(value) for value in done if isinstance(value, LookupError)] == ["1", "4", "7"]
    assert await payments(store) == [f"s{number}" for number in good]
    assert [found.id for found in await store.page(Filter())] == [f"s{number}" for number in good]


async def test_a_long_journal_is_numbered_through(store: Store) -> None:
    """However many entries one unit adds."""
    events = parked() * 20
    await store.transact(inserting("a", row("a", length=40), events))
    entries = await store.entries("a")
    assert [entry.number for entry in entries] == list(range(1, 41))
    assert [entry.event for entry in entries] == events


async def test_a_mistake_in_sql_raises_the_error_of_the_database(store: Store) -> None:
    """It reaches the unit whose statement it was, and the store stays up."""

    async def unit(unit: Unit) -> None:
        await unit.tx.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(DATABASE_ERRORS, match="nowhere"):
        await store.transact(unit)
    assert store.available
    assert await payments(store) == []


async def test_a_statement_that_rolls_back_everything_hurts_only_its_unit(store: Store) -> None:
    """Even where it is swallowed; the others are run again if it took them along."""
    await store.transact(paying("taken"))

    async def bad(unit: Unit) -> None:
        with suppress(*DATABASE_ERRORS):
            await unit.tx.execute(rolling_back(store))

    done = await in_one_batch(store, paying("a"), bad, paying("b"))
    assert [done[0], done[2]] == [1, 1]
    assert isinstance(done[1], StatementRefused)
    assert await payments(store) == ["a", "b", "taken"]


async def test_nothing_is_written_behind_a_statement_that_rolled_back(store: Store) -> None:
    """Even where it is swallowed: what came after it would be durable by itself."""

    async def unit(unit: Unit) -> None:
        await paying("a")(unit)
        with suppress(*DATABASE_ERRORS):
            await unit.tx.execute(rolling_back(store))
        with suppress(StatementRefused, *DATABASE_ERRORS):
            await paying("b")(unit)

    with pytest.raises(StatementRefused):
        await store.transact(unit)
    assert await payments(store) == []


async def test_a_deferred_constraint_fails_its_own_unit(store: Store) -> None:
    """A foreign key that is only checked at COMMIT fails that unit as itself, and no other."""

    async def orphan(unit: Unit) -> None:
        await unit.tx.execute("INSERT INTO payment VALUES ('orphan', 1, 'nobody')")

    done = await in_one_batch(store, paying("a"), orphan, paying("b"))
    assert [done[0], done[2]] == [1, 1]
    assert isinstance(done[1], DATABASE_ERRORS)
    assert await payments(store) == ["a", "b"]
    assert store.available


# --- attempt ---------------------------------------------------------------------------------


async def test_an_attempt_that_raises_undoes_its_writes_and_nothing_else(store: Store) -> None:
    """Writes of the unit before and after it stay; the error is the one that was raised."""
    await store.transact(inserting("old"))

    async def unit(unit: Unit) -> None:
        async def work() -> None:
            await unit.tx.execute("INSERT INTO payment (saga_id, amount) VALUES ('in', 1)")
            await unit.insert(row("in"), accepted())
            await unit.save(longer(row("old"), 2), parked(), epoch=1)
            raise LookupError("mine")

        await paying("before")(unit)
        with pytest.raises(LookupError, match="mine"):
            await unit.attempt(work)
        await paying("later")(unit)
        await unit.insert(row("in"), accepted())

    await store.transact(unit)
    assert await payments(store) == ["before", "later"]
    assert await store.get("old") == row("old")
    assert len(await store.entries("old")) == 1
    assert await store.get("in") == row("in")


async def test_attempts_nest(store: Store) -> None:
    """An inner attempt that fails leaves the outer one; a good one returns its value."""

    async def unit(unit: Unit) -> str:
        async def inner() -> None:
            await paying("inner")(unit)
            raise LookupError

        async def outer() -> str:
            await paying("outer")(unit)
            with pytest.raises(LookupError):
                await unit.attempt(inner)
            return "value"

        return await unit.attempt(outer)

    assert await store.transact(unit) == "value"
    assert await payments(store) == ["outer"]


# --- 5: epochs, numbers ----------------------------------------------------------------------


async def test_a_stale_epoch_is_refused_and_writes_nothing(store: Store) -> None:
    """Once epoch 2 holds the saga, a save by epoch 1 raises StaleEpoch."""
    await store.transact(inserting("a"))
    taken = longer(row("a"), 2, epoch=2)

    async def take_over(unit: Unit) -> None:
        await unit.save(taken, parked(), epoch=1)

    async def stale(unit: Unit) -> None:
        await unit.save(longer(row("a"), 2), parked(), epoch=1)

    await store.transact(take_over)
    with pytest.raises(StaleEpoch, match="epoch 2"):
        await store.transact(stale)
    assert await store.get("a") == taken
    entries = await store.entries("a")
    assert [(entry.number, entry.epoch) for entry in entries] == [(1, 1), (2, 2), (3, 2)]


async def test_a_save_of_an_unknown_saga_is_stale(store: Store) -> None:
    """A run whose saga is gone has nothing to write to."""

    async def unit(unit: Unit) -> None:
        await unit.save(longer(row("a"), 2), parked(), epoch=1)

    with pytest.raises(StaleEpoch, match="not stored here"):
        await store.transact(unit)


async def test_entries_must_continue_the_journal(store: Store) -> None:
    """A length that leaves a gap is a defect: ValueError."""
    await store.transact(inserting("a"))

    async def gap(unit: Unit) -> None:
        await unit.save(longer(row("a"), 3), parked(), epoch=1)

    async def first(unit: Unit) -> None:
        await unit.insert(longer(row("b"), 1), accepted())

    for unit in (gap, first):
        with pytest.raises(ValueError, match="length"):
            await store.transact(unit)


async def test_an_entry_of_another_process_is_not_overwritten(store: Store) -> None:
    """Another release has kept a request to compensate for this one, in the same epoch."""
    await store.transact(inserting("a"))

    async def kept(unit: Unit) -> None:
        await unit.save(longer(row("a"), 2), parked(), epoch=1)

    await store.transact(kept)
    with pytest.raises(StaleEpoch, match="another process"):
        await store.transact(kept)


async def test_inserting_twice_is_a_key_error(store: Store) -> None:
    """The second insert of an id raises KeyError and leaves the first as it was."""
    await store.transact(inserting("a"))
    with pytest.raises(KeyError, match="a"):
        await store.transact(inserting("a", row("a", epoch=7)))
    assert await store.get("a") == row("a")


# --- 6: reads --------------------------------------------------------------------------------


async def test_pages_are_in_the_order_of_ids(store: Store) -> None:
    """`after` and `limit` walk over all sagas once."""
    for number in (3, 1, 2, 5, 4):
        await store.transact(inserting(f"s{number}"))
    seen: list[str] = []
    while page := await store.page(Filter(after=seen[-1] if seen else "", limit=2)):
        seen += [found.id for found in page]
    assert seen == ["s1", "s2", "s3", "s4", "s5"]


@pytest.mark.parametrize(
    "which, ids",
    [
        (Filter(), "abcd"),
        (Filter(states=(SagaState.ACTIVE,)), "ab"),
        (Filter(states=(SagaState.ACTIVE, SagaState.COMPLETED)), "abc"),
        (Filter(parked=True), "bd"),
        (Filter(parked=False), "ac"),
        (Filter(parked=True, states=(SagaState.ACTIVE,)), "b"),
        (Filter(parked=False, states=(SagaState.ACTIVE,)), "a"),
        (Filter(states=(SagaState.ACTIVE,), after="a", limit=1), "b"),
        (Filter(states=(SagaState.COMPENSATED,)), ""),
    ],
)
async def test_pages_are_filtered(store: Store, which: Filter, ids: str) -> None:
    """By state, by the parked flag, and by both."""
    for saga_id, state, reason in (
        ("a", SagaState.ACTIVE, ""),
        ("b", SagaState.ACTIVE, "why"),
        ("c", SagaState.COMPLETED, ""),
        ("d", SagaState.FAILED_TO_COMPENSATE, "why"),
    ):
        await store.transact(inserting(saga_id, row(saga_id, state=state, parked=reason)))
    assert "".join(found.id for found in await store.page(which)) == ids


async def test_due_sagas_come_longest_due_first(store: Store) -> None:
    """At or before the instant, at most `limit`; those without an instant never."""
    for saga_id, due_at in (("a", AT + 2), ("b", AT), ("c", None), ("d", AT + 1), ("e", AT + 3)):
        await store.transact(inserting(saga_id, row(saga_id, due_at=due_at)))
    assert await store.due(AT + 2, 10) == ["b", "d", "a"]
    assert await store.due(AT + 2, 2) == ["b", "d"]
    assert await store.due(AT - 1, 10) == []


async def test_an_instant_of_a_wrong_clock_is_due(store: Store) -> None:
    """No policy waits for so long (rule 34): a process that was right all the time finds it."""
    for saga_id, due_at in (("a", AT + WAIT_SECONDS_MAX), ("b", AT + 2_000_000)):
        await store.transact(inserting(saga_id, row(saga_id, due_at=due_at)))
    assert await store.due(AT, 10) == ["b"]


async def test_sagas_are_counted_by_state(store: Store) -> None:
    """Every state is there, with 0 where there is none."""
    await store.transact(inserting("a"))
    await store.transact(inserting("b"))
    await store.transact(inserting("c", row("c", state=SagaState.COMPENSATED)))
    expected = dict.fromkeys(SagaState, 0) | {SagaState.ACTIVE: 2, SagaState.COMPENSATED: 1}
    assert await store.count() == expected


async def test_the_backlog_counts_sagas_that_wait(store: Store) -> None:
    """A parked saga counts as parked only; one that is over or due later does not wait."""
    assert replace(await store.backlog(AT), sizes={}) == Backlog(
        parked={}, oldest_accepted_at=None, longest_due_at=None
    )
    compensating = SagaState.COMPENSATING
    for made in (
        replace(row("a", parked="why", parked_cause=ParkCause.DEFECT), accepted_at=AT - 9),
        replace(row("b", due_at=AT + 1), accepted_at=AT - 7),
        replace(row("c", state=SagaState.COMPLETED, due_at=None), accepted_at=AT - 8),
        replace(row("d", state=compensating, due_at=AT - 2), accepted_at=AT - 5),
        replace(row("e", state=compensating, due_at=AT - 3), accepted_at=AT - 4),
    ):
        await store.transact(inserting(made.id, made))
    assert replace(await store.backlog(AT), sizes={}) == Backlog(
        parked={ParkCause.DEFECT: 1}, oldest_accepted_at=AT - 7, longest_due_at=AT - 3
    )


async def test_the_backlog_says_how_large_the_database_is(store: Store) -> None:
    """In bytes on its disk; it grows with what is written, and memory has none."""
    before = (await store.backlog(AT)).sizes
    for number in range(50):
        await store.transact(
            inserting(f"s-{number}", replace(row(f"s-{number}"), envelope=b"x" * 9_000))
        )
    after = (await store.backlog(AT)).sizes
    assert before.keys() == after.keys()
    assert not before or sum(before.values()) < sum(after.values())


async def test_the_backlog_has_the_begin_of_the_oldest_compensation(store: Store) -> None:
    """By the first turn of the saga, until upstream has been notified; a parked one waits apart."""
    back, over = SagaState.COMPENSATING, SagaState.COMPENSATED
    for made, turned in (
        (row("active", due_at=AT), None),
        (row("parked", state=back, parked="why", parked_cause=ParkCause.DEFECT), AT - 90),
        (row("told", state=over, due_at=None), AT - 80),
        (row("telling", state=over, due_at=AT + 60), AT - 70),
        (row("undoing", state=back, due_at=AT + 60), AT - 60),
    ):
        events: list[Event] = [Accepted(at=AT - 100)]
        if turned is not None:
            events += [TurnedBack(at=turned), CompensationRequested(at=AT)]
        await store.transact(inserting(made.id, replace(made, length=len(events)), events))
    assert AT - 70 == (await store.backlog(AT)).oldest_compensation_at


RISK, REVIEW = Place("risk", ""), Place("review", "")
BACK, DEFECT = SagaState.COMPENSATING, ParkCause.DEFECT
ASKED = ApprovalAsked(at=AT - 90, step="risk")
YES = Approved(at=AT - 80, actor="kim", why="known", step="risk")
NO = Rejected(at=AT - 80, actor="kim", why="known", step="risk")
LATER = ApprovalAsked(at=AT - 70, step="review")
LONG_AGO: list[Event] = [
    ApprovalAsked(at=AT - 5_000, step="risk"),
    StillPending(at=AT - 4_999, step="risk"),
    StillPending(at=AT - 4_400, step="risk"),
]
WITH_APPROVALS: tuple[tuple[SagaRow, int, float, list[Event]], ...] = (
    (row("asked", place=RISK), 1, 900, [ASKED]),
    (row("asked_again", place=RISK), 1, 900, [YES, NO, *LONG_AGO]),
    (row("other_version", place=RISK), 2, 900, [ASKED]),
    (row("second_approval", place=REVIEW), 2, 900, [ASKED, YES, LATER]),
    (row("locked", place=Place("book", "")), 1, 10, [ASKED, YES]),
    (row("charging", place=Place("charge", "externals.psp")), 1, 10, [ASKED]),
    (row("goes_on"), 1, 20, [ASKED, YES]),
    (row("turned_back", place=RISK, state=BACK), 1, 30, [ASKED]),
    (row("parked", place=RISK, parked="why", parked_cause=DEFECT), 1, 900, [ASKED]),
    (row("parked_by_another_release", place=RISK, parked="why"), 1, 900, [ASKED]),
)
"""Sagas by version and age, with the words about approvals in their journals."""


async def test_the_backlog_has_the_approvals_that_wait(store: Store) -> None:
    """By version and step, the oldest as its time-out counts it; those decided are none of them.

    Nor do they count as the oldest under way: an alert for that means a peer that does not answer.
    """
    for made, version, age, words in WITH_APPROVALS:
        events = [Accepted(at=AT - age), *words]
        due = None if made.parked else AT
        given = replace(made, version=version, length=len(events), accepted_at=AT - age, due_at=due)
        await store.transact(inserting(made.id, given, events))
    found = await store.backlog(AT, 2)
    assert [
        (1, "risk", 2, AT - 5_000, 1.0 + 599.0 + 600.0),
        (2, "review", 1, AT - 70, 70.0),
        (2, "risk", 1, AT - 90, 90.0),
    ] == sorted(map(msgspec.structs.astuple, found.asked))
    assert AT - 30 == found.oldest_accepted_at


# --- closing ---------------------------------------------------------------------------------


async def test_closing_finishes_what_is_queued(store: Store) -> None:
    """Units that were accepted before `close` become durable."""
    tasks = [asyncio.ensure_future(store.transact(inserting(f"s{n}"))) for n in range(5)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*tasks) == [f"s{n}" for n in range(5)]


async def test_a_closed_store_takes_no_units(store: Store) -> None:
    """After `close` a unit raises StoreUnavailable and is not run."""
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.transact(inserting("a"))


# --- close_ended (rule 21) --------------------------------------------------------------------


async def test_ended_sagas_are_closed_and_their_rows_stay(store: Store) -> None:
    """Envelope and journal go, state and answer stay; nothing is closed twice."""
    ended = replace(row("a"), state=SagaState.COMPLETED, answer_status=200, answer_body=b"{}")
    await store.transact(inserting("a", replace(ended, due_at=None)))
    assert await store.transact(lambda unit: unit.close_ended(AT + 2, AT + 2, 10)) == 1
    closed = await store.get("a")
    assert closed is not None
    assert (closed.closed_at, closed.envelope, closed.answer_body) == (AT + 2, b"", b"{}")
    assert await store.entries("a") == []
    assert await store.transact(lambda unit: unit.close_ended(AT + 2, AT + 3, 10)) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"state": SagaState.ACTIVE, "due_at": AT},
        {"state": SagaState.FAILED_TO_COMPENSATE, "answer_status": 500},
        {"parked": "waits"},
        {"due_at": AT},
        {"updated_at": AT + 5},
    ],
)
async def test_other_sagas_are_not_closed(store: Store, change: dict[str, object]) -> None:
    """A saga that runs, is parked or has something due keeps its undo data."""
    ended = replace(row("a"), state=SagaState.COMPLETED, due_at=None, parked="")
    await store.transact(inserting("a", replace(ended, **change)))
    assert await store.transact(lambda unit: unit.close_ended(AT + 2, AT + 2, 10)) == 0
    assert len(await store.entries("a")) == 1


@pytest.mark.parametrize("state", [SagaState.ACTIVE, SagaState.FAILED_TO_COMPENSATE])
async def test_a_saga_that_was_given_up_is_closed_and_does_not_count(
    store: Store, state: SagaState
) -> None:
    """Neither parked nor due, and answered 410: a person forgot it, and nobody waits for it."""
    given_up = replace(row("a"), state=state, due_at=None, parked="", answer_status=410)
    await store.transact(inserting("a", given_up))
    await store.transact(inserting("b", replace(given_up, id="b", due_at=AT)))
    assert await store.transact(lambda unit: unit.close_ended(AT - 9, AT + 2, 10)) == 1
    assert (await store.count())[state] == 1
    assert await store.entries("a") == []


async def test_a_closed_saga_stays_among_those_that_changed(store: Store) -> None:
    """A neighbour that lost it asks for its outcome; its envelope is gone."""
    ended = replace(row("a"), state=SagaState.COMPLETED, due_at=None, parked="")
    await store.transact(inserting("a", ended))
    await store.transact(inserting("b", replace(ended, id="b")))
    await store.transact(lambda unit: unit.close_ended(AT + 9, AT + 9, 1))
    found = await store.changed(Changes(at=0.0, saga_id="", limit=10))
    assert ["a", "b"] == [each.id for each in found]
    assert [True, False] == [each.envelope == b"" for each in found]


async def test_the_requests_about_a_lost_saga_are_read_in_a_unit(store: Store) -> None:
    """The first of each neighbour, also one that the same unit has kept; another saga has none."""
    asked = [
        LostSaga(saga_id="a", requested_by=name, reason="", first_sent_at=first, asked_at=AT + at)
        for name, first, at in (("shipping", None, 1.0), ("order", AT, 0.0), ("order", AT, 2.0))
    ]

    async def keep(unit: Unit) -> list[list[LostSaga]]:
        seen = [list(await unit.lost_requests("a"))]
        for lost in asked:
            await unit.keep_lost(lost)
            seen.append(list(await unit.lost_requests("a")))
        return [*seen, list(await unit.lost_requests("b"))]

    both = [asked[1], asked[0]]
    assert [[], [asked[0]], both, both, []] == await store.transact(keep)
    assert both == list(await store.transact(lambda unit: unit.lost_requests("a")))


async def test_a_saga_that_was_adopted_leaves_its_place_to_another_request(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once so many were kept no other was, and a release said that nothing stood of those.

    Where there is no room, the word that there was none is kept beside them.
    """
    for module in (memory_unit, sqlite_unit, postgres_unit):
        monkeypatch.setattr(module, "LOST_SAGAS_MAX", 2)

    async def keep(*saga_ids: str) -> list[str]:
        for at, saga_id in enumerate(saga_ids):
            lost = LostSaga(saga_id=saga_id, requested_by="order", reason="", asked_at=AT + at)
            assert await store.transact(lambda unit, lost=lost: unit.keep_lost(lost))  # type: ignore[misc]
        return [each.saga_id for each in await store.lost_sagas(9)]

    assert ["a", "b"] == await keep("a", "b", "c")
    await store.transact(inserting("a"))
    assert ["b"] == [each.saga_id for each in await store.lost_sagas(9)]
    assert {"b", "c", UNKEPT} == {*await keep("c", "d", UNKEPT, UNKEPT, "e")}
    await store.transact(inserting("b"))
    assert {"c", "d", UNKEPT} == {*await keep("d", "e")}
    assert 3 == (await store.backlog(AT)).lost


async def test_no_request_is_kept_about_a_saga_that_is_there_after_all(store: Store) -> None:
    """Nobody would read it there: who asks has to look at the saga again."""
    lost = LostSaga(saga_id="a", requested_by="order", reason="", first_sent_at=None, asked_at=AT)
    assert await store.transact(lambda unit: unit.keep_lost(lost))
    await store.transact(inserting("b"))
    there = replace(lost, saga_id="b")
    assert not await store.transact(lambda unit: unit.keep_lost(there))
    assert not await store.transact(lambda unit: unit.lost_requests("b"))


async def test_a_saga_at_rest_is_closed_once_and_fenced(store: Store) -> None:
    """Row and answer are replaced, all else is dropped, and a run of before cannot write."""
    ended = replace(row("a"), state=SagaState.COMPLETED, answer_status=200, answer_body=b"old")
    ended = replace(ended, due_at=None, parked="")
    await store.transact(inserting("a", ended))
    after = replace(
        *(ended,), epoch=ended.epoch + 1, envelope=b"", answer_body=b"new", closed_at=AT + 2
    )
    for expected in (True, False):
        assert await store.transact(lambda unit: unit.close(after, epoch=1)) is expected
    assert await store.get("a") == after
    assert await store.entries("a") == []
    with pytest.raises(StaleEpoch):
        await store.transact(lambda unit: unit.save(ended, [], epoch=1))


@pytest.mark.parametrize("change", [{"due_at": AT}, {"parked": "waits"}, {"epoch": 2}])
async def test_a_saga_that_does_not_rest_as_it_was_read_is_not_closed(
    store: Store, change: dict[str, object]
) -> None:
    """It went on meanwhile: nothing of it is dropped."""
    rests = replace(row("a"), state=SagaState.COMPLETED, due_at=None, parked="")
    await store.transact(inserting("a", replace(rests, **change)))
    after = replace(rests, epoch=2, envelope=b"", closed_at=AT + 2)
    assert not await store.transact(lambda unit: unit.close(after, epoch=1))
    assert len(await store.entries("a")) == 1


async def test_the_row_of_a_closed_saga_is_written_without_an_entry(store: Store) -> None:
    """It stays closed, and nothing drops it while it waits for a person."""
    ended = replace(row("a"), state=SagaState.COMPENSATED, answer_status=409, answer_body=b"{}")
    await store.transact(inserting("a", replace(ended, due_at=None, parked="")))
    assert 1 == await store.transact(lambda unit: unit.close_ended(AT + 2, AT + 2, 10))
    closed = await store.get("a")
    assert closed is not None
    waits = replace(
        closed,
        state=SagaState.FAILED_TO_COMPENSATE,
        parked="it landed",
        parked_cause=ParkCause.LANDED_LATE,
        step="charge",
        peer="externals.psp",
    )
    await store.transact(lambda unit: unit.save(waits, (), epoch=1, before=closed))
    assert (waits, []) == (await store.get("a"), await store.entries("a"))

    async def retention(unit: Unit) -> list[int]:
        dropped = [await unit.drop_answers(AT + 9, 10), await unit.drop_rows(AT + 9, 10)]
        return [await unit.close_ended(AT + 9, AT + 9, 10), *dropped]

    assert [0, 0, 0] == await store.transact(retention)
    assert not await store.transact(lambda unit: unit.close(waits, epoch=1))
    assert [waits] == await store.page(Filter(parked=True))
    assert waits == await store.get("a")


async def test_a_scrubbed_store_goes_on(store: Store) -> None:
    """All that was there is there, and units run before, beside and behind it."""
    await store.transact(inserting("a"))
    await asyncio.gather(store.scrub(), store.transact(inserting("b")))
    await store.transact(inserting("c"))
    assert await store.seen(["a", "b", "c"]) == {"a", "b", "c"}


async def test_closing_is_undone_with_its_unit(store: Store) -> None:
    """A unit that raises after closing leaves the envelope and the journal as they were."""
    ended = replace(row("a"), state=SagaState.COMPENSATED, due_at=None, parked="")
    await store.transact(inserting("a", ended))

    async def unit(unit: Unit) -> None:
        await unit.close_ended(AT + 2, AT + 2, 10)
        raise LookupError

    with pytest.raises(LookupError):
        await store.transact(unit)
    assert await store.get("a") == ended
    assert len(await store.entries("a")) == 1
