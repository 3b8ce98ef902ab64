"""The activities of a chain at Temporal: the pauses between the requests to a stage."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.testing import ActivityEnvironment

from stage.orchestrators.temporal import activities
from stage.orchestrators.temporal.activities import (
    ASK_AGAIN_SECONDS,
    ASK_AGAIN_SECONDS_MAX,
    ChainActivities,
)
from stage.orchestrators.temporal.workflow import EXECUTE, ChainAsk, SagaChain, StageAsk
from stage.ports.neighbour import Compensated, Executed, InProgress, NotUnderstood
from stage.ports.observer import TraceContext
from stage.ports.stage import Lost

ASK = StageAsk(saga_id="s-1", stage="payment")


STRANGE = NotUnderstood(reason="answered 404")
AWAY = Lost(reason="answered 503")
LOCKED = Lost(reason="answered 403", denied=True)
GOES_ON = InProgress(retry_after=None)


class Scripted:
    """A stage that answers each request with what is next."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)

        self.asked: list[Any] = []

    async def forward(self, *asked: Any, **__: Any) -> Any:
        self.asked.append(asked)
        return self.replies.pop(0)

    compensate = forward


def chain(*replies: Any) -> ChainActivities:
    return ChainActivities("temporal", cast(Any, Scripted(*replies)), TraceContext)


def at(attempt: int) -> ActivityEnvironment:
    """Temporal, which runs that attempt."""
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, attempt=attempt)
    return environment


@pytest.mark.parametrize(
    "attempt, retry_after, seconds",
    [
        (1, None, None),  # the policy of the workflow, which grows
        (1, 0.0, 1.0),
        (4, 0.0, 8.0),
        (4, 1.0, 8.0),
        (1, 20.0, 20.0),
        (200, 0.0, 60.0),
        (1, 300.0, 60.0),
        (9_000, 5.0, 60.0),
    ],
)
@pytest.mark.parametrize("verb", ["execute", "compensate"])
async def test_no_header_makes_a_pause_shorter(
    verb: str, attempt: int, retry_after: float | None, seconds: float | None
) -> None:
    """A gateway that says `Retry-After: 0` for hours, or for a year, changes little."""
    replies: list[Any] = [Lost(reason="answered 503", retry_after=retry_after)]
    if verb == "compensate":
        replies.append(NotUnderstood(reason="answered 200", retry_after=retry_after))
    for reply in replies:
        with pytest.raises(ApplicationError) as failed:
            await at(attempt).run(getattr(chain(reply), verb), ASK)
        delay = failed.value.next_retry_delay
        assert seconds == (None if delay is None else delay.total_seconds())


async def asked_on(*attempts: tuple[Any, ...]) -> list[bool]:
    """Of each attempt, with what it is answered, whether another one follows.

    As Temporal does, it hands each the details with which the one before was last alive.
    """
    follows, alive = [], [()]
    for number, replies in enumerate(attempts, 1):
        environment = at(number)
        environment.info = replace(environment.info, heartbeat_details=alive[-1])
        environment.on_heartbeat = lambda *details: alive.append(details)
        try:
            await environment.run(chain(*replies).compensate, ASK)
        except ApplicationError as error:
            follows.append(not error.non_retryable)
        else:
            follows.append(False)
    return follows


async def test_one_foreign_answer_behind_an_outage_ends_no_asking() -> None:
    """A stage was away for an hour, and the first answer is that of a gateway."""
    away = [(AWAY,)] * activities.NOT_UNDERSTOOD_ATTEMPTS_MAX
    assert [*(True for _ in away), True, False] == await asked_on(
        *away, (STRANGE,), (Compensated(),)
    )


async def test_foreign_answers_end_the_asking_when_they_are_many_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An outage between them, or a 202, begins the count anew."""
    monkeypatch.setattr(activities, "NOT_UNDERSTOOD_ATTEMPTS_MAX", 3)
    monkeypatch.setattr(activities, "ASK_AGAIN_SECONDS", 0.0)
    twice = [(STRANGE,), (STRANGE,)]
    assert [True, True, False] == await asked_on(*twice, (STRANGE,))
    assert [True] * 5 + [False] == await asked_on(*twice, (AWAY,), *twice, (STRANGE,))
    assert [True] * 4 + [False] == await asked_on(*twice, (GOES_ON, STRANGE), *twice)


async def test_a_locked_door_ends_the_asking_when_patience_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stages before it are not to wait for ever: an outage neither counts nor helps it."""
    monkeypatch.setattr(activities, "REFUSED_ATTEMPTS_MAX", 4)
    monkeypatch.setattr(activities, "ASK_AGAIN_SECONDS", 0.0)
    twice = [(LOCKED,), (LOCKED,)]
    assert [True, True, True, False] == await asked_on(*twice, *twice)
    assert [True] * 5 + [False] == await asked_on(*twice, (AWAY,), (AWAY,), *twice)
    assert [True] * 5 + [False] == await asked_on(*twice, (GOES_ON, LOCKED), *twice, (LOCKED,))
    assert [True, True, True, False] == await asked_on((STRANGE,), (LOCKED,), (STRANGE,), (LOCKED,))
    assert [True, True, False] == await asked_on(*twice, (Compensated(),))


async def test_a_count_of_an_earlier_release_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had one of them."""
    monkeypatch.setattr(activities, "NOT_UNDERSTOOD_ATTEMPTS_MAX", 3)
    environment = at(3)
    environment.info = replace(environment.info, heartbeat_details=(2,))
    with pytest.raises(ApplicationError) as failed:
        await environment.run(chain(STRANGE).compensate, ASK)
    assert failed.value.non_retryable


async def test_a_request_to_compensate_says_when_the_saga_was_sent() -> None:
    """A stage whose database was made anew since then does not say that nothing stands."""
    stage = Scripted(Compensated(), Compensated())
    compensate = ChainActivities("temporal", cast(Any, stage), TraceContext).compensate
    await at(1).run(compensate, replace(ASK, first_sent_at=12.5))
    await at(1).run(compensate, ASK)
    assert [12.5, None] == [request.first_sent_at for _, _, request in stage.asked]


@pytest.mark.parametrize(
    "ask, sent_at",
    [
        (ChainAsk("s-1", ["payment"], {}), 1_000.0),
        (ChainAsk("s-1", ["payment"], {}, forward=False), None),
        (ChainAsk("s-1", ["payment"], {}, forward=False, first_sent_at=900.0), 900.0),
    ],
    ids=["forward", "back only", "back only, by a caller who knows"],
)
async def test_a_workflow_knows_when_its_saga_was_sent(
    ask: ChainAsk, sent_at: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that only compensates began later than the saga was sent, and must not say that."""
    asked: list[StageAsk] = []

    async def execute_activity(name: str, given: StageAsk, **_: Any) -> dict[str, Any]:
        asked.append(given)
        if name == EXECUTE:
            raise ActivityError(
                "no",
                scheduled_event_id=1,
                started_event_id=2,
                identity="",
                activity_type=name,
                activity_id="1",
                retry_state=None,
            )
        return {}

    began = datetime.fromtimestamp(1_000.0, UTC)
    monkeypatch.setattr(workflow, "execute_activity", execute_activity)
    monkeypatch.setattr(workflow, "info", lambda: SimpleNamespace(workflow_start_time=began))
    monkeypatch.setattr(workflow, "wait_condition", lambda _: asyncio.sleep(0.01))
    with pytest.raises(ApplicationError):
        await SagaChain(ask).run(ask)
    assert sent_at == asked[-1].first_sent_at


def test_a_stage_that_works_is_asked_again_after_a_pause() -> None:
    """Also where the 202 asks for none, or for one of a day."""
    shortest, longest = ASK_AGAIN_SECONDS, ASK_AGAIN_SECONDS_MAX
    pauses = [activities.pause_seconds(each) for each in (None, 0.0, 5.0, 86_400.0)]
    assert [shortest, shortest, 5.0, longest] == pauses


async def test_a_stage_rewrites_no_data() -> None:
    """Protocol 3.1: the first to write a member holds, also against an echo of all of them."""
    data = {"amount": 9, "order": {"id": "forged"}, "payment": {"charge_id": "c-1"}}
    ask = replace(ASK, data={"amount": 5, "order": {"id": "o-1"}})
    reply = Executed(data=msgspec.Raw(msgspec.json.encode(data)))
    assert {"payment": {"charge_id": "c-1"}} == await at(1).run(chain(reply).execute, ask)
