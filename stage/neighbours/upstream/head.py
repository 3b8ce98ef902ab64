"""The head of the chain: it takes orders, starts sagas, and compensates them on request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from stage.neighbours.shared.scripts import Scripts
from stage.neighbours.shared.trace import Trace
from stage.neighbours.upstream.books import Saga, State
from stage.neighbours.upstream.conversation import Conversation
from stage.neighbours.upstream.script import Script, ScriptName
from stage.neighbours.upstream.stage_client import StageClient
from stage.wire.envelope import Envelope, TrailEntry, format_instant
from stage.wire.outcome import Outcome
from stage.wire.problem import ProblemType, WireError
from stage.wire.replies import UNKNOWN_REQUESTER, CompensateRequest

SAGAS_MAX = 100_000
TURNED_AWAY_TIMES = 2
"""How often the script `flaky` answers 503 to one saga."""
FROM_ABOVE = ("operator", "orchestrator")
"""Requesters in the place of upstream, who hold no lock of the stage: they may wait."""
NOT_FROM_BELOW = (*FROM_ABOVE, UNKNOWN_REQUESTER)
"""Requesters that need not have a saga from here. Anybody else is the stage, or one behind it."""


class Head:
    """The neighbour: its sagas, its scripts and its tasks."""

    def __init__(
        self, name: str, stage: StageClient, scripts: Scripts[Script], budget: float
    ) -> None:
        self.name = name
        self.scripts = scripts
        self.budget_seconds = budget
        self.patience_seconds = stage.patience_seconds
        self._conversation = Conversation(name, stage)
        self._sagas: dict[str, Saga] = {}
        self._gateway_answers: dict[str, int] = {}

    def __iter__(self) -> Iterator[Saga]:
        """The sagas in the order in which they were first seen."""
        return iter(self._sagas.values())

    def find(self, saga_id: str) -> Saga | None:
        """The saga of that id, if it was ever seen."""
        return self._sagas.get(saga_id)

    def start(
        self, saga_id: str, order: dict[str, Any], trace: Trace, budget_seconds: float
    ) -> Saga:
        """Write the order and start its saga; a duplicate joins the saga that is there.

        Raises WireError: 410 if the id was compensated before, 422 if it belongs to another order.
        """
        saga = self._sagas.get(saga_id)
        if saga is not None:
            if saga.asked is None:
                raise WireError(
                    410,
                    "Compensated before it began",
                    "this saga id was closed by a request to compensate",
                    outcome=Outcome.COMPENSATED,
                )
            if saga.asked != order:
                raise WireError(422, "Saga id reused", "this saga id belongs to another order")
            return saga
        saga = self._open(saga_id, trace)
        now = time.time()
        envelope = Envelope(
            saga_id=saga_id,
            data=order,
            deadline=round(now + budget_seconds, 3),
            trail=(TrailEntry(stage=self.name, at=format_instant(now)),),
        )
        saga.begin(order, envelope, asyncio.get_running_loop().time() + budget_seconds)
        saga.run = asyncio.create_task(self._conversation.run(saga, envelope), name=saga_id)
        return saga

    async def ended(self, saga: Saga, wait_seconds: float) -> bool:
        """Wait for the task of a saga; False if it still runs after `wait_seconds`."""
        if saga.run is None:
            return True
        done, _ = await asyncio.wait({saga.run}, timeout=wait_seconds)
        return bool(done)

    async def compensate(self, saga_id: str, asked: CompensateRequest, trace: Trace) -> Saga:
        """Compensate once for any number of requests. Raises WireError: 503 by script, or 409.

        With the stage's word that nothing stands at it only the order is taken back. Without it
        the stage is asked in turn, after its own request was answered: it may hold a lock.
        A saga that is not in the books, and that the stage has from here, was lost with them: 409.
        """
        saga = self._sagas.get(saga_id)
        if saga is None:
            self._refuse_lost(saga_id, asked)
            saga = self._open(saga_id, trace)
        saga.compensations += 1
        saga.note(f"asked to compensate by {asked.requested_by}: {asked.reason}")
        self._misbehave(saga)
        if saga.asked is not None and asked.outcome is not Outcome.COMPENSATED:
            above = asked.requested_by in FROM_ABOVE
            await self._compensate_the_stage_first(saga, asked, waits=above)
            return saga
        if saga.run is not None:
            saga.run.cancel()
        if saga.asked is None and saga.state is not State.COMPENSATED:
            saga.note("tombstone")
        saga.compensate(f"asked by {asked.requested_by}")
        return saga

    def hidden(self, saga_id: str) -> Script | None:
        """The script of the gateway that answers in place of this neighbour, while it does."""
        script = self.scripts.script_for(saga_id)
        answered = self._gateway_answers.get(saga_id, 0)
        if script.script is not ScriptName.GATEWAY or (script.times or answered + 1) <= answered:
            return None
        self._gateway_answers[saga_id] = answered + 1
        return script

    async def close(self) -> None:
        """Stop all tasks. The books are in memory and are lost, as in a crash."""
        runs = [saga.run for saga in self._sagas.values() if saga.run is not None]
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)

    async def _compensate_the_stage_first(
        self, saga: Saga, asked: CompensateRequest, *, waits: bool
    ) -> None:
        """Replace the task of a saga by one that undoes it, and maybe wait a while for its end."""
        if saga.state in (State.ACTIVE, State.COMPLETED, State.FAILED_TO_COMPENSATE):
            if saga.run is not None:
                saga.run.cancel()
            reason = f"asked by {asked.requested_by}"
            saga.run = asyncio.create_task(
                self._conversation.compensate(saga, reason), name=saga.saga_id
            )
        await self.ended(saga, self.patience_seconds if waits else 0.0)

    def _refuse_lost(self, saga_id: str, asked: CompensateRequest) -> None:
        """Refuse what the books lack though they had it: a tombstone would say nothing stands."""
        script = self.scripts.script_for(saga_id).script
        if script is ScriptName.AWAY:
            raise _not_now(script)
        if asked.requested_by in NOT_FROM_BELOW or script is ScriptName.TOMBSTONE:
            return
        raise WireError(
            409,
            "Saga lost",
            f"{asked.requested_by} has it from here, and it is not in these books any more",
            hint="a person has to find out what stands of it here",
            outcome=Outcome.UNKNOWN,
            type=ProblemType.SAGA_LOST,
        )

    def _misbehave(self, saga: Saga) -> None:
        script = self.scripts.script_for(saga.saga_id).script
        flaky = script is ScriptName.FLAKY and saga.turned_away < TURNED_AWAY_TIMES
        if flaky or script is ScriptName.AWAY:
            saga.turned_away += 1
            saga.note("turned away")
            raise _not_now(script)

    def _open(self, saga_id: str, trace: Trace) -> Saga:
        """A new entry. Raises WireError 503 if the books are full: they never forget a saga."""
        if len(self._sagas) >= SAGAS_MAX:
            raise WireError(503, "Full", f"the books hold {SAGAS_MAX} sagas", retryable=True)
        saga = self._sagas[saga_id] = Saga(saga_id=saga_id, trace=trace)
        return saga


def _not_now(script: ScriptName) -> WireError:
    return WireError(503, "Not now", f"the script is {script}", retryable=True)
