"""Fails a stage behind each of its steps and undoes it: is the world as it was before?

Every prefix of the steps is run twice: once so that the step behind it fails, and once so that the
answer of its last call is lost, whose compensation then gets no result. The compensation of an
effect is made twice, as when its own answer is lost too: no API keeps its answers by key. The
functions and the SQL are the real ones; external APIs are fakes that keep their effects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, Final

import msgspec

from stage.authoring.declaration import StageDeclaration
from stage.authoring.participant import StageParticipant
from stage.core.commands import AttemptKind
from stage.core.events import Request
from stage.core.ids import Direction, compensation_key, idempotency_key
from stage.core.order import backward
from stage.core.states import EXTERNAL_KINDS
from stage.core.steps import Step, StepKind
from stage.core.verbs import Approval
from stage.ports.stage import Answer, Failed, Finished, Foreign, RunView, Send, Turn
from stage.ports.store import Row, Unit
from stage.store.memory import MemoryStore
from stage.testing.fakes import SAGA_ID, reply

TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"


UNKNOWN: Final = {"code": "unknown_key"}
"""The API's own word that it made nothing under a key."""
CLOSED: Final = {"code": "closed_key"}
"""Its own word that a key was undone before it made anything."""
PENDING: Final = {"state": "pending"}
_YES: Final = msgspec.Raw(msgspec.json.encode(Approval(by="a person", reason="a trial", at=0.0)))


class FakeApi:
    """An external API that keeps its effects by idempotency key.

    A request that is not GET makes an effect under its key, once. A request whose key says `undo`
    takes back what its step made, answered `{"undone": true}`. A GET answers 200 if there is an
    effect under its key, otherwise 404 with `{"code": "unknown_key"}`.
    Derive from it where an API speaks otherwise: `is_undo` and `undo` are the words of most,
    `pends` and `webhook` those of an API that tells later how a call ended.
    """

    pends = False
    """True where it takes each call on with 202, until `land` ends it."""

    def __init__(self) -> None:
        self.effects: dict[str, str] = {}
        """The effects that stand: an id by its key."""
        self.pending: set[str] = set()
        """The keys of calls that it has taken on."""
        self._closed: set[str] = set()
        self._made = 0

    def answer(self, request: Request, key: str) -> Answer:
        """The answer to one request."""
        if request.method == "GET":
            return self.look_up(request, key)
        if self.is_undo(request, key):
            return self.undo(request, key)
        if key in self._closed:
            return reply(410, CLOSED)
        if key not in self.effects and self.pends:
            self.pending.add(key)
            return reply(202, PENDING)
        return self.made(self._make(key))

    def land(self, key: str) -> bool:
        """End a call that it has taken on, with a yes. False where none is pending by that key."""
        if key not in self.pending:
            return False
        self.pending.discard(key)
        self._make(key)
        return True

    def _make(self, key: str) -> str:
        if key not in self.effects:
            self._made += 1
            self.effects[key] = f"fx-{self._made}"
        return self.effects[key]

    def webhook(self, key: str, secret: bytes) -> tuple[Mapping[str, str], bytes] | None:
        """Headers and body of the webhook that tells of the call of that key, signed.

        None where the API tells nothing by itself.
        """
        return None

    def is_undo(self, request: Request, key: str) -> bool:
        """Whether it asks for something to be taken back."""
        return f":{Direction.COMPENSATE}" in key

    def made(self, effect: str) -> Answer:
        """The answer when the effect of that id stands."""
        return reply(201, {"id": effect})

    def look_up(self, request: Request, key: str) -> Answer:
        """A probe."""
        if key in self.pending:
            return reply(202, PENDING)
        return self.made(self.effects[key]) if key in self.effects else reply(404, UNKNOWN)

    def undo(self, request: Request, key: str) -> Answer:
        """Take back what the step of the key made."""
        of = key.rpartition(f":{Direction.COMPENSATE}")[0]
        for made in [each for each in self.effects if each.startswith(f"{of}:")]:
            del self.effects[made]
        for taken_on in [each for each in self.pending if each.startswith(f"{of}:")]:
            self.pending.discard(taken_on)
            self._closed.add(taken_on)
        return reply(200, {"undone": True})


async def assert_compensates(
    stage: StageDeclaration[Any, Any],
    data: Mapping[str, Any],
    *,
    apis: Mapping[str, type[FakeApi]] | None = None,
    stands: str = "",
    elsewhere: Callable[[], object] | None = None,
) -> None:
    """Nothing of a saga with that data is left, wherever it fails before the pivot.

    `stands` is a query for what stands in the stage's tables; without it every table has to be as
    it was. `apis` are fakes of the external APIs by the names in `to=`. `elsewhere`
    returns what stands at the systems of effects, such as the objects of a fake. Approvals are
    given. Raises AssertionError that names the steps that ran, and what is left.
    """
    participant = stage.bind()
    plan = participant.plan
    before_pivot = plan.steps if plan.pivot is None else plan.steps[: plan.pivot]
    for count in range(1, len(before_pivot) + 1):
        steps = before_pivot[:count]
        for lost in (False, True) if steps[-1].kind in EXTERNAL_KINDS else (False,):
            trial = _Trial(stage, participant, data, apis or {}, stands, elsewhere)
            await trial.compensates(steps, lost=lost)


class _Trial:
    """One world, in which some steps run and are undone."""

    def __init__(
        self,
        stage: StageDeclaration[Any, Any],
        participant: StageParticipant[Any, Any],
        data: Mapping[str, Any],
        apis: Mapping[str, type[FakeApi]],
        stands: str,
        elsewhere: Callable[[], object] | None,
    ) -> None:
        folders = () if stage.migrations is None else (stage.migrations,)
        self._store = MemoryStore(migrations=folders)
        self._participant = participant
        self._data = data
        self._stands = stands
        self._elsewhere = elsewhere
        self._results: dict[str, msgspec.Raw] = {}
        peers = {step.peer for step in participant.plan.steps if step.kind is StepKind.CALL}
        self._apis = {peer: apis.get(peer, FakeApi)() for peer in peers}

    async def compensates(self, steps: tuple[Step, ...], *, lost: bool) -> None:
        """Run the steps, undo them, and compare. `lost` drops the answer of the last one."""
        await self._store.open()
        try:
            before = await self._world()
            for step in steps:
                await self._run(AttemptKind.EXECUTE, step)
            if lost:
                del self._results[steps[-1].name]
            for step in backward(self._participant.plan):
                if step in steps and step.compensatable:
                    await self._run(AttemptKind.COMPENSATE, step)
                    if lost and step is steps[-1] and step.kind is StepKind.EFFECT:
                        await self._run(AttemptKind.COMPENSATE, step, again=True)
            after = await self._world()
        finally:
            self._store.discard()
        ran = ", ".join(step.name for step in steps)
        how = f"the answer of {steps[-1].name} was lost" if lost else "the step behind it failed"
        for where, rows in after.items():
            left = f"{where} has {rows}, and had {before[where]}"
            assert before[where] == rows, f"after {ran} ran, and {how}: {left}"

    async def _run(self, kind: AttemptKind, step: Step, *, again: bool = False) -> None:
        """Run one function of a step; `again` says that the answer of its compensation was lost."""
        if step.kind is StepKind.TRANSACTION:
            view = self._view(kind, step)
            run = self._participant.run_transaction

            async def work(unit: Unit) -> msgspec.Raw:
                return await unit.attempt(partial(run, unit.tx, kind, step.name, view))

            result = await self._store.transact(work)
        elif step.kind is StepKind.APPROVAL:
            shown = self._participant.shown(step.name, self._view(kind, step))
            result = _YES if shown is not None else msgspec.Raw(b"null")
        else:
            result = await self._converse(kind, step, again)
        if kind is AttemptKind.EXECUTE:
            self._results[step.name] = result

    async def _converse(self, kind: AttemptKind, step: Step, again: bool) -> msgspec.Raw:
        view = self._view(kind, step)
        conversation = self._participant.converse(kind, step.name, view)
        turn: Turn = conversation.begin()
        if isinstance(turn, Foreign):
            conversation = self._participant.converse(kind, step.name, view)
            turn = await conversation.proceed()
        while isinstance(turn, Send):
            key = view.key if turn.ordinal == 1 else f"{view.key}:{turn.ordinal}"
            answer = self._apis[step.peer].answer(turn.request, key)
            turn = await conversation.resume(answer)
        if isinstance(turn, Failed):
            what = "the compensation of" if kind is AttemptKind.COMPENSATE else "step"
            when = ", made again because its own answer was lost," if again else ""
            raise AssertionError(f"{what} {step.name}{when} is {turn.kind}: {turn.reason}")
        assert isinstance(turn, Finished)
        return turn.result

    def _view(self, kind: AttemptKind, step: Step) -> RunView:
        stage = self._participant.plan.stage
        key = idempotency_key(SAGA_ID, stage, step.name, Direction.EXECUTE)
        return RunView(
            id=SAGA_ID,
            stage=stage,
            data=self._data,
            trail=(),
            results=dict(self._results),
            keys={},
            deadline=None,
            budget=None,
            key=compensation_key(key) if kind is AttemptKind.COMPENSATE else key,
            attempt=1,
            now=0.0,
        )

    async def _world(self) -> dict[str, Any]:
        """The rows of the tables, and the effects that stand at each API."""

        async def rows(unit: Unit) -> dict[str, list[Row]]:
            if self._stands:
                return {"the database": sorted(await unit.tx.fetchall(self._stands))}
            names = [str(name) for (name,) in await unit.tx.fetchall(TABLES)]
            return {
                f"table {name}": sorted(await unit.tx.fetchall(f'SELECT * FROM "{name}"'))  # noqa: S608 - of its own schema
                for name in names
            }

        world: dict[str, Any] = dict(await self._store.transact(rows))
        if self._elsewhere is not None:
            world["elsewhere"] = deepcopy(self._elsewhere())
        return world | {f"API {name}": dict(api.effects) for name, api in self._apis.items()}
