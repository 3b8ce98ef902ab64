"""The store: one journal and one row a saga, written in units that become durable whole.

The law, for every store (`tests/unit/store` holds each one to it):

1. A unit is one coroutine function that gets a `Unit`. All it wrote becomes durable when
   `transact` returns, or nothing does when it raises. Units run one after another, as if alone.
2. Nothing inside a unit may await anything but the methods of its `Unit`. A store that sees
   another suspension stops the unit with TransactionEscaped and rolls it back.
3. A unit that raises is rolled back alone; units that happened to share its database
   transaction are not touched.
4. When the outcome of the commit itself is unknown, the store finds it out (reopen, read) before
   it answers: `transact` returns only if the unit is durable and raises only if it is not
   (rule 8). StoreUnavailable says that nothing was written and the same unit may be run again.
   A unit may therefore be run more than once: it must not change anything but the store.
5. `save` refuses a writer that does not hold the saga with StaleEpoch (rule 17): the stored row
   has another epoch, or another replica owns it (`ports.ownership`). A store may write at the end
   of the unit what `insert` and `save` are given; then their errors come out of `transact`.
6. Reads outside of a unit see only durable data.

Every instant, in rows and as a parameter, is in seconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from stage.core.act_key import ActKey, KeptAct
from stage.core.events import Event
from stage.core.pause import Pause, Way
from stage.core.states import PARKED_IN_DOUBT, ParkCause, SagaState
from stage.core.steps import VERSION_MAX
from stage.core.sweep import Sweep, SweepEnd, SweepState
from stage.ports.codec import Codec
from stage.ports.identity import Identity
from stage.ports.observer import TraceContext
from stage.ports.ownership import Ownership

T = TypeVar("T")

Row = tuple[Any, ...]
"""One row as the database gives it: a tuple of int, float, str, bytes and None."""


class SagaRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The row of one saga: what is needed to find it, answer for it and run it again.

    The journal is the truth about what happened; `state`, `parked`, `parked_cause` and `due_at` are
    copies of what it says, for queries. `envelope` holds what the store's codec made of the
    accepted envelope, empty for a tombstone. `due_at` is the instant at which the saga needs a run,
    None when it needs none; an unfinished saga that is not parked always has one. `answer_body` is
    what a duplicate is answered with, byte for byte, `answer_status` its HTTP code.
    """

    id: str
    state: SagaState
    epoch: int
    length: int
    """Number of journal entries."""
    accepted_at: float
    updated_at: float
    fingerprint: str = ""
    version: int = 1
    """The version of the stage that accepted it."""
    step: str = ""
    """The step for which it waits, or is parked (core.place); empty while it waits for nothing."""
    peer: str = ""
    """The peer of that step, by kind and name."""
    parked: str = ""
    parked_cause: ParkCause | None = None
    due_at: float | None = None
    deadline: float | None = None
    envelope: bytes = b""
    traceparent: str = ""
    tracestate: str = ""
    answer_status: int | None = None
    answer_body: bytes = b""
    closed_at: float | None = None
    """When the compensation window was over and its undo data was dropped (rule 21)."""

    @property
    def trace(self) -> TraceContext:
        """The trace context that the saga was accepted with, without its baggage."""
        return TraceContext(traceparent=self.traceparent, tracestate=self.tracestate)

    @property
    def answered(self) -> bool:
        """True when a duplicate is answered from the row alone."""
        return self.answer_status is not None

    @property
    def answer_dropped(self) -> bool:
        """True when the bytes of its answer were dropped for their age; its code stays."""
        return self.answered and self.closed_at is not None and not self.answer_body

    @property
    def forgotten(self) -> bool:
        """True when a person forgot it before it had ended well: it answers 410, and runs no more.

        A saga that has not ended has no answer otherwise.
        """
        if self.state in (SagaState.COMPLETED, SagaState.COMPENSATED):
            return False
        return self.answer_status == 410

    @property
    def given_up(self) -> bool:
        """True when a person forgot it before it had ended well, and it is not closed yet.

        It is unfinished and nothing is due of it, or it failed to compensate and answers 410.
        """
        if self.closed_at is not None or self.due_at is not None or self.parked:
            return False
        if self.state is SagaState.FAILED_TO_COMPENSATE:
            return self.answer_status == 410
        return self.state in (SagaState.ACTIVE, SagaState.COMPENSATING)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the journal; `number` counts from 1 within the saga."""

    number: int
    epoch: int
    event: Event


LOST_SAGAS_MAX = 10_000
"""Requests about sagas that are still lost and that are kept: a caller may name any id."""
UNKEPT = "+more"
"""Stands for the lost sagas of requests for which there was no room. No saga has such an id."""


class LostSaga(msgspec.Struct, frozen=True, kw_only=True):
    """A request to compensate a saga that the database must have lost, kept for an operator."""

    saga_id: str
    requested_by: str
    reason: str
    asked_at: float
    first_sent_at: float | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Sagas of one version of the stage that wait for a person's yes or no at one step."""

    version: int
    step: str
    sagas: int
    oldest_asked_at: float
    oldest_waited_seconds: float
    """By the journal of the oldest (core.age), as its time-out counts it."""


class Approvals(msgspec.Struct, frozen=True, kw_only=True):
    """The sagas that wait for a person's yes or no at one step; there may be none.

    `first_ends_at` is when the first of them is refused for want of an answer; None where none
    waits, or only sagas of a version that is not declared here.
    """

    step: str
    sagas: int = 0
    oldest_asked_at: float | None = None
    first_ends_at: float | None = None


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """The sagas that wait, for monitoring. Instants in seconds since the epoch; None for none."""

    parked: Mapping[ParkCause, int]
    """Parked sagas by cause; a cause without one is left out."""
    oldest_accepted_at: float | None
    """When the oldest saga was accepted that is under way, not parked and waits for no approval."""
    longest_due_at: float | None
    """The longest due instant of the sagas that need a run by now."""
    oldest_compensation_at: float | None = None
    """When the first saga turned back that still undoes something, or notifies upstream."""
    newer: int = 0
    """Sagas that need a run by a newer version of the stage, and get none here (rule 32).

    Sagas that are parked for a cause that is unknown here are counted too.
    """
    lost: int = 0
    """Sagas that neighbours know and the database does not."""
    asked: tuple[Asked, ...] = ()
    """The sagas that wait for a person's approval, by version and step."""
    approvals: tuple[Approvals, ...] = ()
    """The approvals by step, for each that the stage declares. The engine adds them."""
    sizes: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Bytes of the database on its disk, by part; empty where it has no disk."""

    @property
    def parked_in_doubt(self) -> int:
        """The sagas that are parked for a doubt, each of which counts as one."""
        return sum(self.parked.get(cause, 0) for cause in PARKED_IN_DOUBT)


TRACE_TERM = "trace_id"
"""The term of the trace id, which every saga of a stage with indexed numbers has."""


class Term(msgspec.Struct, frozen=True):
    """A business number by which a saga is found: the name that the author gave, and its value."""

    name: str
    value: str


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which sagas a list holds. `after` is the id of the last saga of the page before.

    Every member narrows the list; `steps` are all names of one step, and `peers` of one peer.
    `changed_from` and
    `changed_before` bound the last change. Beside a `term`, only `after` and `limit` count.
    """

    states: tuple[SagaState, ...] = ()
    parked: bool | None = None
    cause: ParkCause | None = None
    steps: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    changed_from: float | None = None
    changed_before: float | None = None
    term: Term | None = None
    after: str = ""
    limit: int = 50

    @property
    def waiting(self) -> bool:
        """True when only sagas that wait or are parked can be on the list."""
        named = bool(self.peers or self.steps) or self.cause is not None
        return self.parked is True or named


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Sagas that wait at one place; with a `cause`, sagas that are parked there for it."""

    cause: ParkCause | None
    step: str
    peer: str
    state: SagaState
    sagas: int
    oldest_at: float
    """The last change of the saga among them that changed longest ago."""


def each_place_once(groups: Iterable[Group]) -> list[Group]:
    """The groups of one place as one, in the order of a store."""
    found: dict[tuple[object, ...], Group] = {}
    for group in groups:
        key = (group.cause, group.step, group.peer, group.state)
        if (known := found.get(key)) is not None:
            sagas, oldest = known.sagas + group.sagas, min(known.oldest_at, group.oldest_at)
            group = msgspec.structs.replace(known, sagas=sagas, oldest_at=oldest)
        found[key] = group
    return sorted(found.values(), key=lambda g: (g.cause or "", g.step, g.peer, g.state))


NEWEST = 2**62
"""A number behind that of every act."""


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """One act of a person, kept apart from the journal. `target` is a saga id, or a peer.

    `before` and `after` say in words how the target stood. `number` is the store's.
    """

    at: float
    actor: str
    act: str
    target: str
    reason: str
    before: str = ""
    after: str = ""
    number: int = 0


TASK_SECONDS_MAX = 366 * 86_400.0
"""Step Functions ends an execution after a year, and its tasks with it."""


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that were dropped for their age, which say nothing any more of their sagas.

    `ids_until` is the newest instant in an id among them: of a saga that is not there, and whose id
    has an instant up to then, nobody can tell whether it was here. `changed_until` is when the last
    of them changed: a list of changes from before is not whole. Both only ever grow.
    """

    ids_until: float = 0.0
    changed_until: float = 0.0


class TaskBefore(msgspec.Struct, frozen=True, kw_only=True):
    """The task that was the newest one of a saga; without a `token` there was none."""

    token: str
    given_up: bool
    """True when a task of this saga timed out while it was the newest."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Which sagas a page of changes holds: those behind the last change of the page before.

    The first page begins at an instant and an empty id. A saga that changes meanwhile moves to the
    end, so that no change is missed.
    """

    at: float
    saga_id: str = ""
    limit: int = 50


class Tx(Protocol):
    """The interface of a transaction function: the SQL of the database.

    Placeholders are `$1`, `$2` on every database; SQLite takes `?` as well.
    """

    async def execute(self, sql: str, *parameters: Any) -> int:
        """Run one statement; the number of rows it changed (-1 where that has no meaning)."""
        ...

    async def executemany(self, sql: str, rows: Iterable[Iterable[Any]]) -> None:
        """Run one statement once for each group of parameters."""
        ...

    async def fetchone(self, sql: str, *parameters: Any) -> Row | None:
        """The first row, or None."""
        ...

    async def fetchval(self, sql: str, *parameters: Any) -> Any:
        """The first column of the first row; None where there is no row."""
        ...

    async def fetchall(self, sql: str, *parameters: Any) -> list[Row]:
        """All rows. The store caps how many; beyond that it raises."""
        ...

    def check_awaited(self) -> None:
        """Raise an AuthorDefect for a statement that was described and not awaited."""
        ...


class Unit(Protocol):
    """One unit of work. Its methods never suspend a coroutine that the store drives itself."""

    @property
    def tx(self) -> Tx:
        """The author's view of this unit."""
        ...

    async def load(self, saga_id: str) -> SagaRow | None:
        """The row, or None for a saga never seen here."""
        ...

    async def take(self, saga_id: str) -> SagaRow | None:
        """The row, as `load`; a saga that needs a run is owned by this replica from here on.

        Raises ports.ownership.HeldElsewhere when a live other replica owns it.
        """
        ...

    async def journal(self, saga_id: str) -> list[Entry]:
        """All entries in order."""
        ...

    async def insert(
        self, row: SagaRow, events: Sequence[Event], terms: Sequence[Term] = ()
    ) -> None:
        """Write a new saga, its first entries and its terms. Raises KeyError when the id exists."""
        ...

    async def save(
        self, row: SagaRow, events: Sequence[Event], *, epoch: int, before: SagaRow | None = None
    ) -> None:
        """Replace the row and append entries numbered up to `row.length`.

        `epoch` is the one that the caller holds; `row.epoch` may be higher, when it takes over.
        `before` is the row as it was last written: what is equal in both need not be written.
        Raises StaleEpoch when the stored row has another epoch or another replica owns it, and
        writes nothing.
        """
        ...

    async def received(self, mail: Sequence[int]) -> None:
        """Drop this mail (`ports.ownership.Mail.number`): what it holds is written in this unit."""
        ...

    async def close_ended(self, before: float, at: float, limit: int) -> int:
        """Drop the envelopes, journals and terms of sagas that are over; how many were closed.

        A saga is closed that completed or was compensated, changed last before that instant, is not
        parked and has nothing due. Its row stays as a tombstone, with its answer. An unfinished
        saga that is neither parked nor due was given up, and is closed at any age.
        """
        ...

    async def close(self, row: SagaRow, *, epoch: int) -> bool:
        """Replace the row of a saga that is at rest, and drop all else that is kept of it.

        Its journal, its terms, and the reasons of requests about it as a lost saga are dropped.
        `row` has `closed_at`, no envelope, and an epoch behind the `epoch` that is stored, so that
        no run of the saga can write any more. False, with nothing written, where the stored row
        has another epoch or length, needs a run, is parked, or is written by units beside this.
        """
        ...

    async def drop_answers(self, before: float, limit: int) -> int:
        """Empty the answers of sagas that were closed before that instant; how many it were.

        Only sagas that completed or were compensated lose it. The code of the answer stays, and the
        row.
        """
        ...

    async def drop_rows(self, before: float, limit: int) -> int:
        """Drop the rows of sagas that were closed before that instant; how many it were.

        Dropped are the rows of sagas that completed or were compensated and whose ids are UUIDv7,
        in lower case, of an instant before they were closed: such an id proves for ever that a
        repeat comes too late. The row that was closed first goes first. `dropped` says so from here
        on, in the same unit. Requests about them as lost sagas are dropped too.
        """
        ...

    async def drop_row(self, saga_id: str) -> bool:
        """Drop the row of one closed saga, as `drop_rows` does, at any age.

        False, with nothing written, where it is not one of those that `drop_rows` may drop.
        """
        ...

    async def drop_answer(self, saga_id: str) -> bool:
        """Empty the answer of one closed saga, as `drop_answers` does; False where it may not."""
        ...

    async def drop_acts(self, before: float, limit: int) -> int:
        """Drop acts of the audit from before that instant, the first ones first; how many."""
        ...

    async def dropped(self) -> Dropped:
        """The rows that were dropped, as this unit sees it."""
        ...

    async def begin_sweep(self, sweep: Sweep, saga_ids: Sequence[str]) -> int:
        """Write a sweep and its sagas, all of them pending; its number."""
        ...

    async def set_sweep(self, number: int, state: SweepState) -> None:
        """Let a sweep be in that state from here on."""
        ...

    async def end_sweep_saga(
        self, number: int, saga_id: str, end: SweepEnd, detail: str = ""
    ) -> None:
        """End the part of a sweep for one saga; `detail` says why the verb was refused."""
        ...

    async def put_pause(self, pause: Pause) -> None:
        """Write a pause, in place of one of the same target and way."""
        ...

    async def drop_pause(self, target: str, way: Way | None, put_by: float) -> bool:
        """Drop a pause that was put at that instant or before; False where there is none.

        A pause that was put since is another one.
        """
        ...

    async def take_task(self, saga_id: str, token: str, at: float) -> TaskBefore:
        """Make a task of Step Functions, known by a hash, the newest one of its saga.

        Tasks that are older than TASK_SECONDS_MAX are dropped.
        """
        ...

    async def withdraw_task(self, saga_id: str, token: str) -> None:
        """Take a task back that had timed out before it was taken.

        If it is the newest, the one before is from here on; it never becomes the newest again.
        """
        ...

    async def give_up_task(self, saga_id: str, token: str) -> bool:
        """Note that a task has timed out; True, and written down, when it is the newest."""
        ...

    async def end_task(self, saga_id: str, token: str) -> None:
        """Note that a task was answered: if it is the newest, the saga has none any more."""
        ...

    async def drop_terms(self, saga_id: str) -> None:
        """Let the saga be found by its id alone."""
        ...

    async def keep_act(self, act: Act) -> None:
        """Add an act to the audit, under the next number."""
        ...

    async def act_under(self, key: ActKey) -> KeptAct | None:
        """The result of the order under that key; None for a key that is not kept.

        Its digest is that of `key` where the same was ordered, and where `drop_digests` came since.
        Until this unit is durable no other unit keeps one under it.
        """
        ...

    async def drop_digests(self) -> None:
        """Let nothing tell any more which orders the keys are of: a number in one can be tried."""
        ...

    async def keep_act_key(
        self, key: ActKey, at: float, *, refused: str = "", sweep: int = 0
    ) -> None:
        """Keep the result of an order under its key, unless one is kept under it already.

        Keys that are older than ACT_KEY_SECONDS_MAX are dropped.
        """
        ...

    async def keep_lost(self, lost: LostSaga) -> bool:
        """Keep it: the first request of each neighbour, at most LOST_SAGAS_MAX of lost sagas.

        Sagas that were adopted since do not count. UNKEPT is kept beside them.

        False when the saga is in the database after all: another replica has written it since this
        unit looked, and has not read this request. Nothing is kept then.
        """
        ...

    async def lost_requests(self, saga_id: str) -> Sequence[LostSaga]:
        """The requests about that lost saga that are kept, one of each neighbour, the first first.

        Until this unit is durable no other unit keeps one.
        """
        ...

    async def keep_answer(self, generation: int, neighbour: str, answer: str, at: float) -> None:
        """Keep that a neighbour was asked in this generation of the database, and its answer.

        An empty answer means that nobody could ask the neighbour.
        """
        ...

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work`; when it raises, undo what it wrote and nothing else, and raise the same.

        Or raise StoreUnavailable, which the unit has to let through: then all of it is run again.
        """
        ...


class Store(Protocol):
    """A journal on a database. Opened once, closed once, used from one event loop."""

    async def open(self, *, upgrade: bool = True) -> None:
        """Check or take what is needed (file lock, schema). Raises ConfigurationError.

        Without `upgrade` a database is read as it stands: a migration that is pending is an error,
        and the release that opens it is not written down.
        """
        ...

    async def close(self) -> None:
        """Finish the units under way, then let go. Further units raise StoreUnavailable."""
        ...

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """Run one unit and return its value once all it wrote is durable.

        A `deferrable` unit, for which no caller waits, may be delayed by some milliseconds, to
        share the commit of another.
        """
        ...

    async def scrub(self, clean: set[str] | None = None) -> None:
        """Let the files of the database hold no bytes of what was dropped from it.

        It copies the whole database, and units wait for it. Raises StoreUnavailable with the
        reason where it could not be done; then it has to be asked for again. Tables that are
        `clean` are left out, and those that were copied are added, so that a caller for whom
        nothing was dropped meanwhile goes on where it was refused.
        """
        ...

    async def get(self, saga_id: str) -> SagaRow | None:
        """The durable row, or None."""
        ...

    async def seen(self, saga_ids: Sequence[str]) -> frozenset[str]:
        """The given ids that have a durable row. Cheap: no row is read."""
        ...

    async def envelopes(self, saga_ids: Sequence[str], bytes_max: int) -> dict[str, bytes]:
        """The stored envelopes of these sagas that have one, and none that is larger."""
        ...

    async def entries(self, saga_id: str) -> list[Entry]:
        """The durable journal, in order; empty for a saga never seen."""
        ...

    async def page(self, which: Filter) -> list[SagaRow]:
        """At most `which.limit` rows in the order of their ids. `envelope` may be left empty.

        Sagas in a state that only a newer release knows are left out, and rows that it alone can
        read have no cause that is unknown here; by a term, NewerJournal is raised in their place.
        Fewer rows than the limit are the last ones.
        """
        ...

    async def groups(self) -> list[Group]:
        """The sagas that wait or are parked, counted by cause, step, peer and state.

        Groups of a cause or a state that only a newer release knows are left out.
        """
        ...

    async def acts(self, limit: int, *, before: int | None = None, target: str = "") -> list[Act]:
        """The audit, the newest act first: those `before` a number, those of one target."""
        ...

    async def act_under(self, key: ActKey) -> KeptAct | None:
        """As `Unit.act_under`, as far as that is durable."""
        ...

    async def pauses(self) -> list[Pause]:
        """Every pause that was not dropped, also those that are over, by target and way.

        Pauses of a way that only a newer release knows are left out.
        """
        ...

    async def sweeps(self, limit: int, number: int | None = None) -> list[Sweep]:
        """The newest sweeps first, with their counts; or the one of that number.

        Sweeps of a newer release are left out; NewerJournal is raised for one that is asked for.
        """
        ...

    async def unfinished_sweeps(self, limit: int) -> list[Sweep]:
        """The sweeps that run, and the stopped erasures that are still to be scrubbed.

        The oldest first, however many were begun since. Sweeps of a newer release are left out.
        """
        ...

    async def sweep_sagas(self, number: int, end: SweepEnd, limit: int) -> list[tuple[str, str]]:
        """Sagas of a sweep in the order of their ids, each with its `detail`."""
        ...

    async def changed(self, since: Changes) -> list[SagaRow]:
        """Rows that changed, in the order of `updated_at` and id, those of closed sagas too.

        Raises NewerJournal where only a newer release can read one: a list that has to be whole
        says nothing then.
        """
        ...

    async def due(self, before: float, limit: int, version: int = VERSION_MAX) -> list[str]:
        """Ids of sagas whose `due_at` is at or before that instant, the longest due first.

        A `due_at` so far ahead that a wrong clock must have written it counts too
        (`core.age.is_due`). Sagas that a newer `version` of the stage accepted are left out.
        """
        ...

    async def count(self) -> dict[SagaState, int]:
        """How many sagas there are in each state."""
        ...

    async def backlog(self, now: float, version: int = VERSION_MAX) -> Backlog:
        """The sagas that wait at that instant, seen by that version of the stage."""
        ...

    async def lost_sagas(self, limit: int) -> list[LostSaga]:
        """The requests that are kept about sagas that are not here, in the order they were made."""
        ...

    async def dropped(self) -> Dropped:
        """The rows that were ever dropped for their age."""
        ...

    async def answers(self, generation: int) -> dict[str, str]:
        """The answers of the neighbours that were asked in that generation, by their names."""
        ...

    @property
    def codec(self) -> Codec:
        """The codec of everything at rest here. The engine encodes and decodes `envelope` by it."""
        ...

    @property
    def ownership(self) -> Ownership:
        """Which sagas this process may run."""
        ...

    @property
    def identity(self) -> Identity:
        """Which database this is. It changes only while the store is closed."""
        ...

    @property
    def place(self) -> str:
        """Where the database is, for people: a path, or an address without credentials."""
        ...

    @property
    def made(self) -> bool:
        """True when `open` made the database."""
        ...

    @property
    def migrated(self) -> Sequence[str]:
        """The migrations that `open` applied to a database that was there, in their order."""
        ...

    @property
    def queued(self) -> int:
        """How many units wait to be written."""
        ...

    @property
    def trouble(self) -> str:
        """Why it is not available, for operators; empty while it is."""
        ...

    @property
    def available(self) -> bool:
        """False from the moment a write failed for want of the database until one succeeds."""
        ...
