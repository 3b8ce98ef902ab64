"""The stage as the worker of an activity of Step Functions, whose tasks a double hands out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestServer

import stage.store.postgres.store  # noqa: F401 - an import within the loop would read folders
from stage.bootstrap import build_app
from stage.bootstrap.activity import working
from stage.config import Config
from stage.demo.payment import payment
from stage.inbound import activity
from stage.inbound.activity import NotHeard, Task
from stage.inbound.aiohttp import SERVICE
from stage.inbound.newest_tasks import NewestTasks
from tests.scenario.chain import HOST, ORDER, Chain, running_chain

UNTIL_SECONDS_MAX = 30.0


class Activity:
    """inbound.activity.Tasks: it hands out what a test asks for, and remembers the ends."""

    def __init__(self, beside: Activity | None = None) -> None:
        """The same activity as one `beside` it, whose tasks another replica takes."""
        self.waiting: asyncio.Queue[Task] = asyncio.Queue()
        self.ends: dict[str, asyncio.Future[tuple[str, dict[str, Any]]]]
        self.ends = {} if beside is None else beside.ends
        self.over: set[str] = set() if beside is None else beside.over
        """Tokens that have timed out."""
        self.beats = 0
        self.deaf = 0
        """How many of the next ends are lost on their way."""
        self.mute = False
        """Whether the answer to the next end is lost on its way back."""
        self.taken = 0
        self.refused = 0
        """How often a token counted no more."""

    async def next(self) -> Task | None:
        """See `Tasks`."""
        task = await self.waiting.get()
        self.taken += 1
        return task

    async def beat(self, token: str) -> bool:
        """See `Tasks`."""
        self.beats += 1
        return self._counts(token)

    async def succeed(self, token: str, output: str) -> bool:
        """See `Tasks`."""
        return self._end(token, "", output)

    async def fail(self, token: str, error: str, cause: str) -> bool:
        """See `Tasks`."""
        return self._end(token, error, cause)

    def _counts(self, token: str) -> bool:
        self.refused += token in self.over
        return token not in self.over

    def _end(self, token: str, error: str, text: str) -> bool:
        if not self._counts(token):
            return False
        if self.deaf:
            self.deaf -= 1
            raise NotHeard("the network is away")
        word = msgspec.json.decode(text) if text.startswith("{") else {"cause": text}
        self.ends[token].set_result((error, word))
        if self.mute:
            self.mute = False
            self.over.add(token)
            raise OSError("the connection was lost")
        return True

    def give(self, token: str, given: str) -> asyncio.Future[tuple[str, dict[str, Any]]]:
        """Hand out a task with this input; how it ends."""
        self.ends[token] = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait(Task(token=token, given=given))
        return self.ends[token]

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds that no event announces."""
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            while not true():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)

    async def task(self, token: str, **given: Any) -> tuple[str, dict[str, Any]]:
        """Hand out a task: the name of its error, empty for success, and what was said."""
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            return await self.give(token, msgspec.json.encode(given).decode())


World = tuple[Chain, Activity]
Replicas = tuple[Chain, Activity, Activity]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(activity, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(activity, "AGAIN_SECONDS", 0.05)
    tasks = Activity()
    async with running_chain(tmp_path) as chain:
        assert chain.app is not None
        async with working(chain.app[SERVICE], tasks, 10):
            yield chain, tasks


@pytest.fixture
async def replicas(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replicas]:
    """Two replicas of payment on one database, and the tasks that each of them takes."""
    monkeypatch.setattr(activity, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(activity, "AGAIN_SECONDS", 0.05)
    async with running_chain(tmp_path, database=postgres_url) as chain:
        config = Config(
            service_name="payment",
            auth="none",
            database=postgres_url,
            upstreams={"order": chain.order},
            downstreams={"shipping": chain.shipping},
            externals={"psp": chain.psp},
        )
        assert chain.app is not None
        app = build_app(payment, config)
        first = Activity()
        second = Activity(beside=first)
        async with (
            TestServer(app, host=HOST),
            working(chain.app[SERVICE], first, 10),
            working(app[SERVICE], second, 10),
        ):
            yield chain, first, second


async def until_begun(chain: Chain, saga_id: str) -> None:
    """Return when a saga is there: a task that timed out before began nothing."""
    async with asyncio.timeout(UNTIL_SECONDS_MAX):
        while await chain.get(f"{chain.stage}/sagas/{saga_id}") is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nobody announces the first of it


def newest_of(chain: Chain) -> NewestTasks:
    """The newest tasks, as all replicas know them."""
    assert chain.app is not None
    newest = chain.app[SERVICE].newest_tasks
    assert newest is not None
    return newest


async def test_a_task_succeeds_with_what_the_saga_added(world: World) -> None:
    """The output is the answer of the stage."""
    chain, tasks = world
    error, answer = await tasks.task("t-1", saga_id="s-1", data=ORDER)
    assert ("", "executed") == (error, answer["outcome"])
    assert "charge_id" in answer["data"]["payment"]
    assert (1, 1) == await chain.charges()


async def test_a_task_is_kept_alive_while_its_saga_runs(world: World) -> None:
    """It beats until the bank has answered."""
    chain, tasks = world
    await chain.script(chain.psp, script="hang", times=1)
    error, _ = await tasks.task("t-1", saga_id="s-1", data=ORDER)
    assert "" == error
    assert tasks.beats > 3


async def test_a_refused_saga_fails_its_task_by_name(world: World) -> None:
    """So a state machine can catch it."""
    chain, tasks = world
    await chain.script(chain.psp, script="refuse")
    error, problem = await tasks.task("t-1", saga_id="s-1", data=ORDER)
    assert activity.COMPENSATED == error, problem


async def test_an_input_that_is_no_saga_fails_its_task(world: World) -> None:
    """Nothing was executed, and a repeat would change nothing."""
    _, tasks = world
    inputs: list[dict[str, Any]] = [{"data": ORDER}, {"saga_id": "a/b", "data": ORDER}]
    for number, given in enumerate(inputs):
        error, _ = await tasks.task(f"t-{number}", **given)
        assert activity.NOT_EXECUTED == error
    deep = '{"saga_id":"s-1","data":' + "[" * 100_000 + "]" * 100_000 + "}"
    for number, text in enumerate((deep, '{"saga_id":"\ud800"}')):
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            error, _ = await tasks.give(f"u-{number}", text)
        assert activity.NOT_EXECUTED == error


async def test_a_second_task_of_a_saga_gets_its_answer(world: World) -> None:
    """A state machine that repeats a task repeats no charge."""
    chain, tasks = world
    first = await tasks.task("t-1", saga_id="s-1", data=ORDER)
    assert first == await tasks.task("t-2", saga_id="s-1", data=ORDER)
    assert (1, 1) == await chain.charges()


async def test_a_task_compensates_a_saga(world: World) -> None:
    """One that ran, and one that never came."""
    chain, tasks = world
    await tasks.task("t-1", saga_id="s-1", data=ORDER)
    error, answer = await tasks.task("t-2", saga_id="s-1", compensate="no parcel")
    assert ("", "compensated") == (error, answer["outcome"])
    assert (1, 0) == await chain.charges()
    error, _ = await tasks.task("t-3", saga_id="s-2", compensate="no parcel")
    assert "" == error


async def test_a_task_to_compensate_says_when_its_saga_was_sent(world: World) -> None:
    """A saga that was sent before the database was made is not said to be gone."""
    chain, tasks = world
    asked = {"saga_id": "s-1", "compensate": "no parcel", "first_sent_at": "2020-01-01T00:00:00Z"}
    end = tasks.give("t-1", msgspec.json.encode(asked).decode())
    await tasks.until(lambda: tasks.beats > 2 or end.done())
    assert not end.done(), end.result()
    assert 200 == (await chain.send("s-1"))[0], "no tombstone was written"
    error, _ = await tasks.task(
        "t-2", saga_id="s-2", compensate="no", first_sent_at="2100-01-01T00:00:00Z"
    )
    assert "" == error
    error, word = await tasks.task("t-3", saga_id="s-3", compensate="no", first_sent_at="then")
    assert activity.FAILED_TO_COMPENSATE == error
    assert "RFC 3339" in word["cause"]


@pytest.mark.parametrize(
    "reason",
    ["x" * 30_000, None, "", {"Error": "States.Timeout"}, 7, "\u0007\u2028"],
    ids=["long", "null", "empty", "an error", "a number", "odd"],
)
async def test_no_reason_keeps_a_saga_from_being_compensated(world: World, reason: Any) -> None:
    """The cause of an error at Step Functions has up to 32,768 characters."""
    chain, tasks = world
    await tasks.task("t-1", saga_id="s-1", data=ORDER)
    error, answer = await tasks.task("t-2", saga_id="s-1", compensate=reason)
    assert ("", "compensated") == (error, answer["outcome"])
    assert (1, 0) == await chain.charges()


@pytest.mark.parametrize(
    "reason, ends",
    [("[" * 900 + "]" * 900, ("", 0)), ("[" * 30_000, (activity.FAILED_TO_COMPENSATE, 1)),
     ('"\\ud800"', (activity.FAILED_TO_COMPENSATE, 1))],
    ids=["deep", "too deep", "half a character"],
)  # fmt: skip
async def test_an_odd_reason_is_no_word_on_the_saga(
    world: World, reason: str, ends: tuple[str, int]
) -> None:
    """It is shown as it came, or the task says that the saga may stand."""
    chain, tasks = world
    await tasks.task("t-1", saga_id="s-1", data=ORDER)
    given = f'{{"saga_id":"s-1","compensate":{reason}}}'
    async with asyncio.timeout(UNTIL_SECONDS_MAX):
        error, _ = await tasks.give("t-2", given)
    _, standing = await chain.charges()
    assert ends == (error, standing)


async def test_a_saga_of_another_caller_is_not_said_to_be_gone(world: World) -> None:
    """The stage refuses to compensate it: 403, of which `not_executed` is no word on the saga.

    It would refuse it again, so a person has to look, and the other stages are not kept waiting.
    """
    chain, tasks = world
    assert 200 == (await chain.send("s-1"))[0]
    error, _ = await tasks.task("t-1", saga_id="s-1", compensate="no parcel")
    assert activity.FAILED_TO_COMPENSATE == error
    assert (1, 1) == await chain.charges()


@pytest.mark.parametrize(
    "given, wrong",
    [
        ('{"saga_id":"a/b","compensate":"no parcel"}', activity.FAILED_TO_COMPENSATE),
        ('{"compensate":"no parcel"}', activity.FAILED_TO_COMPENSATE),
        ('{"saga_id":7,"compensate":"no parcel"', activity.FAILED_TO_COMPENSATE),
        ('"s-1"', activity.UNKNOWN),
    ],
)
async def test_an_input_to_compensate_that_is_not_read_is_no_not_executed(
    world: World, given: str, wrong: str
) -> None:
    """A state machine would go on as if nothing stood."""
    _, tasks = world
    async with asyncio.timeout(UNTIL_SECONDS_MAX):
        error, _ = await tasks.give("t-1", given)
    assert wrong == error


async def test_a_saga_whose_task_timed_out_is_compensated(world: World) -> None:
    """Nobody waits for it any more: found by a beat while it runs."""
    chain, tasks = world
    await chain.script(chain.psp, script="hang", times=1)
    _ = tasks.give("t-1", msgspec.json.encode({"saga_id": "s-1", "data": ORDER}).decode())
    await until_begun(chain, "s-1")
    tasks.over.add("t-1")
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    _, standing = await chain.charges()
    assert 0 == standing


async def test_an_end_that_is_lost_on_its_way_is_said_again(world: World) -> None:
    """The saga is done, and stays so."""
    chain, tasks = world
    tasks.deaf = 2
    error, _ = await tasks.task("t-1", saga_id="s-1", data=ORDER)
    assert "" == error
    assert 0 == tasks.deaf
    assert (1, 1) == await chain.charges()


async def test_an_end_that_may_have_been_heard_is_not_taken_back(world: World) -> None:
    """A token counts no more once its end was heard, which then looks like a time-out.

    The state machine has gone on, so the charge has to stand.
    """
    chain, tasks = world
    tasks.mute = True
    error, _ = await tasks.task("t-1", saga_id="s-1", data=ORDER)
    assert "" == error
    await tasks.until(lambda: tasks.refused > 0)
    await tasks.task("t-2", saga_id="s-2", data=ORDER)
    assert (2, 2) == await chain.charges()


async def test_a_repeated_task_keeps_its_saga_when_the_first_one_times_out(world: World) -> None:
    """The state machine waits for the second one, which succeeds."""
    chain, tasks = world
    await chain.script(chain.psp, script="hang", times=1)
    given = msgspec.json.encode({"saga_id": "s-1", "data": ORDER}).decode()
    _ = tasks.give("t-1", given)
    second = tasks.give("t-2", given)
    await tasks.until(lambda: tasks.taken == 2)
    tasks.over.add("t-1")
    async with asyncio.timeout(UNTIL_SECONDS_MAX):
        error, _ = await second
    assert "" == error
    await tasks.until(lambda: tasks.refused > 0)
    await tasks.task("t-3", saga_id="s-2", data=ORDER)
    _, standing = await chain.charges()
    assert 2 == standing


async def test_an_answer_too_large_for_step_functions_is_taken_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state machine could never hear of it; it hears why, and nothing stands."""
    chain, tasks = world
    monkeypatch.setattr(activity, "OUTPUT_BYTES_MAX", 10)
    error, word = await tasks.task("t-1", saga_id="s-1", data=ORDER)
    assert activity.COMPENSATED == error
    assert "hand on references" in word["cause"]
    assert (1, 0) == await chain.charges()


async def test_a_repeat_at_another_replica_keeps_its_saga(replicas: Replicas) -> None:
    """Its success was heard before the replica of the first task found that this had timed out.

    The state machine has gone on, so the charge has to stand.
    """
    chain, first, second = replicas
    first.deaf = 1_000_000  # the first task times out: what its replica says is lost on its way
    given = msgspec.json.encode({"saga_id": "s-1", "data": ORDER}).decode()
    _ = first.give("t-1", given)
    await chain.until_charged()
    error, _ = await second.task("t-2", saga_id="s-1", data=ORDER)
    assert "" == error

    first.over.add("t-1")
    await first.until(lambda: first.refused > 0)
    first.deaf = 0
    await first.task("t-3", saga_id="s-2", data=ORDER)
    await second.task("t-4", saga_id="s-3", data=ORDER)
    assert "completed" == (await chain.view("s-1"))["state"]
    assert (3, 3) == await chain.charges()


async def test_a_repeat_at_another_replica_is_compensated_when_it_times_out_too(
    replicas: Replicas,
) -> None:
    """By the replica that has it; the one of the first task leaves the saga alone."""
    chain, first, second = replicas
    await chain.script(chain.psp, script="hang", times=1)
    given = msgspec.json.encode({"saga_id": "s-1", "data": ORDER}).decode()
    _ = first.give("t-1", given)
    await until_begun(chain, "s-1")
    beaten = second.beats
    _ = second.give("t-2", given)
    await second.until(lambda: second.beats > beaten + 1)
    first.over.add("t-1")
    await first.until(lambda: first.refused > 0)
    assert "active" == (await chain.view("s-1"))["state"]
    first.over.add("t-2")
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    _, standing = await chain.charges()
    assert 0 == standing


async def test_a_repeat_hears_that_the_task_before_it_was_given_up(world: World) -> None:
    """That its replica died behind these words changes nothing: the saga is compensated."""
    chain, tasks = world
    newest = newest_of(chain)
    await newest.take("s-1", "t-1")
    assert await newest.give_up("s-1", "t-1")
    error, _ = await tasks.task("t-2", saga_id="s-1", data=ORDER)
    assert activity.NOT_EXECUTED == error
    assert (0, 0) == await chain.charges()


async def test_a_task_that_comes_behind_its_repeat_is_left_alone(world: World) -> None:
    """The answer to a poll was late, the task has timed out: the other one stays the newest."""
    chain, tasks = world
    newest = newest_of(chain)
    await newest.take("s-1", "t-2")
    tasks.over.add("t-1")
    _ = tasks.give("t-1", msgspec.json.encode({"saga_id": "s-1", "data": ORDER}).decode())
    await tasks.until(lambda: tasks.refused > 0)
    await tasks.task("t-3", saga_id="s-2", data=ORDER)
    assert await newest.give_up("s-1", "t-2")
    assert (1, 1) == await chain.charges()


async def test_a_task_that_comes_behind_the_success_of_its_repeat_takes_nothing_back(
    world: World,
) -> None:
    """No row says that a repeat was there: the state machine has gone on, and the charge stands."""
    chain, tasks = world
    error, _ = await tasks.task("t-2", saga_id="s-1", data=ORDER)
    assert "" == error
    tasks.over.add("t-1")
    _ = tasks.give("t-1", msgspec.json.encode({"saga_id": "s-1", "data": ORDER}).decode())
    await tasks.until(lambda: tasks.refused > 0)
    await tasks.task("t-3", saga_id="s-2", data=ORDER)
    assert "completed" == (await chain.view("s-1"))["state"]
    assert (2, 2) == await chain.charges()
    assert not await newest_of(chain).give_up("s-1", "t-1")


async def test_a_task_whose_replica_was_killed_is_no_repeat_for_ever(world: World) -> None:
    """The next one takes its place, and leaves nothing behind."""
    chain, tasks = world
    newest = newest_of(chain)
    await newest.take("s-1", "t-1")
    error, _ = await tasks.task("t-2", saga_id="s-1", data=ORDER)
    assert "" == error
    await tasks.task("t-3", saga_id="s-2", data=ORDER)
    for token in ("t-1", "t-2"):
        assert not await newest.give_up("s-1", token)
