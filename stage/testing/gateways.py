"""Puts a gateway in place of each external API: does a function believe its page?

A gateway, a load balancer or a login page answers for an API that has acted, or that was never
asked (decision 0082). Such an answer is a doubt, whatever its code is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from stage.authoring.declaration import StageDeclaration
from stage.core.commands import AttemptKind
from stage.core.failure import FailureKind
from stage.core.steps import Step, StepKind
from stage.ports.stage import Answer, Failed, Finished, Turn
from stage.testing.effects import FakeApi
from stage.testing.fakes import reply
from stage.testing.trial import NAMED, Gateway, Given, Trial, given

P = TypeVar("P")

PAGES: Final = tuple(
    Answer(status=status, headers=(("Content-Type", "text/html"),), body=b"<html>a gateway</html>")
    for status in (200, 400, 403, 404, 409, 410, 422)
)
WORDS: Final = tuple(reply(status, {"message": "no Route matched"}) for status in (200, 404))
"""As some gateways say it: JSON, and none of the API's own."""


async def assert_doubts_gateways(
    stage: StageDeclaration[P, Any],
    data: Mapping[str, Any] | P,
    *,
    apis: Mapping[str, type[FakeApi]] | None = None,
) -> None:
    """No call, probe or compensation of a stage believes a page that its API did not write.

    A call and a probe may take it neither for a yes nor for a no, a compensation not for a yes.
    A function of several requests meets the gateway at its first, then at its second, and so on.
    `data` and `apis` are those of `assert_compensates`: the steps before run as they are. Raises
    AssertionError that names the function, the code, and what was believed.
    """
    __tracebackhide__ = True
    about = given(stage, data, apis=apis)
    steps = about.participant.plan.steps
    for number, step in enumerate(steps):
        if step.kind is not StepKind.CALL:
            continue
        for kind in _functions(step):
            before = steps[: number + (kind is not AttemptKind.EXECUTE)]
            first = 1
            while await _meets(about, before, kind, step, first):
                first += 1


async def _meets(
    about: Given, before: tuple[Step, ...], kind: AttemptKind, step: Step, first: int
) -> bool:
    """Answer a function by each page from that request on; False where it makes none so late.

    Each page has a world of its own: the requests before it may act.
    """
    __tracebackhide__ = True
    for page in (*PAGES, *WORDS):
        trial = Trial(about)
        gateway = Gateway(page=page, first=first)
        async with trial.opened() as run:
            await trial.forward(before, run)
            turn = await trial.end_of(kind, step, run, gateway)
        if not gateway.met:
            return False
        _judge(kind, step, gateway, turn)
    return True


def _functions(step: Step) -> list[AttemptKind]:
    kinds = [AttemptKind.EXECUTE]
    if step.probed:
        kinds.append(AttemptKind.PROBE)
    if step.compensatable:
        kinds.append(AttemptKind.COMPENSATE)
    return kinds


def _judge(kind: AttemptKind, step: Step, gateway: Gateway, turn: Turn) -> None:
    __tracebackhide__ = True
    believed, page = "", gateway.page
    if isinstance(turn, Finished):
        nothing = kind is AttemptKind.PROBE and turn.result == msgspec.Raw(b"null")
        believed = "the word that nothing is there" if nothing else "a success"
    elif isinstance(turn, Failed) and turn.kind is FailureKind.REFUSED:
        believed = "" if kind is AttemptKind.COMPENSATE else "the no of the API"
    body = "a page" if page.body.startswith(b"<") else page.body.decode()
    if believed:
        raise AssertionError(
            f"{NAMED[kind].format(step.name)} takes {page.status} with {body} of a gateway for"
            f" {believed}, in answer to its {gateway.met}: look for a member that only the API"
            " gives, such as answer.json()['code']"
        )
