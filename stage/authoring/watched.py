"""The author's functions with a mark on each while it runs, and a report of each that raised.

Every door from the engine to author code is here, so that no function runs unseen (rule 35).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping
from types import coroutine
from typing import Any, Final, ParamSpec, TypeVar

import msgspec

from stage.authoring.outcomes import InDoubt, Refused, Transient
from stage.authoring.payload import REFUSALS
from stage.core.commands import AttemptKind
from stage.core.errors import AuthorDefect, StageError
from stage.ports.author_code import AuthorCode
from stage.ports.stage import (
    Answer,
    Conversation,
    Failed,
    Finished,
    Lost,
    Participant,
    RunView,
    Turn,
)
from stage.ports.store import Tx
from stage.ports.webhook import NotVerified, Said, WebhookRequest
from stage.wire.problem import WireError

P = ParamSpec("P")
T = TypeVar("T")

Report = Callable[[str, BaseException], None]
"""Notified of a saga id and the exception that its author did not raise as an outcome."""

SAGAS_REPORTED_MAX: Final = 10_000
"""Sagas whose first traceback is remembered as reported; then the oldest is forgotten."""
ACCEPTS: Final = "accepts"
OUTPUT: Final = "output"
WEBHOOK: Final = "webhook"

_OVER: Final = (Finished, Failed)
"""The turns with which a function is over."""
_MEANT: Final = (Refused, Transient, InDoubt, NotVerified, StageError, WireError)
"""Exceptions that say how a function ends: no defects."""


class WatchedParticipant:
    """ports.stage.Participant around another one."""

    def __init__(self, participant: Participant, code: AuthorCode, report: Report) -> None:
        self.plan = participant.plan
        """See ports.stage.Participant."""
        self.indexed = participant.indexed
        """See ports.stage.Participant."""
        self.shows = participant.shows
        """See ports.stage.Participant."""
        self._participant = participant
        self._code = code
        self._report = report
        self._reported: dict[str, None] = {}
        before = participant.supersedes
        self.supersedes: Participant | None = (
            None if before is None else WatchedParticipant(before, code, report)
        )
        """See ports.stage.Participant."""

    def check(self, data: Mapping[str, Any]) -> None:
        """See ports.stage.Participant. The types of an author may run code of theirs."""
        self._marked("", ACCEPTS, self._participant.check, data)

    def check_result(self, step: str, result: msgspec.Raw) -> None:
        """See ports.stage.Participant."""
        self._marked("", step, self._participant.check_result, step, result)

    async def run_transaction(
        self, tx: Tx, kind: AttemptKind, step: str, view: RunView
    ) -> msgspec.Raw:
        """See ports.stage.Participant."""
        self._code.entered(view.id, step)
        try:
            return await self._participant.run_transaction(tx, kind, step, view)
        except Exception as error:
            self._raised(view.id, error)
            raise
        finally:
            self._code.left(view.id, step, ended=True)

    def explain(self, error: Exception) -> Failed:
        """See ports.stage.Participant."""
        return self._participant.explain(error)

    def converse(self, kind: AttemptKind, step: str, view: RunView) -> Conversation:
        """See ports.stage.Participant."""
        # A coroutine that is made has not begun. But the result to be undone is read, and its type
        # may run code of the author's.
        reads = kind is AttemptKind.COMPENSATE
        if reads:
            self._code.entered(view.id, step)
        try:
            made = self._participant.converse(kind, step, view)
        except Exception as error:
            self._raised(view.id, error)
            raise
        finally:
            if reads:
                self._code.left(view.id, step, ended=False)
        return _WatchedConversation(made, view.id, step, self._code, self._raised)

    def shown(self, step: str, view: RunView) -> msgspec.Raw | None:
        """See ports.stage.Participant."""
        return self._marked(view.id, step, self._participant.shown, step, view)

    def hear(self, request: WebhookRequest) -> list[Said]:
        """See ports.stage.Participant."""
        ends = self._marked("", WEBHOOK, self._participant.hear, request)
        for said in ends:
            if isinstance(said, Exception):
                self._raised("", said)
        return ends

    def output(self, view: RunView) -> msgspec.Raw | None:
        """See ports.stage.Participant."""
        return self._marked(view.id, OUTPUT, self._participant.output, view)

    def _marked(
        self, saga_id: str, step: str, work: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T:
        self._code.entered(saga_id, step)
        try:
            return work(*args, **options)
        except WireError as error:
            # A check of the author's that fails as none should was answered as a refusal.
            cause = error.__cause__
            if cause is not None and not isinstance(cause, REFUSALS):
                self._raised(saga_id, cause)
            raise
        except Exception as error:
            self._raised(saga_id, error)
            raise
        finally:
            self._code.left(saga_id, step, ended=True)

    def _raised(self, saga_id: str, error: BaseException) -> None:
        """Report the first traceback of a saga: a function that fails is tried again and again."""
        meant = isinstance(error, _MEANT) and not isinstance(error, AuthorDefect)
        if meant or saga_id in self._reported:
            return
        while len(self._reported) >= SAGAS_REPORTED_MAX:
            self._reported.pop(next(iter(self._reported)), None)
        self._reported[saga_id] = None
        self._report(saga_id, error)


class _WatchedConversation:
    """ports.stage.Conversation around another one. Marked while it computes, not while it waits."""

    def __init__(
        self,
        conversation: Conversation,
        saga_id: str,
        step: str,
        code: AuthorCode,
        raised: Report,
    ) -> None:
        self._conversation = conversation
        self._saga_id = saga_id
        self._step = step
        self._code = code
        self._raised = raised
        self._ended = False
        """True once the function is over: nothing of it runs any more."""

    def begin(self) -> Turn:
        """See ports.stage.Conversation."""
        turn: Turn | None = None
        self.entered()
        try:
            turn = self._conversation.begin()
        finally:
            self.left(turn)
        return turn

    async def resume(self, answer: Answer | Lost) -> Turn:
        """See ports.stage.Conversation."""
        return await self._in_slices(self._conversation.resume(answer))

    async def proceed(self) -> Turn:
        """See ports.stage.Conversation."""
        return await self._in_slices(self._conversation.proceed())

    @coroutine
    def _in_slices(self, work: Coroutine[Any, Any, Turn]) -> Generator[Any, Any, Turn]:
        """Await a turn, and mark every slice of it that runs without awaiting."""
        step: Callable[[Any], Any] = work.send
        passed: Any = None
        while True:
            turn: Turn | None = None
            self.entered()
            try:
                yielded = step(passed)
            except StopIteration as stop:
                turn = stop.value
                assert turn is not None
                return turn
            finally:
                self.left(turn)
            try:
                passed, step = (yield yielded), work.send
            except BaseException as error:  # of the loop, such as a cancellation
                passed, step = error, work.throw

    def close(self) -> None:
        """See ports.stage.Conversation. The function may have a clean-up of its own."""
        if self._ended:
            self._conversation.close()
            return
        self.entered()
        try:
            self._conversation.close()
        finally:
            self.left(None)

    def entered(self) -> None:
        """The function begins or goes on."""
        self._code.entered(self._saga_id, self._step)

    def left(self, turn: Turn | None) -> None:
        """It does not run any more; `turn` is what it came to, None while it awaits."""
        self._ended = isinstance(turn, _OVER)
        self._code.left(self._saga_id, self._step, ended=self._ended)
        if isinstance(turn, Failed) and turn.error is not None:
            self._raised(self._saga_id, turn.error)
