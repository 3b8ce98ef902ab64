"""The scheduler that asks Temporal: a workflow a saga, whose activity runs it in this process.

Store first, then poke: what a caller wants is written down before its workflow is started or
signalled. A scan pokes the sagas that are due and in nobody's hands, which covers a process that
died in between and a Temporal that was away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta

import msgspec
from msgspec import UNSET, UnsetType
from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, TLSConfig
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from stage.core.errors import NewerJournal, StoreUnavailable
from stage.core.steps import VERSION_MAX
from stage.engine.embedded.limits import (
    DUE_IDS_MAX,
    NEWER_IDS_MAX,
    RECOVERY_IDS_MAX,
    RECOVERY_SCAN_SECONDS,
    EngineLimits,
)
from stage.engine.embedded.live_saga import LiveSaga
from stage.engine.embedded.live_sagas import LiveSagas
from stage.engine.embedded.scheduler import MakeScheduler
from stage.engine.saga.opening import OpenRequest
from stage.engine.temporal.credentials import LOOK_SECONDS, FreshClient, TemporalFiles
from stage.engine.temporal.workflow import ADVANCE, DUE, POKE, WORKFLOW, RunAsk, SagaRun
from stage.ports.clock import Clock
from stage.ports.engine import LeftToNewer, Stopping
from stage.ports.observer import Observer, TraceContext
from stage.ports.ownership import HeldElsewhere, Ownership
from stage.ports.store import SagaRow, Store

BEATS = 4
"""Signs of life within the time after which a worker is taken for dead."""
POKES_MAX = 16
"""Pokes under way at once."""
POKE_SECONDS_MAX = 10.0
"""How long Temporal may take to answer one."""
POKE_AGAIN_SECONDS = 30.0
"""A saga that stays due is poked again after so long: its workflow may wait for a free worker."""
CONNECT_AGAIN_SECONDS = 2.0
CLOSE_SECONDS_MAX = 5.0
"""How long a worker may take to end, once no saga is live."""
HELD_SECONDS = 0.5
"""How often a saga that a live other replica has is looked at."""
NEWER_SECONDS = 10.0
"""How much later a saga of a newer release is offered to another worker."""
REST_SECONDS_MIN = 0.5
"""A saga that is due at once after its run rests for so long, unless it is poked."""
QUEUE_CHARS = 8
"""So much of the id of a database is in the name of its task queue."""
OVER = -1.0
"""The rest of a saga that needs no further run."""


class TemporalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where Temporal is. A worker that is silent for `lease_seconds` is taken for dead."""

    address: str
    namespace: str = "default"
    files: TemporalFiles = TemporalFiles()
    lease_seconds: float = 10.0
    stage: str = ""
    version: int = VERSION_MAX
    """Sagas of a newer version than that of this release are left to another worker (rule 32)."""
    places: int = 1_000
    """Sagas that run here at once."""


class TemporalScheduler:
    """engine.embedded.scheduler.Scheduler. Temporal may be away at any time, also at the start."""

    def __init__(
        self,
        sagas: LiveSagas,
        store: Store,
        clock: Clock,
        settings: TemporalSettings,
        *,
        defect: Callable[[str, Exception], None],
        warn: Callable[[str], None],
    ) -> None:
        """`defect` is notified of errors of ours, `warn` of a Temporal that is away."""
        self._sagas = sagas
        self._store = store
        self._ownership = store.ownership
        self._clock = clock
        self._settings = settings
        self._defect = defect
        self._warn = warn
        self._away = False
        """True from a failure of Temporal until its next success: one line a time is enough."""
        self._queue = ""
        self._client: Client | None = None
        self._pokes = asyncio.Semaphore(POKES_MAX)
        self._poked: dict[str, float] = {}
        """When a saga was poked last, by the event loop's clock; until it is run here, or for some
        time."""
        self._gone: dict[LiveSaga, list[asyncio.Future[None]]] = {}
        """The waits until a saga has left memory."""
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._stopping = asyncio.Event()
        self.recovered = False
        """True once it is known which sagas are unfinished."""
        sagas.deposited = self._deposited
        sagas.left = self._left

    async def start(self) -> None:
        """See `engine.embedded.scheduler.Scheduler`."""
        logging.getLogger("temporalio.activity").setLevel(logging.ERROR)  # a retry is no error
        # Two databases never share a queue: a worker knows the sagas of its own alone.
        self._queue = f"{self._settings.stage}.{self._store.identity.id[:QUEUE_CHARS]}"
        unfinished = await self._claim(RECOVERY_IDS_MAX)
        self.recovered = True
        self._spawn(self._work())
        self._spawn(self._scan(unfinished))

    def stop(self) -> None:
        """See `engine.embedded.scheduler.Scheduler`: the worker takes no further task."""
        self._stopping.set()

    async def close(self) -> None:
        """See `engine.embedded.scheduler.Scheduler`."""
        self._stopping.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS_MAX)
            for task in late:  # Temporal is away, and misses this worker by itself
                task.cancel()

    # --- what is to be run -----------------------------------------------------------------------

    async def _claim(self, limit: int) -> list[str]:
        """Ids of sagas that need a run and are in nobody's hands; they stay so.

        Sagas that were poked lately may stay due for long, as does a saga that only a newer release
        can read. They are no part of the limit, so that the sagas behind them are found.
        """
        most = limit + min(len(self._poked), NEWER_IDS_MAX)
        found = await self._ownership.claim(self._clock.now(), most, self._settings.version)
        await self._give_up(found)
        return list(found)

    async def _give_up(self, sagas: Mapping[str, int]) -> None:
        """Let any worker have these sagas, but for those that run here: they stay ours.

        A claim finds these too, once a call of theirs has lasted for a minute or two. A timer of
        Temporal may open one meanwhile, which then has another number of entries.
        """
        away = {each: length for each, length in sagas.items() if each not in self._sagas}
        await self._ownership.release(away)

    async def _scan(self, found: Iterable[str]) -> None:
        """Poke what is due and not in memory, again and again."""
        while not self._stopping.is_set():
            await asyncio.gather(*(self._poke_again(saga_id) for saga_id in found))
            found = ()
            await self._wait(RECOVERY_SCAN_SECONDS)
            self._forget_pokes()
            try:
                found = await self._claim(DUE_IDS_MAX)
            except StoreUnavailable:
                pass  # it is looked for again
            except Exception as error:
                self._defect("scan", error)

    async def _poke_again(self, saga_id: str) -> None:
        if saga_id not in self._sagas and saga_id not in self._poked:
            await self._poke(saga_id, DUE)

    def _forget_pokes(self) -> None:
        """Forget the pokes of some time ago: another worker ran most of their sagas."""
        since = asyncio.get_running_loop().time() - POKE_AGAIN_SECONDS
        self._poked = {saga_id: at for saga_id, at in self._poked.items() if at > since}

    def _deposited(self, saga_id: str, length: int) -> None:
        self._spawn(self._hand_over(saga_id, length))

    async def _hand_over(self, saga_id: str, length: int) -> None:
        """Let any worker have a saga that was written down here, and poke its workflow."""
        with suppress(StoreUnavailable):  # the scan finds it
            await self._give_up({saga_id: length})
            await self._poke(saga_id, POKE)

    async def _poke(self, saga_id: str, signal: str) -> None:
        """Start the workflow of a saga, or have the one that there is look at it."""
        if self._client is None or self._stopping.is_set():
            return  # the scan finds it, here or in the next process
        ask = RunAsk(saga_id=saga_id, silent_seconds_max=self._settings.lease_seconds)
        async with self._pokes:
            # At once, so that the scan leaves it alone meanwhile.
            self._poked[saga_id] = asyncio.get_running_loop().time()
            try:
                await self._client.start_workflow(
                    WORKFLOW,
                    ask,
                    id=f"{self._queue}/{saga_id}",
                    task_queue=self._queue,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    start_signal=signal,
                    rpc_timeout=timedelta(seconds=POKE_SECONDS_MAX),
                )
            except RPCError as error:
                self._poked.pop(saga_id, None)
                self._log_away(error)
                return
            except Exception as error:  # the scan goes on: it would be missed by all sagas
                self._defect("poke", error)
                return
        self._away = False

    # --- the worker ------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Run a worker until `stop`, and another one where it fails."""
        while not self._stopping.is_set():
            fresh = FreshClient(self._settings.files, self._connect, warn=self._warn)
            try:
                self._client = await fresh.open()
                await self._run_worker(self._client, fresh)
            except Exception as error:
                self._log_away(error)
            await self._wait(CONNECT_AGAIN_SECONDS)

    async def _connect(self, *, tls: TLSConfig | None, api_key: str | None) -> Client:
        where, namespace = self._settings.address, self._settings.namespace
        return await Client.connect(where, namespace=namespace, tls=tls, api_key=api_key)

    def _log_away(self, error: Exception) -> None:
        if not self._away:
            where = self._settings.address
            self._warn(f"Temporal at {where} does not answer, and sagas wait for it: {error}")
        self._away = True

    async def _keep_fresh(self, fresh: FreshClient, worker: Worker) -> None:
        """Give the worker and the pokes each client that shows newer credentials."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if await fresh.refresh():
                    worker.client = self._client = fresh.client
            except Exception as error:
                self._defect("credentials", error)

    async def _run_worker(self, client: Client, fresh: FreshClient) -> None:
        worker = Worker(
            client,
            task_queue=self._queue,
            workflows=[SagaRun],
            activities=[self.advance],
            # The workflow is ours and imports nothing; a history is too short to be worth a cache,
            # which would tie a saga to a dead worker for ten seconds.
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_cached_workflows=0,
            max_concurrent_activities=self._settings.places,
            graceful_shutdown_timeout=timedelta(hours=1),  # the drain lets every saga go
        )
        looking = asyncio.ensure_future(self._keep_fresh(fresh, worker))
        running = asyncio.ensure_future(worker.run())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await worker.shutdown()
            await running
        finally:
            stopping.cancel()
            looking.cancel()

    @activity.defn(name=ADVANCE)
    async def advance(self, saga_id: str) -> float:
        """Run a saga until it rests: the seconds to its next action, OVER when it needs no run."""
        beating = asyncio.ensure_future(self._beat())
        try:
            return await self._run(saga_id)
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(self._settings.lease_seconds / BEATS)

    async def _run(self, saga_id: str) -> float:
        """Run it here, or wait until it can be; how long it rests afterwards."""
        self._poked.pop(saga_id, None)
        while True:
            if self._stopping.is_set():
                raise Stopping
            live = self._sagas.get(saga_id)
            if live is None:
                live = self._sagas.open(OpenRequest(saga_id=saga_id), recovered=True)
            await self._until_gone(live)
            if not live.recovered:
                continue  # a caller's request was written down
            error = live.refusal
            if not live.lost and not isinstance(error, HeldElsewhere | Stopping):
                left = isinstance(error, LeftToNewer)
                if left:  # it stays due, and its workflow has it run again
                    self._poked[saga_id] = asyncio.get_running_loop().time()
                return self._rest(saga_id, await self._row(saga_id), left_to_newer=left)
            # A live other replica has it: a caller asked there, or it was only taken for dead.
            await self._wait(HELD_SECONDS)

    async def _row(self, saga_id: str) -> SagaRow | UnsetType | None:
        """The row; UNSET where only a newer release can read it."""
        try:
            return await self._store.get(saga_id)
        except NewerJournal:
            return UNSET

    def _rest(self, saga_id: str, row: SagaRow | UnsetType | None, *, left_to_newer: bool) -> float:
        """Seconds to the next action. Raises ApplicationError where a newer release takes it."""
        if row is None or (row is not UNSET and row.due_at is None):
            return OVER
        if row is UNSET or left_to_newer or row.version > self._settings.version:
            raise ApplicationError(
                f"a newer release accepted saga {saga_id} or wrote to it: it goes on there",
                next_retry_delay=timedelta(seconds=NEWER_SECONDS),
            )
        assert row.due_at is not None
        return max(row.due_at - self._clock.now(), REST_SECONDS_MIN)

    async def _until_gone(self, live: LiveSaga) -> None:
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gone.setdefault(live, []).append(gone)
        await gone

    def _left(self, live: LiveSaga) -> None:
        for gone in self._gone.pop(live, ()):
            if not gone.done():
                gone.set_result(None)

    # --- tasks -----------------------------------------------------------------------------------

    async def _wait(self, seconds: float) -> None:
        """Wait so long, or until `stop`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks[task] = None

        def forget(done: asyncio.Task[None]) -> None:
            del self._tasks[done]
            if not done.cancelled() and (error := done.exception()) is not None:
                assert isinstance(error, Exception)
                self._defect("temporal", error)

        task.add_done_callback(forget)


def temporal_scheduler(
    settings: TemporalSettings, store: Store, stage: str, warn: Callable[[str], None]
) -> MakeScheduler:
    """Makes the scheduler of an engine on that store."""

    def make(
        sagas: LiveSagas,
        _ownership: Ownership,
        observer: Observer,
        clock: Clock,
        limits: EngineLimits,
        version: int = VERSION_MAX,
    ) -> TemporalScheduler:
        return TemporalScheduler(
            sagas,
            store,
            clock,
            msgspec.structs.replace(
                settings, stage=stage, version=version, places=limits.sagas_max
            ),
            defect=lambda where, error: observer.defect(where, "", TraceContext(), error),
            warn=warn,
        )

    return make
