"""The laws that a downstream keeps so that nobody loses money (protocol 3.3, 3.4, 3.6).

Each law asks under ids of its own, and raises `Broken` with what was answered and what that costs.
A law sees answers and no effects: whether an effect was made once is in the neighbour's own books.
"""

from __future__ import annotations

import asyncio
import string
import time
from collections.abc import Awaitable, Callable
from typing import Any

from stage.neighbours.conformance import caller as caller_module
from stage.neighbours.conformance.caller import Caller, Reply
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError
from stage.wire.replies import (
    CompensateReplyKind,
    ReplyKind,
    decode_executed,
    kind_of_compensate_reply,
    kind_of_saga_view,
    own_word,
)

HANG_UP_SECONDS = 0.02
CLOCK_AHEAD_SECONDS = 3600.0
LATE_WORK_FACTOR = 2.0
"""So many times as long as a yes took, work of a saga that was compensated is waited for."""
ID_CHARS_MAX = DEFAULT_LIMITS.saga_id_chars_max
ID_ALPHABET = f"{string.ascii_letters}{string.digits}._~:-"
OVER = frozenset({ReplyKind.REFUSED, ReplyKind.GONE})


class Broken(Exception):
    """The law does not hold; the text is for the team of the neighbour."""


Law = Callable[[Caller], Awaitable[None]]


async def a_yes_is_understood(caller: Caller) -> None:
    """`{"outcome":"executed"}` with 200, maybe behind a few 202; no member that is not named."""
    await _executed(caller, caller.new_id())


async def a_repeat_gets_the_same_answer(caller: Caller) -> None:
    """Another deadline, another trail, members in another order: it is the same request."""
    saga_id = caller.new_id()
    first = await _executed(caller, saga_id)
    again = await _executed(caller, saga_id, dict(reversed(caller.data.items())))
    if first != again:
        raise Broken(f"a repeat added {again}, the first answer {first}: the work was done twice")


async def a_yes_adds_and_rewrites_nothing(caller: Caller) -> None:
    """`data` holds what was added, and no member that was sent: others wrote that (3.1)."""
    added = await _executed(caller, caller.new_id())
    if sent := sorted(caller.data.keys() & added.keys()):
        raise Broken(f"its answer names {', '.join(sent)}, which it was sent: say what you add")


async def other_data_gets_the_outcome_that_stands(caller: Caller) -> None:
    """422 with `executed`: with `not_executed` a stage leaves standing what was done."""
    saga_id = caller.new_id()
    await _executed(caller, saga_id)
    reply = await caller.start(saga_id, {**caller.data, "conformance": "other data"})
    if reply.status != 422 or own_word(reply.body, saga_id) is not Outcome.EXECUTED:
        raise Broken(f"other data under an id that is done: {reply.shown()}; say 422 `executed`")


async def what_is_compensated_never_runs_again(caller: Caller) -> None:
    """Compensated twice it says the same, and a repeat of the start is 409 or 410."""
    saga_id = caller.new_id()
    await _executed(caller, saga_id)
    await _compensated(caller, saga_id)
    await _compensated(caller, saga_id)
    await _over(caller, saga_id, "a saga that was compensated")


async def a_compensation_may_come_first(caller: Caller) -> None:
    """A tombstone: 200 for a saga never seen, and its start, which comes later, is 410."""
    saga_id = caller.new_id()
    await _compensated(caller, saga_id)
    await _over(caller, saga_id, "a saga whose compensation came first")


async def a_start_that_is_late_never_runs(caller: Caller) -> None:
    """504 where no budget is left. Its sender goes back, so a repeat may not run either."""
    saga_id = caller.new_id()
    reply = await caller.start(saga_id, budget_seconds=0.0)
    if caller.kind(saga_id, reply) is not ReplyKind.TOO_LATE:
        raise Broken(f"a start without budget: {reply.shown()}; say 504 `not_executed`")
    again = await caller.settled(saga_id)
    if caller.kind(saga_id, again) not in {*OVER, ReplyKind.TOO_LATE}:
        raise Broken(f"a repeat of a start that was too late: {again.shown()}; say 410")


async def a_budget_holds_over_a_deadline(caller: Caller) -> None:
    """`Saga-Budget-Ms` alone holds where it is given: a clock may be wrong by minutes."""
    saga_id = caller.new_id()
    reply = await caller.start(saga_id, clock_ahead_seconds=CLOCK_AHEAD_SECONDS)
    if caller.kind(saga_id, reply) is ReplyKind.TOO_LATE:
        raise Broken(
            f"a start with a budget, whose deadline is over by the clock here: {reply.shown()};"
            " go by Saga-Budget-Ms where it is given"
        )
    await _executed(caller, saga_id)


async def twins_are_one(caller: Caller) -> None:
    """Two copies at once, as gateways make them: the work is done once, or one is told 202."""
    saga_id = caller.new_id()
    both = await asyncio.gather(caller.start(saga_id), caller.start(saga_id))
    last = await _executed(caller, saga_id)
    for reply in both:
        match caller.kind(saga_id, reply):
            case ReplyKind.EXECUTED if decode_executed(reply.body, saga_id) != last:
                raise Broken(f"of two copies one got {reply.shown()}, and later {last} was said")
            case ReplyKind.EXECUTED | ReplyKind.ACCEPTED | ReplyKind.NOT_NOW:
                pass
            case ReplyKind.UNKNOWN if not reply.status:
                pass  # its answer was lost on the way
            case _:
                raise Broken(f"of two copies one got {reply.shown()}: say 202 while the other runs")


async def a_caller_that_hung_up_is_answered_later(caller: Caller) -> None:
    """Work belongs to the saga and not to the connection."""
    saga_id = caller.new_id()
    try:
        async with asyncio.timeout(HANG_UP_SECONDS):
            await caller.start(saga_id)
    except TimeoutError:
        pass
    await _executed(caller, saga_id)


async def a_compensation_meets_a_start(caller: Caller) -> None:
    """Both at once. Nothing runs behind the 200 of the other."""
    saga_id = caller.new_id()
    starting = asyncio.ensure_future(caller.start(saga_id))
    await asyncio.sleep(0)
    await _compensated(caller, saga_id)
    await starting
    await _over(caller, saga_id, "a saga that was compensated while it ran")


async def nothing_runs_behind_a_compensation(caller: Caller) -> None:
    """Work that ends behind the 200 has no effect any more, and no answer."""
    began = time.monotonic()
    await _executed(caller, caller.new_id())
    took = time.monotonic() - began
    saga_id = caller.new_id()
    starting = asyncio.ensure_future(caller.start(saga_id))
    await asyncio.sleep(took / 2)
    await _compensated(caller, saga_id)
    await starting
    await asyncio.sleep(caller_module.PAUSE_SECONDS + took * LATE_WORK_FACTOR)
    await _over(caller, saga_id, "a saga whose work ended behind its compensation")
    _check_look(saga_id, await caller.query(saga_id), executed=False)


async def a_no_for_good_stays_one(caller: Caller) -> None:
    """Its sender compensates what stands before: a copy that is accepted later stands alone.

    It is tried by `data` without a member. A neighbour that takes that shows nothing here.
    """
    await _executed(caller, caller.new_id())
    saga_id = caller.new_id()
    reply = await caller.settled(saga_id, {})
    if caller.kind(saga_id, reply) not in {*OVER, ReplyKind.REJECTED}:
        return
    again = await caller.settled(saga_id)
    if caller.kind(saga_id, again) in {ReplyKind.EXECUTED, ReplyKind.ACCEPTED}:
        raise Broken(
            f"a start that was refused with {reply.shown()}, and then with data that is accepted:"
            f" {again.shown()}; write a tombstone with each no, and say 410"
        )


async def each_id_is_a_saga_of_its_own(caller: Caller) -> None:
    """Case counts, and so does each of 128 characters (3.1)."""
    short = caller.new_id()
    long = f"{caller.new_id()}{ID_ALPHABET}".ljust(ID_CHARS_MAX - 1, "~")
    for saga_id, other in ((f"{short}-x", f"{short}-X"), (f"{long}a", f"{long}b")):
        await _executed(caller, saga_id)
        try:
            await _executed(caller, other, {**caller.data, "conformance": "another saga"})
            await _compensated(caller, other)
            await _executed(caller, saga_id)
        except Broken as error:
            raise Broken(f"{other} is another saga than {saga_id}: {error}") from None


async def a_repeat_behind_its_deadline_is_answered(caller: Caller) -> None:
    """Without a budget, as a stage asks behind a crash of its own (3.6): nothing new is started."""
    saga_id = caller.new_id()
    await _executed(caller, saga_id)
    reply = await caller.settled(saga_id, budget_seconds=None)
    if caller.kind(saga_id, reply) is not ReplyKind.EXECUTED:
        raise Broken(
            f"a repeat of what is done, its deadline over: {reply.shown()}; look for the saga"
            " before the deadline, and give the stored answer"
        )


async def a_request_to_compensate_may_say_little_or_all(caller: Caller) -> None:
    """No body at all, or each member that the protocol names."""
    every = {
        "requested_by": caller.name,
        "reason": "conformance",
        "first_sent_at": "2026-11-23T10:28:00.209Z",
    }
    for body in ({}, every):
        saga_id = caller.new_id()
        await _executed(caller, saga_id)
        _check_compensated(saga_id, await caller.compensate(saga_id, body))


async def what_cannot_be_read_is_refused_in_its_own_word(caller: Caller) -> None:
    """A bare 400 may be a gateway's, and costs a request to compensate."""
    reply = await caller.post("/sagas", b'{"saga_id":')
    if reply.status != 400 or own_word(reply.body, "") is not Outcome.NOT_EXECUTED:
        raise Broken(f"half a body: {reply.shown()}; say 400 `not_executed`")


async def a_look_says_the_outcome(caller: Caller) -> None:
    """`GET /sagas/{id}` is asked after a crash of the stage; 405 with `unknown` is enough."""
    saga_id, never = caller.new_id(), caller.new_id()
    await _executed(caller, saga_id)
    _check_look(saga_id, await caller.query(saga_id), executed=True)
    await _compensated(caller, saga_id)
    _check_look(saga_id, await caller.query(saga_id), executed=False)
    _check_look(never, await caller.query(never), executed=False)


LAWS: tuple[Law, ...] = (
    a_yes_is_understood,
    a_repeat_gets_the_same_answer,
    a_yes_adds_and_rewrites_nothing,
    other_data_gets_the_outcome_that_stands,
    what_is_compensated_never_runs_again,
    a_compensation_may_come_first,
    a_start_that_is_late_never_runs,
    a_budget_holds_over_a_deadline,
    twins_are_one,
    a_caller_that_hung_up_is_answered_later,
    a_compensation_meets_a_start,
    nothing_runs_behind_a_compensation,
    a_no_for_good_stays_one,
    each_id_is_a_saga_of_its_own,
    a_repeat_behind_its_deadline_is_answered,
    a_request_to_compensate_may_say_little_or_all,
    what_cannot_be_read_is_refused_in_its_own_word,
    a_look_says_the_outcome,
)


async def _executed(
    caller: Caller, saga_id: str, data: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The additions of the neighbour, once it is done."""
    reply = await caller.settled(saga_id, data)
    kind = caller.kind(saga_id, reply)
    if kind is ReplyKind.ACCEPTED:
        raise Broken(f"it says 202 without an end: {reply.shown()}")
    if kind is not ReplyKind.EXECUTED:
        raise Broken(f"a start that it should accept: {reply.shown()}; say 200 `executed`")
    try:
        return decode_executed(reply.body, saga_id)
    except WireError as error:
        raise Broken(f"a stage does not understand {reply.shown()}: {error.detail}") from None


async def _compensated(caller: Caller, saga_id: str) -> None:
    _check_compensated(saga_id, await caller.compensate(saga_id))


def _check_compensated(saga_id: str, reply: Reply) -> None:
    kind = kind_of_compensate_reply(reply.status, reply.body, saga_id)
    if kind is not CompensateReplyKind.COMPENSATED:
        raise Broken(f"compensate: {reply.shown()}; say 200 `compensated`, or 202 until then")


async def _over(caller: Caller, saga_id: str, which: str) -> None:
    reply = await caller.settled(saga_id)
    if caller.kind(saga_id, reply) not in OVER:
        raise Broken(f"a start of {which}: {reply.shown()}; say 410 `compensated`")


def _check_look(saga_id: str, reply: Reply, *, executed: bool) -> None:
    kind = kind_of_saga_view(reply.status, reply.body, saga_id)
    hidden = reply.status in (405, 501) and kind is ReplyKind.GONE
    if not hidden and kind is not (ReplyKind.EXECUTED if executed else ReplyKind.GONE):
        what = "is done" if executed else "does not stand"
        raise Broken(f"a look at a saga that {what}: {reply.shown()}")
