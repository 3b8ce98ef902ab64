"""The engine as all workers of a stage have it: each saga at its home, lists merged from all.

A saga is run by the worker whose file it lives in (`placement`). A request may come in at any of
them; the one that has it checks it and its caller, asks the home, and answers. So no credentials
pass between workers, and the answer has the same bytes wherever it was asked for.

A worker that is starting or was lost makes what needs it fail with WorkerLost: a list without its
sagas, or an answer without its word, would say of them that they never were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import msgspec

from stage.core.act_key import ActKey
from stage.core.events import Verb, Webhook
from stage.core.pause import Pause, behind
from stage.core.requester import Requester
from stage.core.states import SagaState
from stage.core.sweep import Sweep, SweepEnd, SweepState
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.workers import merged
from stage.engine.workers.duties import Duties, WorkerState
from stage.engine.workers.link import ANSWER_SECONDS_MAX, WorkerLink
from stage.engine.workers.placement import Placement
from stage.ports.clock import Clock
from stage.ports.engine import (
    ActRepeated,
    Engine,
    Reply,
    SagaLost,
    SharedSagas,
    Shown,
    Snapshot,
    WorkerLost,
)
from stage.ports.figures import Figures
from stage.ports.identity import Identity
from stage.ports.observer import Observer, TraceContext
from stage.ports.peers import PeerStanding
from stage.ports.reconcile import Adopt, Findings
from stage.ports.store import Act, Backlog, Changes, Entry, Filter, Group, SagaRow
from stage.wire.envelope import Envelope
from stage.wire.replies import CompensateRequest

P = ParamSpec("P")
T = TypeVar("T")

SWEEPER: Final = 0
"""The worker whose file holds the sweeps: it runs each of them, over the sagas of all."""
LOOK_SECONDS: Final = 1.0
"""How often the others are asked how they stand."""
LOOK_SECONDS_MAX: Final = 5.0
"""A worker that does not say so long how it stands counts as one that is away."""
METRICS_SECONDS_MAX: Final = 2.0
"""How long the metrics of another worker are awaited: less than a scrape waits, of which 5 s are
few. A worker that hangs would otherwise hide those of all others, and that it is away itself."""
LONG_SECONDS_MAX: Final = 900.0
"""For what takes long: to ask all neighbours, or to write over what was erased."""

OF_ENGINES: Final = frozenset(
    method.__name__
    for method in (
        *(Engine.accept, Engine.bar, Engine.compensate, Engine.operate, Engine.erase, Engine.hear),
        *(Engine.begin_sweep, Engine.set_sweep, Engine.pause, Engine.resume, Engine.get_saga),
        *(Engine.seen, Engine.journal, Engine.page, Engine.shown, Engine.groups, Engine.sweeps),
        *(Engine.refuse_repeat, Engine.refuse_order, Engine.sweep_sagas, Engine.shared),
        *(Engine.count, Engine.backlog),
    )
)
OF_DUTIES: Final = frozenset(
    method.__name__
    for method in (
        *(Duties.state, Duties.metrics, Duties.reconcile, Duties.act_on, Duties.finish),
        *(Duties.acts_before, Duties.has, Duties.holds),
    )
)
"""All that a worker may be asked by another one."""


class Answers:
    """Answers the calls of the other workers."""

    def __init__(self, engine: EmbeddedEngine, duties: Duties, observer: Observer) -> None:
        self._engine = engine
        self._duties = duties
        self._observer = observer

    async def __call__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See `link.Answer`. Lines of the log meanwhile have the saga and the trace of the call."""
        trace = kwargs.get("trace")
        if isinstance(trace, TraceContext):
            saga_id = args[0].saga_id if isinstance(args[0], Envelope) else args[0]
            self._observer.bind(saga_id, trace)
        if name in OF_ENGINES:
            return await getattr(self._engine, name)(*args, **kwargs)
        if name in OF_DUTIES:
            return await getattr(self._duties, name)(*args, **kwargs)
        raise ValueError(f"a worker is not asked for {name!r}")


class WorkersEngine:
    """ports.engine.Engine over the engines of all workers."""

    def __init__(
        self,
        engine: EmbeddedEngine,
        duties: Duties,
        index: int,
        placement: Placement,
        links: Mapping[int, WorkerLink],
        clock: Clock,
    ) -> None:
        """`engine` and `duties` are those of this worker, `links` lead to all the others."""
        self._engine = engine
        self._duties = duties
        self._index = index
        self._placement = placement
        self._links = links
        self._clock = clock
        self._members = range(placement.members)
        self._states: dict[int, WorkerState | None] = dict.fromkeys(links)
        self._looking: asyncio.Task[None] | None = None

    # --- how a call gets to its worker -------------------------------------------------------

    async def _at(
        self,
        member: int,
        method: Callable[Concatenate[Any, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._within(ANSWER_SECONDS_MAX, member, method, *args, **kwargs)

    async def _within(
        self,
        seconds: float,
        member: int,
        method: Callable[Concatenate[Any, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        name = method.__name__
        if member == self._index:
            own = self._engine if name in OF_ENGINES else self._duties
            value: T = await getattr(own, name)(*args, **kwargs)
        else:
            value = await self._links[member].call(name, args, kwargs, seconds)
        return value

    async def _all(
        self,
        method: Callable[Concatenate[Any, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[T]:
        """The values of all workers, in their order. Raises WorkerLost where one is not there."""
        asked = [self._at(member, method, *args, **kwargs) for member in self._members]
        return list(await asyncio.gather(*asked))

    async def home(self, saga_id: str) -> int:
        """The worker that has the saga, or would begin it.

        Nothing begins a saga at an older home, so that what it says of one that it lacks holds.
        """
        homes = self._placement.homes(saga_id)
        newest, dropped = homes[0], None
        lost: SagaLost | None = None
        if len(homes) == 1:
            return newest
        for member in homes:
            try:
                held = await self._at(member, Duties.holds, saga_id)
            except SagaLost as error:
                lost = error  # another one may have it
                continue
            if held:
                return member
            if held is None and member != newest:
                dropped = member
        if lost is not None:
            raise lost
        return newest if dropped is None else dropped

    # --- commands ----------------------------------------------------------------------------

    async def accept(
        self,
        envelope: Envelope,
        *,
        trace: TraceContext,
        deadline: float | None,
        respond_async: bool,
        wait_seconds: float,
    ) -> Reply | None:
        """See `ports.engine.Commands`."""
        return await self._at(
            await self.home(envelope.saga_id),
            Engine.accept,
            envelope,
            trace=trace,
            deadline=deadline,
            respond_async=respond_async,
            wait_seconds=wait_seconds,
        )

    async def bar(self, saga_id: str, *, upstream: str, reason: str, trace: TraceContext) -> bool:
        """See `ports.engine.Commands`."""
        home = await self.home(saga_id)
        return await self._at(
            home, Engine.bar, saga_id, upstream=upstream, reason=reason, trace=trace
        )

    async def compensate(
        self,
        saga_id: str,
        *,
        asked: CompensateRequest,
        requester: Requester = Requester.CLAIMED,
        trace: TraceContext,
        wait_seconds: float,
    ) -> Snapshot:
        """See `ports.engine.Commands`."""
        return await self._at(
            await self.home(saga_id),
            Engine.compensate,
            saga_id,
            asked=asked,
            requester=requester,
            trace=trace,
            wait_seconds=wait_seconds,
        )

    async def operate(self, saga_id: str, verb: Verb, *, dry_run: bool) -> Snapshot | None:
        """See `ports.engine.Commands`."""
        home = await self.home(saga_id)
        return await self._at(home, Engine.operate, saga_id, verb, dry_run=dry_run)

    async def erase(
        self,
        saga_id: str,
        *,
        actor: str,
        reason: str,
        dry_run: bool,
        act_key: ActKey | None = None,
    ) -> Snapshot | None:
        """See `ports.engine.Commands`."""
        home = await self.home(saga_id)
        return await self._within(
            LONG_SECONDS_MAX,
            home,
            Engine.erase,
            saga_id,
            actor=actor,
            reason=reason,
            dry_run=dry_run,
            act_key=act_key,
        )

    async def refuse_order(self, act_key: ActKey, why: str) -> None:
        """See `ports.engine.Commands`. Every file keeps it, as it keeps the key of a pause."""
        await self._all_once(Engine.refuse_order, act_key, why)

    async def hear(self, saga_id: str, word: Webhook) -> None:
        """See `ports.engine.Commands`."""
        await self._at(await self.home(saga_id), Engine.hear, saga_id, word)

    async def begin_sweep(
        self, sweep: Sweep, saga_ids: Sequence[str], act_key: ActKey | None = None
    ) -> int:
        """See `ports.engine.Commands`."""
        return await self._at(SWEEPER, Engine.begin_sweep, sweep, list(saga_ids), act_key)

    async def set_sweep(
        self,
        sweep: Sweep,
        state: SweepState,
        *,
        actor: str,
        reason: str,
        act_key: ActKey | None = None,
    ) -> None:
        """See `ports.engine.Commands`."""
        await self._at(
            SWEEPER,
            Engine.set_sweep,
            sweep,
            state,
            actor=actor,
            reason=reason,
            act_key=act_key,
        )

    async def act_on(self, sweep: Sweep, saga_id: str) -> str:
        """Do the verb of a sweep at the home of a saga; why it was refused, or nothing."""
        return await self._at(await self.home(saga_id), Duties.act_on, sweep, saga_id)

    async def finish(self, sweep: Sweep) -> None:
        """Finish a sweep in every file. Raises Unsettled where one is not done for that."""
        for member in self._members:
            await self._within(LONG_SECONDS_MAX, member, Duties.finish, sweep)

    async def pause(self, pause: Pause, act_key: ActKey | None = None) -> None:
        """See `ports.engine.Commands`. Every file holds it, so that each worker obeys its own.

        Where one is away nobody knows whether all obey: the order is given again, and changes
        nothing where it was heard. A worker that is back takes it from the others by itself, so
        that a repeat puts it nowhere: it may have been ended meanwhile.
        """
        if act_key is not None:
            await self._refuse_heard(act_key)
        newest = behind(pause, self._engine.written_pauses)
        await self._all_once(Engine.pause, newest, act_key)

    async def _refuse_heard(self, act_key: ActKey) -> None:
        """Raise ActRepeated where any worker has heard an order of all. One may be away."""
        asked = [self._at(member, Engine.refuse_repeat, act_key) for member in self._members]
        found = await asyncio.gather(*asked, return_exceptions=True)
        if any(isinstance(each, ActRepeated) for each in found):
            _once(found)

    async def resume(
        self,
        pause: Pause,
        *,
        actor: str,
        reason: str,
        at: float | None = None,
        act_key: ActKey | None = None,
    ) -> bool:
        """See `ports.engine.Commands`. The acts of all files have one instant, and are one act."""
        now = self._clock.now() if at is None else at
        return any(
            await self._all_once(
                Engine.resume, pause, actor=actor, reason=reason, at=now, act_key=act_key
            )
        )

    async def _all_once(
        self,
        method: Callable[Concatenate[Any, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[T]:
        """As `_all`, for an order under a key: it is a repeat where any of them has done it.

        Where some have refused it and others do it now, those were away until then.
        """
        asked = [self._at(member, method, *args, **kwargs) for member in self._members]
        found = await asyncio.gather(*asked, return_exceptions=True)
        return _once(found)

    # --- queries -----------------------------------------------------------------------------

    async def get_saga(self, saga_id: str, wait_seconds: float = 0.0) -> Snapshot | None:
        """See `ports.engine.Queries`."""
        return await self._at(await self.home(saga_id), Engine.get_saga, saga_id, wait_seconds)

    async def seen(self, saga_ids: Sequence[str]) -> frozenset[str]:
        """See `ports.engine.Queries`."""
        by_home: dict[int, list[str]] = {}
        for saga_id in saga_ids:
            for member in self._placement.homes(saga_id):
                by_home.setdefault(member, []).append(saga_id)
        asked = [self._at(member, Engine.seen, ids) for member, ids in by_home.items()]
        return frozenset().union(*await asyncio.gather(*asked))

    async def journal(self, saga_id: str, after: int = 0, wait_seconds: float = 0.0) -> list[Entry]:
        """See `ports.engine.Queries`."""
        home = await self.home(saga_id)
        return await self._at(home, Engine.journal, saga_id, after, wait_seconds)

    async def page(self, which: Filter) -> list[SagaRow]:
        """See `ports.engine.Queries`."""
        return merged.page(await self._all(Engine.page, which), which.limit)

    async def shown(self, versions: Mapping[str, int]) -> dict[str, dict[str, Shown]]:
        """See `ports.engine.Queries`."""
        asked: dict[int, dict[str, int]] = {}
        for saga_id, version in versions.items():
            for member in self._placement.homes(saga_id):
                asked.setdefault(member, {})[saga_id] = version
        found = [self._at(member, Engine.shown, some) for member, some in asked.items()]
        return {
            saga_id: shown
            for each in await asyncio.gather(*found)
            for saga_id, shown in each.items()
        }

    async def groups(self) -> list[Group]:
        """See `ports.engine.Queries`."""
        await self.ask_others()
        return merged.groups(await self._all(Engine.groups))

    async def acts(self, limit: int, *, before: int | None = None, target: str = "") -> list[Act]:
        """See `ports.engine.Queries`. An act has its instant in microseconds for its number."""
        return merged.acts(await self._all(Duties.acts_before, before, limit, target), limit)

    async def refuse_repeat(self, act_key: ActKey) -> None:
        """See `ports.engine.Queries`. Sweeps are in that file, and pauses in every one."""
        await self._at(SWEEPER, Engine.refuse_repeat, act_key)

    async def sweeps(self, limit: int, number: int | None = None) -> list[Sweep]:
        """See `ports.engine.Queries`."""
        return await self._at(SWEEPER, Engine.sweeps, limit, number)

    async def sweep_sagas(self, number: int, end: SweepEnd, limit: int) -> list[tuple[str, str]]:
        """See `ports.engine.Queries`."""
        return await self._at(SWEEPER, Engine.sweep_sagas, number, end, limit)

    async def shared(self, neighbour: str, since: Changes) -> SharedSagas:
        """See `ports.engine.Queries`."""
        each = msgspec.structs.replace(since, limit=max(1, since.limit // len(self._members)))
        return merged.shared(await self._all(Engine.shared, neighbour, each))

    async def count(self) -> dict[SagaState, int]:
        """See `ports.engine.Queries`."""
        return merged.counts(await self._all(Engine.count))

    async def backlog(self) -> Backlog:
        """See `ports.engine.Queries`."""
        await self.ask_others()
        return merged.backlog(await self._all(Engine.backlog))

    async def reconcile(
        self, *, since: float | None, without: Mapping[str, str], adopt: Adopt | None
    ) -> Findings:
        """See `ports.reconcile.Reconciles`. Each worker asks for the sagas of its own file."""
        found = [
            await self._within(
                *(LONG_SECONDS_MAX, member, Duties.reconcile),
                since=since,
                without=without,
                adopt=adopt,
            )
            for member in await self._lacking(since, adopt)
        ]
        return merged.findings(found)

    async def _lacking(self, since: float | None, adopt: Adopt | None) -> list[int]:
        """The workers whose files may lack sagas: those that were restored.

        A question from an instant on that changes nothing is for all. Raises WorkerLost where one
        is away: its file may be one that was restored.
        """
        await self.ask_others()
        if since is not None and adopt is None:
            return list(self._members)
        if away := [member for member, state in self._states.items() if state is None]:
            raise WorkerLost(f"worker {away[0]} is starting, or has ended")
        states = {**self._states, self._index: await self._duties.state()}
        restored = [
            member
            for member in self._members
            if (state := states[member]) is not None and state.identity.awaits_release
        ]
        return restored if restored else list(self._members)

    async def belongs(self, saga_id: str) -> bool:
        """Whether a saga that this worker's file lacks would be in it, and in no other one.

        Of its homes that is the first that may lack any.
        """
        homes = self._placement.homes(saga_id)
        if self._index not in homes:
            return False
        for member in homes:
            if member != self._index and await self._at(member, Duties.has, saga_id):
                return False
        states = {**self._states, self._index: await self._duties.state()}
        first = homes[0]
        for member in homes:
            state = states[member]
            if state is not None and state.identity.awaits_release:
                first = member
                break
        return first == self._index

    async def metrics(self, accept: str) -> dict[int, tuple[bytes, str] | None]:
        """The metrics of each worker; None for one that is not there, or hangs."""

        async def of(member: int) -> tuple[bytes, str] | None:
            try:
                return await self._within(METRICS_SECONDS_MAX, member, Duties.metrics, accept)
            except WorkerLost:
                return None

        found = await asyncio.gather(*map(of, self._members))
        return dict(zip(self._members, found, strict=True))

    # --- how all of them stand ---------------------------------------------------------------

    def start(self) -> None:
        """Begin to ask the others how they stand."""
        self._looking = asyncio.get_running_loop().create_task(self._keep_looking())

    def stop(self) -> None:
        """Ask nobody any more."""
        if self._looking is not None:
            self._looking.cancel()
        for link in self._links.values():
            link.close()

    async def _keep_looking(self) -> None:
        while True:
            await self.ask_others()
            await asyncio.sleep(LOOK_SECONDS)

    async def ask_others(self) -> None:
        """Ask the others how they stand."""

        async def at(member: int) -> None:
            try:
                self._states[member] = await self._within(LOOK_SECONDS_MAX, member, Duties.state)
            except Exception:  # WorkerLost, or what it raised: nothing is known of it then
                self._states[member] = None

        await asyncio.gather(*map(at, self._links))
        words = [word for state in self._there() for word in state.pauses]
        if words:
            with suppress(Exception):  # no database or no memory: the next look brings them
                await self._engine.adopt_pauses(words)

    def _there(self) -> list[WorkerState]:
        return [state for state in self._states.values() if state is not None]

    @property
    def ready(self) -> bool:
        """See `ports.engine.Engine`. A worker that is not ready has its part of all new sagas."""
        states = self._states.values()
        return self._engine.ready and all(each is not None and each.ready for each in states)

    @property
    def draining(self) -> bool:
        """See `ports.engine.Engine`."""
        return self._engine.draining

    @property
    def clock_jump(self) -> float:
        """See `ports.engine.Engine`."""
        return max((self._engine.clock_jump, *(each.clock_jump for each in self._there())))

    @property
    def live(self) -> int:
        """See `ports.engine.Engine`."""
        return self._engine.live + sum(each.live for each in self._there())

    @property
    def in_doubt(self) -> int:
        """See `ports.engine.Engine`."""
        return self._engine.in_doubt + sum(each.in_doubt for each in self._there())

    def leave_rotation(self) -> None:
        """See `ports.engine.Engine`."""
        self._engine.leave_rotation()

    @property
    def identity(self) -> Identity:
        """See `ports.engine.Queries`. The file that awaits its release, where one does."""
        own = self._engine.identity
        return (
            next((each.identity for each in self._there() if each.identity.awaits_release), own)
            if not own.awaits_release
            else own
        )

    def peers(self) -> list[PeerStanding]:
        """See `ports.engine.Queries`."""
        return merged.peers([self._engine.peers(), *(each.peers for each in self._there())])

    @property
    def pauses(self) -> tuple[Pause, ...]:
        """See `ports.engine.Queries`. All workers have the same, a look later at most."""
        return self._engine.pauses

    async def read_pauses(self) -> None:
        """See `ports.engine.Queries`. A word that others have counts here too."""
        await self.ask_others()
        await self._engine.read_pauses()

    def breakers(self, own: Mapping[str, bool]) -> dict[str, bool]:
        """Whether the breaker of a peer waits at any worker. `own` are those of this one."""
        found = dict(own)
        for state in self._there():
            for peer, waits in state.breakers.items():
                found[peer] = waits or found.get(peer, False)
        return found

    def figures(self, own: Figures) -> Figures:
        """The figures of all workers together. `own` are those of this one."""
        return merged.figures([own, *(each.figures for each in self._there())])


def _once(found: Sequence[T | BaseException]) -> list[T]:
    """The values of those that did an order now. Raises as `WorkersEngine._all_once` does."""
    errors = [each for each in found if isinstance(each, BaseException)]
    fresh = [each for each in found if not isinstance(each, BaseException)]
    repeats = [each for each in errors if isinstance(each, ActRepeated)]
    for error in errors:
        if not isinstance(error, ActRepeated):
            raise error
    for repeat in repeats:
        if not repeat.kept.refused or not fresh:
            raise repeat
    return fresh
