"""Drives one call, probe or compensation function and turns its requests and ends into values."""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import events
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from stage.authoring.http import HeaderRefused, Http, TooManyRequests
from stage.authoring.outcomes import InDoubt, Pending, Refused, Transient
from stage.authoring.steps import ResultTooLarge
from stage.core.failure import FailureKind, classify_code
from stage.core.raised import raised
from stage.ports.stage import Answer, Failed, Finished, Foreign, Lost, Send, Turn
from stage.wire.http import SAFE_METHODS

Encode = Callable[[Any], bytes]
REASON_CHARS_MAX = 500
STOP_CAUGHT: Final = (
    "the function caught the CancelledError by which its time-out, or a stop of the process, ends"
    " it, so that its result proves nothing: let CancelledError out, and clean up in finally"
)


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How the answers to a function are read, and how many requests it may make.

    `requests_max` is None for a probe and a compensation: of a look before an undo no second
    effect follows. `keyed` is False of a call whose API ignores idempotency keys. `noes` are codes
    that the function is given, and that count for nothing where it does not look at the body.
    """

    transient_on: frozenset[int] = frozenset()
    refused_on: frozenset[int] = frozenset()
    pending_on: frozenset[int] = frozenset()
    noes: frozenset[int] = frozenset()
    requests_max: int | None = None
    keyed: bool = True
    never_retry: frozenset[int | type[Exception]] = frozenset()


def is_never_retried(error: BaseException, never: frozenset[int | type[Exception]]) -> bool:
    """Whether the author named the class of that exception, or one above it."""
    return any(isinstance(each, type) and isinstance(error, each) for each in never)


class FunctionConversation:
    """A conversation with one coroutine of the author.

    The first lost answer ends it: the function is not asked what a lost answer means, so it
    cannot take a doubt for a success.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        http: Http,
        encode: Encode,
        rules: Reading,
    ) -> None:
        self._coroutine = coroutine
        self._http = http
        self._encode = encode
        self._rules = rules
        self._context = contextvars.copy_context()
        self._prepared = False
        """Whether the function has handed a request out."""
        self._unsafe = False
        """Whether the request that is out can have an effect."""
        self._final = False
        """Whether the code of an answer says that this attempt is the last."""
        self._answered = 0
        """Requests that can have an effect and were answered."""
        self._unseen = False
        """Whether it may have made requests that are none of ours."""

    def begin(self) -> Turn:
        """See `ports.stage.Conversation`."""
        loop = events._get_running_loop()
        if loop is not None:  # to set it takes a system call, and in a unit there is none
            events._set_running_loop(None)  # code that wants the loop here finds none
        try:
            yielded = self._context.run(self._coroutine.send, None)
        except StopIteration as stop:
            return self._finish(stop.value)
        except (Refused, Transient, InDoubt, Pending, HeaderRefused) as error:
            return self._failed(error)
        except (Exception, asyncio.CancelledError):
            return Foreign()  # the function may only have wanted the event loop
        except BaseException as error:
            return self._exited(error)
        finally:
            if loop is not None:
                events._set_running_loop(loop)
        if isinstance(yielded, Send):
            return self._sending(yielded)
        self.close()
        return Foreign()

    async def resume(self, answer: Answer | Lost) -> Turn:
        """See `ports.stage.Conversation`."""
        if isinstance(answer, Lost):
            self.close()
            kind = FailureKind.TRANSIENT if answer.certain else FailureKind.IN_DOUBT
            return self._failure(
                kind, answer.reason, answer.retry_after, may_stand=self._answered > 0
            )
        rules = self._rules
        self._final = answer.status in rules.never_retry
        kind_of_code = classify_code(
            answer.status, rules.transient_on, rules.refused_on, rules.pending_on
        )
        if kind_of_code is not None:
            self.close()
            return self._failure(
                kind_of_code,
                f"answered {answer.status}",
                answer.retry_after,
                may_stand=self._answered > 0,
                may_come=self._unsafe and answer.status not in rules.transient_on,
                said=kind_of_code is FailureKind.REFUSED,
            )
        self._answered += self._unsafe
        return await self._drive(answer)

    async def proceed(self) -> Turn:
        """See `ports.stage.Conversation`."""
        return await self._drive(None)

    def close(self) -> None:
        """See `ports.stage.Conversation`. A clean-up that awaits is dropped where it awaits."""
        try:
            # In the context in which it began: a span of the author's that is open ends there.
            self._context.run(self._coroutine.close)
        except BaseException:  # an exit would end the process if it reached the event loop
            return  # nobody is left to take it

    @coroutine
    def _drive(self, value: Answer | None) -> Generator[Any, Any, Turn]:
        """Await the author's coroutine, but stop at a request of ours."""
        step: Callable[[Any], Any] = self._coroutine.send
        passed: Any = value
        stopped = False
        while True:
            try:
                yielded = self._context.run(step, passed)
            except StopIteration as stop:
                if stopped and _cancelling():
                    return self._failure(FailureKind.IN_DOUBT, STOP_CAUGHT)
                return self._finish(stop.value)
            except Exception as error:
                return self._failed(error)
            except asyncio.CancelledError as error:
                if stopped:
                    raise  # our own task is stopped, and the function with it
                return self._defect("the function ended cancelled", error)
            except BaseException as error:  # of an extension in Rust, or of a group of tasks
                if isinstance(passed, GeneratorExit):
                    raise  # this conversation is closed, and the function with it
                return self._exited(error)
            if isinstance(yielded, Send):
                return self._sending(yielded)
            try:
                passed = yield yielded
                step = self._coroutine.send
            except BaseException as error:  # the loop's, such as a cancellation
                passed = error
                stopped = isinstance(error, asyncio.CancelledError) and _cancelling()
                step = self._coroutine.throw

    def _sending(self, send: Send) -> Turn:
        allowed = self._rules.requests_max
        if allowed is not None and send.ordinal > allowed:
            self.close()
            return self._one_too_many(send, allowed)
        self._prepared = True
        self._unsafe = send.request.method not in SAFE_METHODS
        return send

    def _one_too_many(self, send: Send, allowed: int) -> Failed:
        """A second effect under a second key would share one outcome: it is not sent.

        Not a doubt: a probe that finds the first effect would call the step done.
        """
        exchange = self._http.described(send.ordinal)
        error = TooManyRequests(
            f"{exchange.place}: {exchange} is request {send.ordinal} of a call that declares"
            f" requests={allowed}, and was not sent: make a step of each effect, or declare"
            f" requests={send.ordinal}"
        )
        failed = self._failure(FailureKind.REFUSED, raised(error), may_stand=self._answered > 0)
        return replace(failed, error=error)

    def _finish(self, value: Any) -> Turn:
        try:
            self._http.check_awaited()
            if self._rules.noes:
                self._http.check_read(self._rules.noes)
            return Finished(result=msgspec.Raw(self._encode(value)))
        except Exception as error:
            return self._failed(error)
        except BaseException as error:  # its type may run code of the author's
            return self._exited(error)

    def _failed(self, error: Exception) -> Failed:
        reason = str(error) or type(error).__name__
        self._final = self._final or is_never_retried(error, self._rules.never_retry)
        # A word of the function that nothing happened is about its last request.
        before = self._answered > 1
        if isinstance(error, Refused):
            return self._failure(FailureKind.REFUSED, reason, may_stand=before, said=True)
        if isinstance(error, Transient):
            # The API's own "not now", of which a copy may act where the key lets it be undone.
            may_come = (self._answered > 0 or self._unseen) and self._rules.keyed
            return self._failure(
                FailureKind.TRANSIENT,
                reason,
                error.retry_after,
                may_stand=before,
                may_come=may_come,
            )
        if isinstance(error, ResultTooLarge):
            # The effect is known, and no look or repeat would give a smaller result.
            may_stand = self._answered > 0 or self._unseen
            failed = self._failure(FailureKind.REFUSED, raised(error), may_stand=may_stand)
            return replace(failed, error=error)
        if isinstance(error, Pending) and self._prepared:
            return self._failure(FailureKind.PENDING, reason, error.retry_after)
        if isinstance(error, InDoubt):
            return self._failure(FailureKind.IN_DOUBT, reason)
        if isinstance(error, HeaderRefused):
            # A defect: this request certainly did not leave (rule 4).
            return self._failure(FailureKind.TRANSIENT, reason, may_stand=self._answered > 0)
        return self._defect(raised(error), error)

    def _defect(self, reason: str, error: BaseException) -> Failed:
        """The function gave no outcome: certain as long as no request was prepared (rule 4)."""
        kind = FailureKind.IN_DOUBT if self._prepared else FailureKind.DEFECT
        return replace(self._failure(kind, reason), error=error)

    def _exited(self, error: BaseException) -> Failed:
        """An exit, or a panic, ends the step and not the process or the task of its saga.

        A further attempt would exit too (rule 35).
        """
        kind = FailureKind.IN_DOUBT if self._prepared else FailureKind.REFUSED
        return replace(self._failure(kind, f"the function exited: {raised(error)}"), error=error)

    def _failure(
        self,
        kind: FailureKind,
        reason: str,
        retry_after: float | None = None,
        *,
        may_stand: bool = False,
        may_come: bool = False,
        said: bool = False,
    ) -> Failed:
        return Failed(
            kind=kind,
            reason=reason[:REASON_CHARS_MAX],
            retry_after=retry_after,
            may_stand=may_stand,
            may_come=may_come and kind is FailureKind.TRANSIENT,
            said=said,
            final=self._final,
        )


class EffectConversation(FunctionConversation):
    """A conversation with the coroutine of an effect, which makes no request of ours.

    Its requests cannot be seen, so nothing of it runs before its intent is durable, and what it
    raises is in doubt unless it says otherwise.
    """

    def begin(self) -> Turn:
        """See `ports.stage.Conversation`: it needs the event loop."""
        self.close()
        return Foreign()

    async def proceed(self) -> Turn:
        """See `ports.stage.Conversation`."""
        self._prepared = self._unseen = True
        return await super().proceed()


def _cancelling() -> bool:
    """Whether it is the task that is cancelled, and not just what the function waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
