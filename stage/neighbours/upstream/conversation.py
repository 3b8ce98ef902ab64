"""Starts and compensates a saga at the stage, by the table of answers in `docs/neighbour.md`.

| Answer, in the stage's own word  | This neighbour                                                |
|----------------------------------|---------------------------------------------------------------|
| 200                              | confirms the order                                            |
| 202                              | asks `Location` until there is an end, then for the answer    |
| 409, 410                         | takes back the order: nothing stands there                    |
| 400 413 415 422, 504             | does the same                                                 |
| 401 403 429 503                  | repeats the same bytes; a copy of them may be accepted        |
| no connection                    | repeats the same bytes under the same id                      |
| **anybody's word, or none**      |                                                               |
| 400 409 410 413 415 422          | stops; the saga is in doubt                                   |
| any other answer, or none        | repeats the same bytes; the saga is in doubt from then on     |

A saga in doubt at its end is undone at the stage first: `compensate` is called until it is
answered, and only then is the order taken back. An answer that concerns one request alone (a 400 to
a repeat) does not settle the doubt that an earlier request left.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any, assert_never

import msgspec

from stage.neighbours.upstream.books import Saga
from stage.neighbours.upstream.stage_client import Lost, Reply, StageClient
from stage.wire.envelope import Envelope
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError, decode_problem
from stage.wire.replies import (
    CompensateReplyKind,
    ReplyKind,
    decode_executed,
    kind_of_compensate_reply,
    kind_of_reply,
)
from stage.wire.views import decode_view

BACKOFF_SECONDS = 0.1
BACKOFF_SECONDS_MAX = 2.0
RETRY_AFTER_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The stage and all behind it are done; what they added."""

    added: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The saga failed. `in_doubt`: something may stand at the stage."""

    reason: str
    in_doubt: bool


class SagaView(msgspec.Struct):
    """The one member of `GET /sagas/{id}` that decides."""

    outcome: Outcome


class Backoff:
    """Waits between attempts: doubled, jittered, capped, and never shorter than Retry-After."""

    def __init__(self) -> None:
        self._seconds = BACKOFF_SECONDS

    def next(self, retry_after: float | None = None) -> float:
        """The seconds to wait now."""
        wait = self._seconds * random.uniform(0.5, 1.0)
        self._seconds = min(self._seconds * 2, BACKOFF_SECONDS_MAX)
        return max(wait, min(retry_after or 0.0, RETRY_AFTER_SECONDS_MAX))


class Conversation:
    """The requests of one saga to the stage, until it ends."""

    def __init__(self, name: str, stage: StageClient) -> None:
        self._name = name
        self._stage = stage

    async def run(self, saga: Saga, envelope: Envelope) -> None:
        """Hand the saga to the stage, and complete or undo it by the answer."""
        match await self._execute(saga, envelope):
            case Done(added=added):
                saga.complete(added)
            case Failed(reason=reason, in_doubt=True):
                await self.compensate(saga, reason)
            case Failed(reason=reason):
                saga.compensate(reason)

    async def compensate(self, saga: Saga, reason: str) -> None:
        """Ask the stage to compensate until it answers, then take back the order."""
        saga.start_compensation(reason)
        backoff = Backoff()
        while True:
            reply = await self._stage.compensate(saga, self._name, reason)
            if isinstance(reply, Lost):
                saga.note(f"compensate: {reply.reason}")
                await asyncio.sleep(backoff.next())
                continue
            saga.note(f"compensate: {reply.status}")
            match kind_of_compensate_reply(reply.status, reply.body, saga.saga_id):
                case CompensateReplyKind.COMPENSATED:
                    return saga.compensate(reason)
                case CompensateReplyKind.CANNOT:
                    return _cannot(saga, reply)
                case (
                    CompensateReplyKind.ACCEPTED
                    | CompensateReplyKind.NOT_NOW
                    | CompensateReplyKind.AWAY
                    | CompensateReplyKind.NOT_UNDERSTOOD
                ):
                    await asyncio.sleep(backoff.next(reply.retry_after))
                case kind:
                    assert_never(kind)

    async def _execute(self, saga: Saga, envelope: Envelope) -> Done | Failed:
        """Post the saga until an answer ends it or the budget is gone."""
        in_doubt = False
        backoff = Backoff()
        while (left := _left(saga)) > 0:
            saga.attempts += 1
            reply = await self._stage.execute(envelope, saga.trace, left)
            if isinstance(reply, Lost):
                saga.note(f"execute: {reply.reason}")
                in_doubt = in_doubt or not reply.certain
                await _sleep(saga, backoff.next())
                continue
            saga.note(f"execute: {reply.status}")
            match kind_of_reply(reply.status, reply.body, saga.saga_id):
                case ReplyKind.EXECUTED:
                    try:
                        return Done(added=decode_executed(reply.body, saga.saga_id))
                    except WireError as error:
                        saga.note(error.detail)
                        in_doubt = True
                        await _sleep(saga, backoff.next())
                case ReplyKind.ACCEPTED:
                    in_doubt = True
                    await self._poll(saga, reply)
                case ReplyKind.REFUSED | ReplyKind.GONE:
                    return Failed(reason=_reason(reply), in_doubt=False)
                case ReplyKind.REJECTED | ReplyKind.TOO_LATE:
                    return Failed(reason=_reason(reply), in_doubt=in_doubt)
                case ReplyKind.IN_DOUBT:
                    return Failed(reason=_reason(reply), in_doubt=True)
                case ReplyKind.NOT_NOW | ReplyKind.NOT_ALLOWED | ReplyKind.UNKNOWN:
                    in_doubt = True  # a copy on its way may be accepted
                    await _sleep(saga, backoff.next(reply.retry_after))
                case kind:
                    assert_never(kind)
        return Failed(reason="the budget is gone", in_doubt=in_doubt)

    async def _poll(self, saga: Saga, accepted: Reply) -> None:
        """Return when the saga ended at the stage, or the budget is gone.

        The view is not the answer: the same request again brings the stored one.
        """
        backoff = Backoff()
        wait = backoff.next(accepted.retry_after)
        while True:
            await _sleep(saga, wait)
            if (left := _left(saga)) <= 0:
                return
            reply = await self._stage.get_saga(saga.saga_id, accepted.location, saga.trace, left)
            if isinstance(reply, Lost):
                saga.note(f"get saga: {reply.reason}")
                wait = backoff.next()
                continue
            outcome = _outcome(reply)
            saga.note(f"get saga: {reply.status} {outcome}")
            if outcome is not Outcome.IN_PROGRESS:
                # An unknown outcome may not be an end: the repeat of the request decides.
                return await _sleep(saga, backoff.next())
            wait = backoff.next(reply.retry_after)


def _outcome(reply: Reply) -> Outcome:
    if reply.status != 200:
        return Outcome.UNKNOWN
    try:
        return decode_view(reply.body, SagaView).outcome
    except WireError:
        return Outcome.UNKNOWN


def _cannot(saga: Saga, reply: Reply) -> None:
    """The stage cannot compensate. An executed saga keeps its order; any other one is released."""
    problem = decode_problem(reply.body)
    stands = (problem.stands if problem is not None else None) or ()
    if problem is None or problem.outcome is not Outcome.EXECUTED:
        saga.release()
    saga.fail_to_compensate(_reason(reply), stands)


def _reason(reply: Reply) -> str:
    problem = decode_problem(reply.body)
    text = (problem.detail or problem.title) if problem is not None else ""
    return f"answered {reply.status}: {text}" if text else f"answered {reply.status}"


def _left(saga: Saga) -> float:
    return saga.ends_at - asyncio.get_running_loop().time()


async def _sleep(saga: Saga, seconds: float) -> None:
    """Sleep for `seconds`, or until the budget is gone."""
    await asyncio.sleep(min(seconds, max(0.0, _left(saga))))
