"""Fails a stage behind each of its steps and undoes it: is the world as it was before?

Every prefix of the steps is run twice: once so that the step behind it fails, and once so that the
answer of its last call is lost, whose compensation then gets no result. An effect without a probe
is then repeated, and its compensation made twice, as when its own answer is lost too: no API keeps
its answers by key. The compensation of a call with `idempotent=False` is made twice as well. A
saga of another order has run before, and has to be left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from stage.authoring.declaration import StageDeclaration
from stage.core.states import EXTERNAL_KINDS
from stage.testing.effects import FakeApi
from stage.testing.trial import Trial, given

P = TypeVar("P")


async def assert_compensates(
    stage: StageDeclaration[P, Any],
    data: Mapping[str, Any] | P,
    *,
    apis: Mapping[str, type[FakeApi]] | None = None,
    stands: str = "",
    elsewhere: Callable[[], object] | None = None,
    other: Mapping[str, Any] | P | None = None,
) -> None:
    """Nothing of a saga with that data is left, wherever it fails before the pivot.

    `stands` is a query for what stands in the stage's tables; without it every table has to be as
    it was. `apis` are fakes of the external APIs by the names in `to=`. `elsewhere`
    returns what stands at the systems of effects, such as the objects of a fake. `other` is the
    data of another order, of which nothing may be changed; without it the same, under other ids.
    Approvals are given. A probe has to find what its call has made, and nothing before. Last, all
    steps run, and the output has to be the same twice. Raises AssertionError that names the steps
    that ran, and what is left.
    """
    __tracebackhide__ = True
    about = given(stage, data, apis=apis, stands=stands, elsewhere=elsewhere, other=other)
    plan = about.participant.plan
    before_pivot = plan.steps if plan.pivot is None else plan.steps[: plan.pivot]
    for count in range(1, len(before_pivot) + 1):
        steps = before_pivot[:count]
        for lost in (False, True) if steps[-1].kind in EXTERNAL_KINDS else (False,):
            await Trial(about).compensates(steps, lost=lost)
    await Trial(about).completes()
