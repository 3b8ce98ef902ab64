"""The workflow as careless releases would have it: each would issue other commands in a replay."""

from __future__ import annotations

from temporalio import workflow

from stage.orchestrators.temporal.workflow import WORKFLOW, ChainAsk, ChainEnd, SagaChain


@workflow.defn(name=WORKFLOW)
class Forwards(SagaChain):
    """Compensates in the order in which the stages were reached."""

    @workflow.init
    def __init__(self, ask: ChainAsk) -> None:
        super().__init__(ask)

    @workflow.run
    async def run(self, ask: ChainAsk) -> ChainEnd:
        """Leave out `reversed`."""
        reason = await self._go_forward()
        if reason is None:
            return ChainEnd(outcome="executed", data=self._added)
        for stage in self._reached:
            await self._compensate(stage, reason)
        return ChainEnd(outcome="compensated")


@workflow.defn(name=WORKFLOW)
class Waits(SagaChain):
    """Waits a second before the first stage."""

    @workflow.init
    def __init__(self, ask: ChainAsk) -> None:
        super().__init__(ask)

    @workflow.run
    async def run(self, ask: ChainAsk) -> ChainEnd:
        """Start a timer that no history has."""
        await workflow.sleep(1)
        return await super().run(ask)


@workflow.defn(name=WORKFLOW)
class Patched(SagaChain):
    """Waits too, but only in runs that begin under this release."""

    @workflow.init
    def __init__(self, ask: ChainAsk) -> None:
        super().__init__(ask)

    @workflow.run
    async def run(self, ask: ChainAsk) -> ChainEnd:
        """Start the timer behind a mark."""
        if workflow.patched("wait-first"):
            await workflow.sleep(1)
        return await super().run(ask)
