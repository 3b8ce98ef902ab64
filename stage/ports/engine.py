"""The engine as the edge sees it: commands change a saga, queries show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from stage.core.act_key import ActKey, KeptAct
from stage.core.events import Verb, Webhook
from stage.core.pause import Pause
from stage.core.requester import Requester
from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.core.sweep import Sweep, SweepEnd, SweepState
from stage.ports.identity import Identity
from stage.ports.observer import TraceContext
from stage.ports.peers import PeerStanding
from stage.ports.store import Act, Backlog, Changes, Entry, Filter, Group, SagaRow
from stage.wire.envelope import Envelope
from stage.wire.outcome import Outcome
from stage.wire.replies import CompensateRequest
from stage.wire.shared import SharedSaga

Shown = str | int | float | bool
"""A member of a payload as operators see it."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as bytes. `replayed` says that it had been given before.

    `traceparent` is that of the saga: a duplicate may have come in another trace.
    """

    status: int
    body: bytes
    replayed: bool = False
    traceparent: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One saga as it is now: its row, its state, and the instant of its next action.

    `readable` is False where its journal was dropped, or belongs to another version of the stage:
    its steps are not known then.
    """

    row: SagaRow
    saga: Saga
    next_at: float | None = None
    running: bool = False
    readable: bool = True


class SharedSagas(msgspec.Struct, frozen=True, kw_only=True):
    """Sagas that a stage shares with a neighbour; `next` is where the page behind them begins."""

    sagas: list[SharedSaga]
    next: Changes | None = None
    places: list[tuple[float, str]] = []
    """The last change and the id of each saga, by which pages are in order."""


class Commands(Protocol):
    """The methods that change a saga.

    Each may raise StoreUnavailable (nothing was written), Unsettled and Busy. An order with an
    ActKey, which a verb has in its `act_key`, is done once: a repeat raises ActRepeated.

    The work belongs to the engine and not to the request: a caller that goes away stops nothing.
    Where another replica runs the saga, the command is passed to it, and the answer is the same.
    """

    async def accept(
        self,
        envelope: Envelope,
        *,
        trace: TraceContext,
        deadline: float | None,
        respond_async: bool,
        wait_seconds: float,
    ) -> Reply | None:
        """Run the saga and return its answer; None when it still runs after `wait_seconds`.

        A duplicate joins or is replayed. None means that the caller may be answered 202: the
        journal has that answer already. Raises wire.WireError for a payload that is not accepted,
        PayloadDiffers and DeadlineOver.
        """
        ...

    async def bar(self, saga_id: str, *, upstream: str, reason: str, trace: TraceContext) -> bool:
        """Leave a tombstone for a saga whose request was refused, so that no repeat runs it.

        False where the saga is here: then it was accepted from another request. Raises Busy beyond
        the allowance of that upstream, and SagaLost while a restored database is not released.
        """
        ...

    async def compensate(
        self,
        saga_id: str,
        *,
        asked: CompensateRequest,
        requester: Requester = Requester.CLAIMED,
        trace: TraceContext,
        wait_seconds: float,
    ) -> Snapshot:
        """Durably ask to compensate, wait for the end, and say how it stands.

        Raises NotYours, with no effect, unless the saga belongs to the requester.
        """
        ...

    async def operate(self, saga_id: str, verb: Verb, *, dry_run: bool) -> Snapshot | None:
        """Do what an operator asks, durably; with `dry_run` only say how it would stand.

        None: never seen. Raises NotAllowed with the reason, and then nothing has changed.
        """
        ...

    async def erase(
        self,
        saga_id: str,
        *,
        actor: str,
        reason: str,
        dry_run: bool,
        act_key: ActKey | None = None,
    ) -> Snapshot | None:
        """Drop all contents of a saga that is over, also from the files; id and outcome stay.

        None: never seen. Raises NotAllowed with the reason and the fix, and Unsettled where bytes
        may be left.
        """
        ...

    async def refuse_order(self, act_key: ActKey, why: str) -> None:
        """Keep that an order was refused, so that no late copy of it is done.

        `why` is empty where it named nothing, and was answered so. Raises ActRepeated where a copy
        of it was answered first.
        """
        ...

    async def hear(self, saga_id: str, word: Webhook) -> None:
        """Journal what a webhook says of a saga that exists, unless it would change nothing.

        Raises LeftToNewer where a newer release has to hear it.
        """
        ...

    async def begin_sweep(
        self, sweep: Sweep, saga_ids: Sequence[str], act_key: ActKey | None = None
    ) -> int:
        """Begin to do a verb to these sagas, durably; the number of the sweep."""
        ...

    async def set_sweep(
        self,
        sweep: Sweep,
        state: SweepState,
        *,
        actor: str,
        reason: str,
        act_key: ActKey | None = None,
    ) -> None:
        """Stop a sweep, or let it go on; obeyed within two seconds."""
        ...

    async def pause(self, pause: Pause, act_key: ActKey | None = None) -> None:
        """Hold what the pause names, durably; every replica obeys it within a second or two."""
        ...

    async def resume(
        self,
        pause: Pause,
        *,
        actor: str,
        reason: str,
        at: float | None = None,
        act_key: ActKey | None = None,
    ) -> bool:
        """End a pause before its time; False where it was ended already, or another was put since.

        Then nothing is kept under the key, and `pauses` are those that are in force by now. `at` is
        the instant of the order: now, where it is not given.
        """
        ...


class Queries(Protocol):
    """The methods that show sagas and change nothing. Each may raise StoreUnavailable."""

    async def get_saga(self, saga_id: str, wait_seconds: float = 0.0) -> Snapshot | None:
        """The saga once it is over or parked, at the latest after `wait_seconds`.

        None: never seen.
        """
        ...

    async def seen(self, saga_ids: Sequence[str]) -> frozenset[str]:
        """The given sagas that this stage has accepted or buried, or is about to."""
        ...

    async def journal(self, saga_id: str, after: int = 0, wait_seconds: float = 0.0) -> list[Entry]:
        """The journal of a saga behind the entry of that number, in order.

        With `wait_seconds` it waits for the first of them; for a saga never seen it does not.
        """
        ...

    async def page(self, which: Filter) -> list[SagaRow]:
        """A list of sagas."""
        ...

    async def shown(self, versions: Mapping[str, int]) -> dict[str, dict[str, Shown]]:
        """The members to show of each saga, as the version that accepted it declares them, by id.

        Sagas without a payload that can be read are left out.
        """
        ...

    async def groups(self) -> list[Group]:
        """The sagas that wait or are parked, counted by cause, step, peer and state."""
        ...

    async def acts(self, limit: int, *, before: int | None = None, target: str = "") -> list[Act]:
        """The audit, the newest act first: those `before` a number, those of one target."""
        ...

    async def refuse_repeat(self, act_key: ActKey) -> None:
        """Raise ActRepeated where a pause or a sweep was ordered under that key before."""
        ...

    async def sweeps(self, limit: int, number: int | None = None) -> list[Sweep]:
        """The newest sweeps first, with their counts; or the one of that number."""
        ...

    async def sweep_sagas(self, number: int, end: SweepEnd, limit: int) -> list[tuple[str, str]]:
        """Sagas of a sweep in the order of their ids; of those refused, each with the reason."""
        ...

    @property
    def identity(self) -> Identity:
        """Which database this is, and whether it awaits its release."""
        ...

    def peers(self) -> list[PeerStanding]:
        """The standing of each peer in this process."""
        ...

    @property
    def pauses(self) -> tuple[Pause, ...]:
        """The pauses in force; those of another replica up to a second late."""
        ...

    async def read_pauses(self) -> None:
        """Let `pauses` be those that are in force now."""
        ...

    async def shared(self, neighbour: str, since: Changes) -> SharedSagas:
        """A page of the sagas that changed since then and that this stage shares with a neighbour.

        Raises SagaLost while the database awaits its release: the list would not be whole.
        """
        ...

    async def count(self) -> dict[SagaState, int]:
        """How many sagas there are in each state."""
        ...

    async def backlog(self) -> Backlog:
        """The sagas that wait now."""
        ...


class Engine(Commands, Queries, Protocol):
    """Runs the sagas of one stage."""

    @property
    def in_doubt(self) -> int:
        """How many steps of the sagas that are live in this process are in doubt.

        Sagas that are parked for a doubt are not among them; the backlog counts those.
        """
        ...

    @property
    def draining(self) -> bool:
        """True once this process drains: it takes nothing new, and comes to its end."""
        ...

    @property
    def clock_jump(self) -> float:
        """How far the wall clock jumped ahead, in seconds; 0.0 while it is believed."""
        ...

    @property
    def live(self) -> int:
        """How many sagas are live in this process."""
        ...

    def leave_rotation(self) -> None:
        """Report not ready from here on, and go on serving."""
        ...

    @property
    def ready(self) -> bool:
        """True when new sagas are taken: recovered, not draining, the database there."""
        ...


class NotAllowed(Exception):
    """The verb does not fit the saga as it stands; the message has the reason and the fix."""


class NotYours(NotAllowed):
    """Another neighbour opened the saga; nothing was done for the one that asks."""


class ActRepeated(Exception):
    """The order was given under its key before, and nothing was done now."""

    def __init__(self, kept: KeptAct) -> None:
        super().__init__(kept.refused or "the order was given under this key before, and done")
        self.kept = kept


class KeyReused(Exception):
    """Another order was given under this key before; nothing was done now."""

    def __init__(self) -> None:
        super().__init__("another order was given under this key before")


class PayloadDiffers(Exception):
    """The saga id was used before with another payload; the saga it names is unaffected.

    `outcome` is that of the saga.
    """

    def __init__(self, reason: str, outcome: Outcome) -> None:
        super().__init__(reason)
        self.outcome = outcome


class DeadlineOver(Exception):
    """The deadline of a saga never seen was over on arrival; nothing was executed."""


class SagaLost(Exception):
    """The saga is not in the database, and may have been lost with an older one (rule 33).

    `certain` says that a stage behind this one has it from here.
    """

    def __init__(self, reason: str, *, certain: bool = False) -> None:
        super().__init__(reason)
        self.certain = certain


class OpenerUnknown(SagaLost):
    """The saga was lost, and is here again; nobody knows who opened it (decision 0115).

    Whether it is the asker's own shows once a person has undone it.
    """

    def __init__(self, saga_id: str) -> None:
        super().__init__(
            f"saga {saga_id} was lost and taken over, and nothing proves who opened it: a person"
            " at this stage has to undo it, or to say that it stands"
        )


class PastRetention(SagaLost):
    """The saga is not in the database, and may have been dropped for its age (decision 0080).

    Nothing says what became of it, it is never run anew, and to ask again changes nothing.
    """


class Unsettled(Exception):
    """Nobody knows whether the request was taken; the caller asks again under the same id."""


class LeftToNewer(Unsettled):
    """A newer release accepted the saga, and goes on with it: ask for the answer later."""


class Stopping(Unsettled):
    """This process comes to its end; the next one answers, or another replica."""

    def __init__(self) -> None:
        super().__init__("the process is stopping")


class WorkerLost(Unsettled):
    """The worker that has the saga is starting, or ended while it was asked: ask again later."""


class Busy(Exception):
    """The engine takes no new saga now; ask again after `retry_after` seconds."""

    def __init__(self, reason: str, retry_after: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
