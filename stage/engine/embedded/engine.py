"""The engine within the process: one task a live saga, which belongs to no request.

A live saga takes what is in its inbox, advances in one unit of the store, and sends what came out
of it; how that ended comes back into the inbox. Only one unit a saga is under way at a time.
"""

from __future__ import annotations

from functools import partial

from stage.core.events import CompensationRequested
from stage.engine.clock import SystemClock, jump_of
from stage.engine.embedded.commands_for_many import EmbeddedCommandsForMany
from stage.engine.embedded.elsewhere import Elsewhere
from stage.engine.embedded.lease import Lease
from stage.engine.embedded.limits import PAUSED_SECONDS_MAX, EngineLimits
from stage.engine.embedded.live_sagas import LiveSagas
from stage.engine.embedded.live_units import LiveUnits
from stage.engine.embedded.parts import Parts
from stage.engine.embedded.pauses import Pauses
from stage.engine.embedded.recovery import Recovery
from stage.engine.embedded.retention import Retention
from stage.engine.embedded.scheduler import MakeScheduler
from stage.engine.embedded.sweeps import Do, Finish, Sweeps
from stage.engine.embedded.withdrawing import Withdrawing
from stage.engine.saga.dropped import DroppedRows
from stage.engine.saga.fast_path import FastPath
from stage.engine.saga.interpreter import Interpreter
from stage.engine.saga.journal import Journal
from stage.engine.saga.opening import Opening, OpenRequest
from stage.engine.saga.sender import Sender
from stage.engine.saga.tombstones import TombstoneShares
from stage.engine.saga.versions import Versions
from stage.engine.saga.words import Redact, as_they_are
from stage.ports.author_code import UNWATCHED, AuthorCode
from stage.ports.clock import Clock
from stage.ports.engine import Busy, SagaLost
from stage.ports.observer import Observer
from stage.ports.peers import Peers
from stage.ports.stage import Participant
from stage.ports.store import Store
from stage.wire.answers import render_ending
from stage.wire.ending import Render


class EmbeddedEngine(EmbeddedCommandsForMany):
    """Runs sagas as tasks of this event loop. `start`, then use, then `drain`."""

    def __init__(
        self,
        participant: Participant,
        store: Store,
        peers: Peers,
        observer: Observer,
        *,
        clock: Clock | None = None,
        limits: EngineLimits | None = None,
        render: Render = render_ending,
        code: AuthorCode = UNWATCHED,
        redact: Redact | None = None,
        schedule: MakeScheduler = Recovery,
    ) -> None:
        """`render` makes the answer of a saga that ends; it is stored, and never made again.

        `redact` makes the words of others fit to be kept as reasons. `schedule` makes the scheduler
        of the sagas that no caller opens; the default one opens them here, when they are due.
        """
        # Long and many because it lists the parts in the order in which they need each other, and
        # takes each that a test replaces by itself.
        clock, limits = clock or SystemClock(), limits or EngineLimits()
        ownership = store.ownership
        dropped = DroppedRows(store, clock, limits.dropped_age_seconds)
        versions = Versions(participant)
        interpreter = Interpreter(versions, observer, clock, redact or as_they_are)
        journal = Journal(versions, observer, render)
        fast_path = FastPath(interpreter, clock) if limits.fast_path else None
        opening = Opening(
            interpreter, journal, store, observer, clock, self._admit, code, dropped, fast_path
        )
        units = LiveUnits(interpreter, opening, journal, store, clock, fast_path)
        sender = Sender(interpreter, peers, ownership, clock)
        sagas = LiveSagas(units, sender, observer, clock, limits.shares, inline=limits.inline)
        self._pauses = Pauses(store, clock, observer, sender.hold)
        withdrawing = Withdrawing(participant.plan, opening, sender, self._pauses, clock)
        self._scheduler = schedule(
            sagas, ownership, observer, clock, limits, participant.plan.version
        )
        super().__init__(
            Parts(
                participant=participant,
                plan_hash=versions.plan_hash,
                opening=opening,
                sagas=sagas,
                sender=sender,
                pauses=self._pauses,
                units=units,
                dropped=dropped,
                elsewhere=Elsewhere(interpreter, store, scheduled=sagas.deposited is not None),
                withdrawing=withdrawing,
                store=store,
                clock=clock,
                limits=limits,
                redact=redact or as_they_are,
            )
        )
        self._make_sweeps = partial(Sweeps, store, clock, observer)
        self.sweep_by(self.act_on, self.finish)
        self._lease = Lease(
            sagas, ownership, observer, clock, withdrawing=withdrawing, divide=sender.divide
        )
        self._retention = Retention(store, observer, clock, limits, dropped)
        self._dropped = dropped
        self._tombstones = TombstoneShares(limits.shares)
        self._code = code
        self._leaving = False

    def sweep_by(self, act: Do, finish: Finish) -> None:
        """Have sweeps act through these functions in place of this engine's. Before `start`."""
        self._sweeps = self._make_sweeps(act, finish)
        self.sweeps_changed = self._sweeps.wake

    async def start(self) -> None:
        """Claim every unfinished saga, then serve; later ones are opened when they are due."""
        await self._dropped.refresh()
        await self._pauses.start()
        await self._scheduler.start()
        self._lease.start(self._limits.mail_seconds)
        self._retention.start()
        self._sweeps.start()

    def leave_rotation(self) -> None:
        """See `ports.engine.Engine`."""
        self._leaving = True

    async def drain(self, seconds: float) -> None:
        """Let what runs come to an end or to a rest, at most that long, then stop.

        An attempt that is still in flight then is in doubt, and the next process takes it over.
        """
        self._leaving = True
        self._sweeps.stop()
        self._scheduler.stop()
        self._retention.stop()
        await self._sagas.drain(seconds)
        self._pauses.stop()  # not before: one that is pressed meanwhile holds what still waits
        await self._scheduler.close()
        await self._lease.stop()

    @property
    def ready(self) -> bool:
        """See `ports.engine.Engine`."""
        if self._leaving or self._store.identity.awaits_release or self._code.stuck:
            return False
        return self._scheduler.recovered and self._store.available

    @property
    def draining(self) -> bool:
        """See `ports.engine.Engine`."""
        return self._leaving

    @property
    def clock_jump(self) -> float:
        """See `ports.engine.Engine`."""
        return jump_of(self._clock)

    @property
    def live(self) -> int:
        """See `ports.engine.Engine`."""
        return len(self._sagas)

    @property
    def offers(self) -> int:
        """How many sagas are offered and wait for the writer."""
        return self._sagas.offers

    def offers_wait_seconds(self) -> float:
        """How long the oldest saga that is offered has waited for the writer."""
        return self._sagas.offers_wait_seconds()

    @property
    def in_doubt(self) -> int:
        """See `ports.engine.Engine`."""
        return self._sagas.in_doubt

    def _admit(self, request: OpenRequest) -> None:
        """Refuse a new saga, or a tombstone; a saga that was seen before is always answered."""
        if isinstance(request.signal, CompensationRequested):
            if request.awaited:  # what another replica sent was taken there
                self._tombstones.take(request.signal.requested_by, request.signal.at)
            return
        if self._store.identity.awaits_release:
            raise SagaLost(
                f"saga {request.saga_id} is not in the database, which was restored from a backup:"
                " whether it was here before is not known until an operator has reconciled it"
            )
        if request.barred is not None:
            self._tombstones.take(request.barred.requested_by, request.barred.at)
            return
        if request.offer is not None and request.offer.late:
            late = request.offer.accepted
            self._tombstones.take(late.upstream, late.at)
            return
        if self._sagas.draining:
            raise Busy("draining: this process is about to stop", retry_after=2.0)
        if (paused := self._pauses.intake) is not None:
            left = paused.until - self._clock.now()
            raise Busy(
                "an operator has paused the intake of new sagas",
                retry_after=min(max(left, 1.0), PAUSED_SECONDS_MAX),
            )
        if not self._scheduler.recovered:
            raise Busy("starting: unfinished sagas are being taken over")
        self._sagas.admit(request, self._limits.sagas_max)
