"""One world in which the steps of a stage are run and undone, with fakes of its external APIs.

The functions and the SQL are the real ones. A saga of another order stands beside the one that is
tried.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, Final

import msgspec

from stage.authoring.declaration import StageDeclaration
from stage.authoring.participant import StageParticipant
from stage.core.commands import AttemptKind
from stage.core.ids import Direction, compensation_key, idempotency_key
from stage.core.order import backward
from stage.core.steps import Step, StepKind
from stage.core.verbs import Approval
from stage.ports.stage import Answer, Conversation, Failed, Finished, Foreign, RunView, Send, Turn
from stage.ports.store import Row, Unit
from stage.store.memory import MemoryStore
from stage.testing.effects import FakeApi
from stage.testing.fakes import SAGA_ID, data_of

OTHER_ID: Final = "s-2"
"""The saga of another order, which has run before."""
TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
_NOTHING: Final = msgspec.Raw(b"null")
_YES: Final = msgspec.Raw(msgspec.json.encode(Approval(by="a person", reason="a trial", at=0.0)))
_ID: Final = re.compile(r"(?:^|_)id$")


def _another_order(stage: StageDeclaration[Any, Any], data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data of another order: with other ids, where the stage accepts those."""
    changed = {
        name: f"{value}-2" if isinstance(value, str) and _ID.search(name) else value
        for name, value in data.items()
    }
    try:
        stage.accepts.from_data(changed)
    except Exception:  # what a type of the author's raises
        return data
    return changed


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """All that a trial is given."""

    stage: StageDeclaration[Any, Any]
    participant: StageParticipant[Any, Any]
    data: Mapping[str, Any]
    other: Mapping[str, Any]
    apis: Mapping[str, type[FakeApi]]
    stands: str
    elsewhere: Callable[[], object] | None


def given(
    stage: StageDeclaration[Any, Any],
    data: object,
    *,
    apis: Mapping[str, type[FakeApi]] | None,
    stands: str = "",
    elsewhere: Callable[[], object] | None = None,
    other: object = None,
) -> Given:
    """The world of a trial, as the arguments of `assert_compensates` say it."""
    context = data_of(data)
    return Given(
        stage=stage,
        participant=stage.bind(),
        data=context,
        other=_another_order(stage, context) if other is None else data_of(other),
        apis=apis or {},
        stands=stands,
        elsewhere=elsewhere,
    )


class Run(msgspec.Struct, kw_only=True):
    """One saga of a trial."""

    id: str
    data: Mapping[str, Any]
    results: dict[str, msgspec.Raw] = {}
    lost: str = ""
    """The step whose answer is lost: where its API takes it on, its end is never known."""


class Gateway(msgspec.Struct, kw_only=True):
    """Answers by one page in place of an API, from one request of a function on.

    The requests before that one reach the API. All behind it get the page too: a function may let
    a look go unanswered and ask the API itself for its word.
    """

    page: Answer
    first: int
    met: str = ""
    """The request of that number; empty where the function made fewer."""

    def answer(self, send: Send) -> Answer | None:
        """The page, or None for a request that reaches the API."""
        if send.ordinal < self.first:
            return None
        if send.ordinal == self.first:
            self.met = f"{send.request.method} {send.request.path}"
        return self.page


class Trial:
    """One world, in which some steps run and are undone."""

    def __init__(self, given: Given) -> None:
        folders = () if given.stage.migrations is None else (given.stage.migrations,)
        self._given = given
        self._store = MemoryStore(migrations=folders)
        self._participant = given.participant
        peers = {step.peer for step in self._participant.plan.steps if step.kind is StepKind.CALL}
        self._apis = {peer: given.apis.get(peer, FakeApi)() for peer in peers}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Run]:
        """Its database is there while the context lasts; the saga that is tried."""
        await self._store.open()
        try:
            yield Run(id=SAGA_ID, data=self._given.data)
        finally:
            self._store.discard()

    async def compensates(self, steps: tuple[Step, ...], *, lost: bool) -> None:
        """Run the steps, undo them, and compare. `lost` drops the answer of the last one."""
        __tracebackhide__ = True
        other = Run(id=OTHER_ID, data=self._given.other)
        async with self.opened() as run:
            with self._noting_the_other():
                await self.forward(steps, other)
                before = await self._world()
                for step in steps:
                    await self._execute(step, run, lost=lost and step is steps[-1])
            await self._undo(steps, run, lost=lost)
            after = await self._world()
            self._compare(steps, before, after, lost=lost)
            await self._undo(steps, other)

    async def completes(self) -> None:
        """Run all steps and ask for the output, twice; then take back what can be."""
        __tracebackhide__ = True
        plan = self._participant.plan
        async with self.opened() as run:
            await self.forward(plan.steps, run)
            view = self._view(AttemptKind.EXECUTE, plan.steps[-1], run)
            first, second = (self._participant.output(view) for _ in range(2))
            if first != second:
                shown = [bytes(each or b"nothing").decode() for each in (first, second)]
                raise AssertionError(
                    f"the output is {shown[0]}, and when it is asked again {shown[1]}: neighbours"
                    " and repeats would be answered differently. Return what the saga and its"
                    " results say"
                )
            await self._undo(plan.steps, run)

    async def forward(self, steps: Iterable[Step], run: Run) -> None:
        """Run the steps of one saga."""
        __tracebackhide__ = True
        for step in steps:
            await self._run(AttemptKind.EXECUTE, step, run)

    @contextmanager
    def _noting_the_other(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            error.add_note(
                f"a saga of another order runs before, with {dict(self._given.other)}: where both"
                " cannot stand side by side, give other=, the data of another order"
            )
            raise

    async def _execute(self, step: Step, run: Run, *, lost: bool) -> None:
        """Run a step, and its probe before and behind it."""
        __tracebackhide__ = True
        name = step.name
        if step.probed:
            found = await self._run(AttemptKind.PROBE, step, run)
            if found != _NOTHING:
                raise AssertionError(
                    f"the probe of {name} finds {bytes(found).decode()} before {name} has run for"
                    " this saga, so that a request which never arrived is taken for done: look it"
                    " up by saga.key"
                )
        run.lost = name if lost else ""
        await self._run(AttemptKind.EXECUTE, step, run)
        if step.probed and not self._is_pending(step, run):
            found = await self._run(AttemptKind.PROBE, step, run)
            if found == _NOTHING:
                raise AssertionError(
                    f"the probe of {name} does not find what {name} has made, so that it is made"
                    " again after a doubt: look it up by saga.key"
                )
        elif lost and step.kind is StepKind.EFFECT and step.idempotent:
            await self._run(AttemptKind.EXECUTE, step, run)  # so a doubt is settled without a probe

    async def _undo(self, steps: tuple[Step, ...], run: Run, *, lost: bool = False) -> None:
        if lost:
            del run.results[steps[-1].name]
        for step in backward(self._participant.plan):
            if step in steps and step.compensatable:
                await self._run(AttemptKind.COMPENSATE, step, run)
                unkeyed = step.kind is StepKind.EFFECT or not step.idempotent
                if lost and step is steps[-1] and unkeyed:
                    await self._run(AttemptKind.COMPENSATE, step, run, again=True)

    def _compare(
        self,
        steps: tuple[Step, ...],
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        *,
        lost: bool,
    ) -> None:
        __tracebackhide__ = True
        ran = ", ".join(step.name for step in steps)
        how = f"the answer of {steps[-1].name} was lost" if lost else "the step behind it failed"
        for where, rows in after.items():
            had = before[where]
            left = f"{where} has {_without(rows, had)}, and had {_without(had, rows)}"
            if OTHER_ID in left:
                left += f". Saga {OTHER_ID} is that of another order: leave it as it was"
            if had != rows:
                raise AssertionError(f"after {ran} ran, and {how}: {left}")

    async def _run(
        self, kind: AttemptKind, step: Step, run: Run, *, again: bool = False
    ) -> msgspec.Raw:
        """Run one function of a step; `again` says that the answer of its compensation was lost."""
        __tracebackhide__ = True
        if step.kind is StepKind.TRANSACTION:
            view = self._view(kind, step, run)
            function = self._participant.run_transaction

            async def work(unit: Unit) -> msgspec.Raw:
                return await unit.attempt(partial(function, unit.tx, kind, step.name, view))

            result = await self._store.transact(work)
        elif step.kind is StepKind.APPROVAL:
            shown = self._participant.shown(step.name, self._view(kind, step, run))
            result = _YES if shown is not None else _NOTHING
        else:
            result = await self._converse(kind, step, run, again)
        if kind is AttemptKind.EXECUTE:
            run.results[step.name] = result
        return result

    async def _converse(self, kind: AttemptKind, step: Step, run: Run, again: bool) -> msgspec.Raw:
        __tracebackhide__ = True
        turn = await self.end_of(kind, step, run)
        if kind is AttemptKind.EXECUTE and self._is_pending(step, run):
            if run.lost == step.name:
                return _NOTHING
            turn = await self._landed(step, run, turn)
        if isinstance(turn, Failed):
            what = NAMED[kind].format(step.name)
            when = ", made again because its own answer was lost," if again else ""
            raise AssertionError(f"{what}{when} is {turn.kind}: {turn.reason}")
        assert isinstance(turn, Finished)
        return turn.result

    def _is_pending(self, step: Step, run: Run) -> bool:
        """Whether its API has taken the call on, and not ended it."""
        key = self._view(AttemptKind.EXECUTE, step, run).key
        return step.kind is StepKind.CALL and key in self._apis[step.peer].pending

    async def _landed(self, step: Step, run: Run, turn: Turn) -> Turn:
        """The end of such a call, as its probe finds it; the turn itself where it has none."""
        if not step.probed:
            return turn
        self._apis[step.peer].land(self._view(AttemptKind.EXECUTE, step, run).key)
        return await self.end_of(AttemptKind.PROBE, step, run)

    async def end_of(
        self, kind: AttemptKind, step: Step, run: Run, gateway: Gateway | None = None
    ) -> Turn:
        """How a function ends that asks an API: its fake answers, or a gateway in front of it."""
        view = self._view(kind, step, run)
        conversation = self._participant.converse(kind, step.name, view)
        turn: Turn = conversation.begin()
        if isinstance(turn, Foreign):
            conversation = self._participant.converse(kind, step.name, view)
            turn = await conversation.proceed()
        elif isinstance(turn, Send):
            again = self._participant.converse(kind, step.name, view)
            _check_repeat(NAMED[kind].format(step.name), turn, again)
        while isinstance(turn, Send):
            key = view.key if turn.ordinal == 1 else f"{view.key}:{turn.ordinal}"
            api = self._apis[step.peer]
            page = None if gateway is None else gateway.answer(turn)
            turn = await conversation.resume(page or api.answer(turn.request, key))
            if api.slips:
                raise AssertionError(f"{NAMED[kind].format(step.name)}: {api.slips[0]}")
        return turn

    def _view(self, kind: AttemptKind, step: Step, run: Run) -> RunView:
        stage = self._participant.plan.stage
        key = idempotency_key(run.id, stage, step.name, Direction.EXECUTE)
        return RunView(
            id=run.id,
            stage=stage,
            data=run.data,
            trail=(),
            results=dict(run.results),
            keys={},
            deadline=None,
            budget=None,
            key=compensation_key(key) if kind is AttemptKind.COMPENSATE else key,
            attempt=1,
            now=0.0,
        )

    async def _world(self) -> dict[str, Any]:
        """The rows of the tables, and the effects that stand at each API."""
        stands, elsewhere = self._given.stands, self._given.elsewhere

        async def rows(unit: Unit) -> dict[str, list[Row]]:
            if stands:
                return {"the database": _ordered(await unit.tx.fetchall(stands))}
            names = [str(name) for (name,) in await unit.tx.fetchall(TABLES)]
            return {
                f"table {name}": _ordered(await unit.tx.fetchall(f'SELECT * FROM "{name}"'))  # noqa: S608 - of its own schema
                for name in names
            }

        world: dict[str, Any] = dict(await self._store.transact(rows))
        if elsewhere is not None:
            world["elsewhere"] = deepcopy(elsewhere())
        return world | {
            f"API {name}": api.effects | dict.fromkeys(api.pending, "pending")
            for name, api in self._apis.items()
        }


NAMED: Final[Mapping[AttemptKind, str]] = {
    AttemptKind.EXECUTE: "step {}",
    AttemptKind.PROBE: "the probe of {}",
    AttemptKind.COMPENSATE: "the compensation of {}",
}


def _check_repeat(what: str, sent: Send, conversation: Conversation) -> None:
    """The first request of another run has to go to the same place."""
    turn = conversation.begin()
    conversation.close()
    if isinstance(turn, Send):
        first, second = (f"{each.method} {each.path}" for each in (sent.request, turn.request))
        if first != second:
            raise AssertionError(
                f"{what} asks for {first}, and for {second} when it is run again: a saga in doubt"
                " would be parked. Build requests from the saga alone"
            )


def _ordered(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=repr)  # a NULL has no order


def _without(these: Any, those: Any) -> Any:
    """The part of these that is not in those, where both are groups."""
    if isinstance(these, Mapping) and isinstance(those, Mapping):
        missing = object()
        return {key: value for key, value in these.items() if those.get(key, missing) != value}
    if isinstance(these, list) and isinstance(those, list):
        return [each for each in these if each not in those]
    return these
