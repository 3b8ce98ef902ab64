"""Tasks of Step Functions as requests: the stage as the worker of an activity.

A task is answered by the endpoints that neighbours use. Its heartbeats run while the saga does, its
success or failure is reported once the journal has the end, and a saga whose task timed out
meanwhile is compensated, for nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from stage.core.errors import StoreUnavailable
from stage.inbound.dispatch import dispatch
from stage.inbound.principal import Kind, Principal
from stage.inbound.request import JSON, Answer, HeaderPairs, Request
from stage.inbound.service import Service
from stage.ports.observer import TraceContext
from stage.wire.envelope import SAGA_ID_RE, format_instant, parse_instant, path_of_saga
from stage.wire.outcome import Outcome
from stage.wire.replies import (
    CompensateReplyKind,
    encode_compensate,
    kind_of_compensate_reply,
    own_word,
)

T = TypeVar("T")
CALLER = "step_functions"
"""The name under which Step Functions asks: the upstream of its sagas."""
NOT_EXECUTED = "Saga.NotExecuted"
COMPENSATED = "Saga.Compensated"
FAILED_TO_COMPENSATE = "Saga.FailedToCompensate"
UNKNOWN = "Saga.Unknown"
"""The errors that a state machine may catch: nothing was done, nothing stands, something stands,
and it is not known."""
TIMED_OUT = "its task at Step Functions timed out"
BEAT_SECONDS = 5.0
"""How often a task is kept alive: `HeartbeatSeconds` is to be three times as long."""
WAIT_SECONDS = 10
AGAIN_SECONDS = 1.0
"""How long to wait before a task is asked again that is not answered yet."""
CAUSE_CHARS_MAX = 32_768
"""Step Functions takes no longer ones."""
OUTPUT_BYTES_MAX = 262_144
"""Nor a longer answer of a task."""
SERVER_ERROR = 500
_ASK_AGAIN = frozenset({202, 429, 503})
_NO_WORD = msgspec.json.Decoder(dict[str, Any])


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One task: its token, and its input as JSON."""

    token: str
    given: str


class NotHeard(OSError):
    """A word that certainly did not arrive; say it again."""


class Tasks(Protocol):
    """The activity at Step Functions.

    Each method may raise NotHeard, or another OSError, which leaves open whether it arrived.
    """

    async def next(self) -> Task | None:
        """The next task; None when there was none for a while."""
        ...

    async def beat(self, token: str) -> bool:
        """Keep a task alive; False when it has timed out, or was stopped."""
        ...

    async def succeed(self, token: str, output: str) -> bool:
        """End a task with its output; False as above."""
        ...

    async def fail(self, token: str, error: str, cause: str) -> bool:
        """End a task with a named error; False as above."""
        ...


class _StepFunctions:
    """inbound.caller.Callers of the tasks: the credentials of AWS have said who sent them."""

    async def identify(self, request: Request) -> Principal:
        """See `Callers`."""
        return Principal(kind=Kind.UPSTREAM, name=CALLER)


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """The input of a task: an envelope; with `compensate`, why its saga is to be compensated.

    `first_sent_at` is that of a request to compensate.
    """

    saga_id: str
    data: msgspec.Raw = msgspec.Raw(b"{}")
    deadline: str | None = None
    compensate: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    first_sent_at: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an instant that is none."""
        if self.first_sent_at is not None:
            parse_instant(self.first_sent_at)

    @property
    def reason(self) -> str | None:
        """Why its saga is to be compensated; None for one that is to run.

        Any JSON there is a reason, also null, or the error of another state: a saga that is
        to be compensated must not run for it.
        """
        if self.compensate is msgspec.UNSET:
            return None
        given = bytes(self.compensate)
        if given == b"null":
            return ""
        try:
            return msgspec.json.decode(given, type=str)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return given.decode("utf-8", "replace")


class ActivityWorker:
    """Polls one activity, and runs its tasks. Use `working`."""

    def __init__(
        self, service: Service, tasks: Tasks, *, places: int, warn: Callable[[str], None]
    ) -> None:
        """`places` are the tasks that are held at once; `warn` hears of a Step Functions away."""
        self._service = replace(service, callers=_StepFunctions())
        assert service.newest_tasks is not None
        self._newest = service.newest_tasks
        self._tasks = tasks
        self._places = asyncio.Semaphore(places)
        self._held: dict[asyncio.Task[None], None] = {}
        """In the order in which they came."""
        self._seen: set[str] = set()
        """Tokens of tasks that are held and were seen to be the newest of their saga."""
        self._warn = warn
        self._away = False
        """True from a failure of Step Functions until its next success: one line a time."""

    async def work(self) -> None:
        """Take tasks until the stage drains, and answer those that are held.

        Once it is cancelled they are left to their time-out.
        """
        try:
            while not self._service.engine.draining:
                await self._places.acquire()
                task = None
                try:
                    task = await self._tasks.next()
                    self._away = False
                except OSError as error:
                    self._warn_away(error)
                    await asyncio.sleep(AGAIN_SECONDS)
                except Exception as error:
                    self._report(error)
                    await asyncio.sleep(AGAIN_SECONDS)
                if task is None:
                    self._places.release()
                else:
                    self._spawn(task)
            while self._held:
                await asyncio.wait(self._held)
        finally:
            for held in self._held:
                held.cancel()

    def _spawn(self, task: Task) -> None:
        held = asyncio.get_running_loop().create_task(self._hold(task))
        self._held[held] = None

        def forget(done: asyncio.Task[None]) -> None:
            del self._held[done]
            self._places.release()
            if not done.cancelled() and (error := done.exception()) is not None:
                self._report(error)

        held.add_done_callback(forget)

    def _report(self, error: BaseException) -> None:
        self._service.observer.defect("activity", "", TraceContext(), error)

    def _warn_away(self, error: OSError) -> None:
        if not self._away:
            self._warn(
                f"Step Functions does not answer, and tasks wait: {error}. "
                "Look at the credentials, the role, and the ARN of the activity"
            )
        self._away = True

    async def _hold(self, task: Task) -> None:
        """Answer one task."""
        token = task.token
        try:
            ask = msgspec.json.decode(task.given, type=Ask)
            if not SAGA_ID_RE.fullmatch(ask.saga_id):
                raise msgspec.ValidationError("saga_id is no id of a saga")
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            cause = f"the input is no saga: {error}"
            wrong = error_of_input(task.given)
            await self._until_said(lambda: self._tasks.fail(token, wrong, cause))
            return
        try:
            alive = await self._answer(task, ask)
            if ask.reason is None:
                if not alive:
                    await self._give_up(token, ask)
                await self._written(lambda: self._newest.end(ask.saga_id, token))
        finally:
            self._seen.discard(token)

    async def _answer(self, task: Task, ask: Ask) -> bool:
        """Do what is asked, and report it; False when the task has timed out before."""
        reason = ask.reason
        if reason is None:
            doing = self._execute_newest(task.token, ask)
        else:
            doing = self._compensate(ask, reason)
        answer = await self._while_alive(task.token, doing)
        if answer is None:
            return False
        size = len(answer.body)
        if answer.status == 200 and size > OUTPUT_BYTES_MAX:
            return await self._take_back(task, ask, size)
        back = reason is not None
        error = error_of_compensation(answer, ask.saga_id) if back else error_of(answer)
        return await self._until_said(lambda: self._say(task.token, answer, error))

    async def _take_back(self, task: Task, ask: Ask, size: int) -> bool:
        """Compensate a saga whose answer Step Functions would not take; as `_answer`."""
        cause = (
            f"the answer has {size} bytes, and Step Functions takes {OUTPUT_BYTES_MAX}: "
            "hand on references in place of data"
        )
        answer = await self._while_alive(task.token, self._compensate(ask, cause))
        if answer is None:
            return False
        error = error_of_compensation(answer, ask.saga_id)
        return await self._until_said(lambda: self._tasks.fail(task.token, error, cause))

    async def _while_alive(self, token: str, doing: Coroutine[Any, Any, T]) -> T | None:
        """Its value; None, and no more of it is done here, once the task has timed out."""
        running = asyncio.ensure_future(doing)
        try:
            return await running if await self._keep_alive(token, running) else None
        finally:
            running.cancel()

    async def _keep_alive(self, token: str, answering: asyncio.Future[Any]) -> bool:
        """Beat until there is an answer; False when the task has timed out."""
        while True:
            done, _ = await asyncio.wait((answering,), timeout=BEAT_SECONDS)
            if done:
                return True
            with suppress(OSError):  # the network is away: the task may outlive that
                if not await self._tasks.beat(token):
                    return False

    async def _until_said(self, say: Callable[[], Awaitable[bool]]) -> bool:
        """Say it until Step Functions has heard it; False when the task has timed out before.

        A token counts no more once its end was heard. So where the answer to that was lost, the
        next one leaves open which of both happened: an end that may have been heard is left alone.
        """
        doubted = False
        while True:
            try:
                return await say() or doubted
            except NotHeard as error:
                self._warn_away(error)
            except OSError as error:
                self._warn_away(error)
                doubted = True
            await asyncio.sleep(AGAIN_SECONDS)

    async def _say(self, token: str, answer: Answer, error: str) -> bool:
        text = answer.body.decode()
        if answer.status == 200:
            return await self._tasks.succeed(token, text)
        return await self._tasks.fail(token, error, text[:CAUSE_CHARS_MAX])

    # --- the newest task of a saga ---------------------------------------------------------------

    async def _execute_newest(self, token: str, ask: Ask) -> Answer | None:
        """Execute for a task that is the newest of its saga; None for one that is not.

        A poll whose answer was late may bring a task behind the one that repeats it, also behind
        its success, which leaves no row. So each task beats once before anything is done for it.
        Where one was given up before, the saga is compensated, and the repeat is to hear of that.
        """
        before = await self._written(lambda: self._newest.take(ask.saga_id, token))
        if before.given_up:
            await self._compensate(ask, TIMED_OUT)
        elif not await self._lives(token):
            return None
        self._seen.add(token)
        return await self._execute(ask)

    async def _lives(self, token: str) -> bool:
        """Whether Step Functions waits for the task, asked until it says."""
        while True:
            with suppress(OSError):
                return await self._tasks.beat(token)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _give_up(self, token: str, ask: Ask) -> None:
        """A task has timed out: its saga is compensated, unless another task is the newest."""
        if token not in self._seen:
            await self._written(lambda: self._newest.withdraw(ask.saga_id, token))
        elif await self._written(lambda: self._newest.give_up(ask.saga_id, token)):
            await self._compensate(ask, TIMED_OUT)

    async def _written(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write until the database has it."""
        while True:
            try:
                return await write()
            except StoreUnavailable:
                await asyncio.sleep(AGAIN_SECONDS)

    # --- as a neighbour would ask ----------------------------------------------------------------

    async def _execute(self, ask: Ask) -> Answer:
        now = format_instant(self._service.clock.now())
        envelope = {
            "saga_id": ask.saga_id,
            "protocol": 1,
            "data": ask.data,
            "trail": [{"stage": CALLER, "at": now}],
            **({} if ask.deadline is None else {"deadline": ask.deadline}),
        }
        return await self._ask("/sagas", msgspec.json.encode(envelope))

    async def _compensate(self, ask: Ask, reason: str) -> Answer:
        """Ask to compensate it. A long reason is cut: it must not stop the request."""
        sent = None if ask.first_sent_at is None else parse_instant(ask.first_sent_at)
        return await self._ask(
            f"{path_of_saga(ask.saga_id)}/compensate",
            encode_compensate(CALLER, reason, first_sent_at=sent),
        )

    async def _ask(self, path: str, body: bytes) -> Answer:
        """Ask until the stage has an answer that counts."""

        async def read() -> bytes:
            return body

        while True:
            headers = HeaderPairs((JSON, ("Prefer", f"wait={WAIT_SECONDS}")))
            request = Request(method="POST", path=path, headers=headers, read_body=read)
            answer = await dispatch(self._service, request)
            if answer.status not in _ASK_AGAIN:
                return answer
            await asyncio.sleep(AGAIN_SECONDS)


def error_of(answer: Answer) -> str:
    """The name of the error for an answer to a saga that was to run, other than 200."""
    word = _NO_WORD.decode(answer.body) if answer.body else {}
    match word.get("outcome"):
        case Outcome.NOT_EXECUTED:
            return NOT_EXECUTED
        case Outcome.COMPENSATED:
            return COMPENSATED
        case _ if word.get("stands") or word.get("may_stand"):
            return FAILED_TO_COMPENSATE
        case _:
            return UNKNOWN


def error_of_compensation(answer: Answer, saga_id: str) -> str:
    """The name of the error for an answer to a request to compensate, by the table of protocol 3.4.

    `not_executed` of a request that was refused is no word on the saga, which may stand. No gateway
    stands between, so that it would be refused again.
    """
    kind, word = kind_of_compensate_reply(answer.status, answer.body, saga_id), None
    if kind in (CompensateReplyKind.COMPENSATED, CompensateReplyKind.CANNOT):
        word = own_word(answer.body, saga_id)
    match word:
        case Outcome.COMPENSATED:
            return COMPENSATED
        case Outcome.NOT_EXECUTED:
            return NOT_EXECUTED
        case None if answer.status >= SERVER_ERROR:
            return UNKNOWN
        case _:
            return FAILED_TO_COMPENSATE


def error_of_input(given: str) -> str:
    """The name of the error for an input that is no saga, and none to compensate.

    A saga that was to be compensated may stand, so that nobody may say it was not executed.
    """
    if '"compensate"' in given:
        return FAILED_TO_COMPENSATE
    return NOT_EXECUTED if given.lstrip().startswith("{") else UNKNOWN
