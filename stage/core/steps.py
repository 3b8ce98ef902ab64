"""Steps and the plan that orders them: the parts of a stage. Checked once, at start."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from stage.core import retry
from stage.core.errors import DeclarationError
from stage.core.names import STAGE_NAME, STEP_NAME
from stage.core.retry import RetryPolicy
from stage.core.states import StepKind as StepKind

FORWARD_PREFIX = "forward:"
VERSION_MAX = 2**31 - 1
"""The largest version of a stage."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step as the machine sees it: a name and its rules, no functions.

    `peer` is the external API of a call, the system of an effect, or the downstream stage of a
    forward. `idempotent=False` says that the API ignores idempotency keys: the call is never
    repeated while in doubt. An attempt that ends with a code of `never_retry` is the last one. A
    request whose effect may stand is not repeated once `key_lifetime_seconds` have passed since its
    first attempt: the API has forgotten the key. With `probe_after_undo`, the probe is asked
    whether anything stands after an undo without a result. A pending call is in doubt after
    `pending_seconds_max`, and an approval without an answer is refused then. `hooked` says that its
    API may tell by a webhook how it ended.
    """

    name: str
    kind: StepKind
    peer: str = ""
    group: str = ""
    compensatable: bool = False
    probed: bool = False
    pivot: bool = False
    idempotent: bool = True
    never_retry: frozenset[int] = frozenset()
    key_lifetime_seconds: float | None = None
    probe_after_undo: bool = False
    pending_seconds_max: float = retry.PENDING_SECONDS_MAX
    hooked: bool = False
    timeout_seconds: float = 10.0
    execution: RetryPolicy = retry.EXECUTION
    settlement: RetryPolicy = retry.SETTLEMENT
    compensation: RetryPolicy = retry.COMPENSATION


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The ordered steps of one stage, forwards included. Build it with `plan_of`."""

    stage: str
    steps: tuple[Step, ...]
    waves: tuple[tuple[Step, ...], ...]
    """The steps that run at the same time, in order; ask core.order, which reads it."""
    by_name: dict[str, Step]
    pivot: int | None = None
    patience_seconds: float = retry.PATIENCE_SECONDS
    """How long an undo, a late failure and a step behind the pivot are tried (rule 28)."""
    version: int = 1
    """The version of the stage; a saga keeps the version that accepted it (rule 32)."""
    renamed: dict[str, str] = {}
    """Today's names of steps by those that journals of this version may still hold."""
    peers_renamed: dict[str, str] = {}
    """Today's names of external APIs and downstream stages, by those in such journals."""
    misfit: str = ""
    """Set where the plan was made from a journal, with the reason: no step of it can be run."""
    newer: bool = False
    """True of a misfit that a newer release accepted: the saga is left to that release."""

    def step(self, name: str) -> Step:
        """The step of that name. Raises KeyError."""
        return self.by_name[name]


def forward_to(peer: str) -> Step:
    """The implied step that hands the context to one downstream stage."""
    return Step(
        name=FORWARD_PREFIX + peer,
        kind=StepKind.FORWARD,
        peer=peer,
        group=FORWARD_PREFIX,
        compensatable=True,
        timeout_seconds=30.0,
        execution=retry.NEIGHBOUR,
        settlement=retry.NEIGHBOUR_SETTLEMENT,
        compensation=retry.NEIGHBOUR_COMPENSATION,
    )


def plan_of(stage: str, steps: tuple[Step, ...], downstreams: tuple[str, ...] = ()) -> Plan:
    """Order the steps, add one forward a downstream, and refuse what cannot be compensated.

    Raises DeclarationError with the fix in the message.
    """
    if not STAGE_NAME.fullmatch(stage):
        raise DeclarationError(
            f"stage name {stage!r}: use 1 to 48 of a-z 0-9 _ -, starting with a letter"
        )
    for step in steps:
        if not STEP_NAME.fullmatch(step.name):
            raise DeclarationError(
                f"step name {step.name!r} in stage {stage!r}: use 1 to 48 of a-z 0-9 _,"
                " starting with a letter"
            )
    every = (*steps, *(forward_to(peer) for peer in downstreams))
    by_name: dict[str, Step] = {}
    for step in every:
        if step.name in by_name:
            raise DeclarationError(f"stage {stage!r} has two steps named {step.name!r}: rename one")
        by_name[step.name] = step
    _check_groups(stage, every)
    pivots = [index for index, step in enumerate(every) if step.pivot]
    if len(pivots) > 1:
        names = ", ".join(every[index].name for index in pivots)
        raise DeclarationError(f"stage {stage!r} has several pivots ({names}): keep one")
    pivot = pivots[0] if pivots else None
    if pivot is not None:
        _check_pivot(stage, every, pivot)
    return Plan(stage=stage, steps=every, waves=_waves(every), by_name=by_name, pivot=pivot)


def adjusted(plan: Plan, adjust: Callable[[Step], Step]) -> Plan:
    """The plan with the rules of every step changed, wherever the plan holds them."""
    changed = {step.name: adjust(step) for step in plan.steps}
    return replace(
        plan,
        steps=tuple(changed[step.name] for step in plan.steps),
        waves=tuple(tuple(changed[step.name] for step in wave) for wave in plan.waves),
        by_name=changed,
    )


def _check_pivot(stage: str, steps: tuple[Step, ...], pivot: int) -> None:
    name = steps[pivot].name
    if steps[pivot].compensatable:
        raise DeclarationError(
            f"step {name!r} of stage {stage!r} is the pivot and has a compensation:"
            " remove one of the two"
        )
    if steps[pivot].group:
        raise DeclarationError(
            f"step {name!r} of stage {stage!r} is the pivot and runs together with others:"
            " give the pivot a place of its own"
        )
    for step in steps[pivot + 1 :]:
        if step.kind is StepKind.APPROVAL:
            raise DeclarationError(
                f"step {step.name!r} of stage {stage!r} is an approval and comes after the pivot"
                f" {name!r}, where nobody can say no any more: move it before the pivot"
            )
        if step.compensatable and step.kind is not StepKind.FORWARD:
            raise DeclarationError(
                f"step {step.name!r} of stage {stage!r} has a compensation but comes after the"
                f" pivot {name!r}, where the stage only goes forward: move it before the pivot"
                " or remove its compensation"
            )


def _check_groups(stage: str, steps: tuple[Step, ...]) -> None:
    """Steps of one group run at the same time, so none may stand between them."""
    for index, step in enumerate(steps):
        alike = [each for each in range(index) if step.group and steps[each].group == step.group]
        if alike and alike[-1] != index - 1:
            between = steps[index - 1].name
            raise DeclarationError(
                f"steps {steps[alike[-1]].name!r} and {step.name!r} of stage {stage!r} say"
                f" together={step.group!r}, and {between!r} stands between them, so they could not"
                " run at the same time: declare them one after the other, or give one another word"
            )


def _waves(steps: tuple[Step, ...]) -> tuple[tuple[Step, ...], ...]:
    waves: list[tuple[Step, ...]] = []
    for step in steps:
        if waves and step.group and waves[-1][-1].group == step.group:
            waves[-1] = (*waves[-1], step)
        else:
            waves.append((step,))
    return tuple(waves)
