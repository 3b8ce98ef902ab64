"""The checks of a declaration. Each refuses a slip with the author's line and the fix.

`stage` is the name of the stage that is declared. All raise DeclarationError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from stage.authoring.annotations import declaring_place
from stage.authoring.payload import Codec
from stage.authoring.steps import DeclaredStep, ExternalStep
from stage.core.errors import DeclarationError
from stage.core.names import STEP_NAME
from stage.core.steps import Plan
from stage.ports.store import TRACE_TERM


class _Paths(NamedTuple):
    """A parameter of a stage that gives names to members of the payload."""

    word: str
    most: int
    """How many names it may have."""
    cost: str
    """The cost of each."""


_INDEXED = _Paths("indexed", 8, "a row more of every saga")
_SHOWS = _Paths("shows", 8, "a column more of every list")


def check_payload(
    stage: str, accepts: Codec[Any], indexed: Mapping[str, str], shows: Mapping[str, str]
) -> None:
    """Refuse members that no payload can have, and one that is not the caller's to give."""
    members = accepts.members()
    if stage in members:
        raise DeclarationError(
            f"accepts= of stage {stage!r} names a member {stage!r}, which the stage"
            " itself adds: rename the member, or the stage"
        )
    _check_paths(stage, _INDEXED, indexed, members)
    _check_paths(stage, _SHOWS, shows, members)


def _check_paths(
    stage: str, given: _Paths, paths: Mapping[str, str], members: AbstractSet[str]
) -> None:
    if len(paths) > given.most:
        raise DeclarationError(
            f"{given.word}= of stage {stage!r} has {len(paths)} names, each {given.cost}: keep at"
            f" most {given.most}"
        )
    for name, path in paths.items():
        if not STEP_NAME.fullmatch(name) or name == TRACE_TERM:
            raise DeclarationError(
                f"{given.word}= of stage {stage!r} has a name {name!r}: use letters, digits and"
                f" underscores, and not {TRACE_TERM}, which is the trace's"
            )
        first = path.partition(".")[0]
        if members and first not in members:
            raise DeclarationError(
                f"{given.word}= of stage {stage!r} looks for {name!r} at {path!r}, and accepts="
                f" has no member {first!r}: its members are {', '.join(sorted(members))}"
            )


def check_external(stage: str, kind: str, misplaced: Sequence[object], to: str) -> None:
    """Refuse a step written without parentheses, or without a word on whom it asks."""
    if misplaced or not to:
        article, peer = ("an", "system") if kind == "effect" else ("a", "API")
        raise DeclarationError(
            f"{declaring_place()}: {article} {kind} of stage {stage!r} has to say whom it"
            f" asks: write @{stage}.{kind}(to='name of the {peer}')"
        )


def check_seconds(stage: str, given: Sequence[object]) -> None:
    """Refuse a time that is no number."""
    for each in given:
        if isinstance(each, bool) or not isinstance(each, int | float):
            raise DeclarationError(
                f"{declaring_place()}: a step of stage {stage!r} has {each!r} where a time"
                " stands: give seconds as a number, such as timeout=2.0"
            )


def check_codes(stage: str, **given: object) -> None:
    """Refuse what is no set of HTTP codes, and a code of which two things are said."""
    said: dict[object, str] = {}
    for word, codes in given.items():
        fits = isinstance(codes, AbstractSet) and all(
            isinstance(code, int) and 200 <= code <= 599 for code in codes
        )
        if not fits or not isinstance(codes, AbstractSet):
            raise DeclarationError(
                f"{declaring_place()}: {word}={codes!r} of a call of stage {stage!r} is no"
                f" set of HTTP codes: write them as numbers, such as {word}={{402}}"
            )
        for code in codes:
            if code in said:
                raise DeclarationError(
                    f"{declaring_place()}: a call of stage {stage!r} has {code} in"
                    f" {said[code]} and in {word}: a code has one meaning, keep one"
                )
            said[code] = word


def check_uncompensated(compensation: object) -> None:
    """Refuse a compensation that is given where only its absence can be declared."""
    if compensation is not None:
        raise DeclarationError(
            f"{declaring_place()}: compensation= takes None alone: declare a compensation below"
            " its step, with @step.compensation"
        )


def check_compensations(stage: str, steps: Sequence[DeclaredStep[Any, Any]], plan: Plan) -> None:
    """Refuse a step that cannot be found out about, or before the pivot one with no way back."""
    before = plan.steps if plan.pivot is None else plan.steps[: plan.pivot]
    for step in steps:
        ends_known = isinstance(step, ExternalStep) and (step.probing or step.hearing)
        if isinstance(step, ExternalStep) and step.pending_on and not ends_known:
            raise DeclarationError(
                f"{step.place}: step {step.name!r} of stage {stage!r} says pending_on= and"
                " has no probe, so that nothing would tell how it ends: write one under"
                f" @{step.name}.probe, or a webhook under @{step.name}.webhook"
            )
        compensates = step.compensating is not None
        if step.rules.probe_after_undo and not (compensates and step.as_step().probed):
            raise DeclarationError(
                f"{step.place}: step {step.name!r} of stage {stage!r} says"
                " probe_after_undo=True, and lacks a probe or a compensation: write both"
            )
        silent = not compensates and not step.reason
        if silent and any(step.name == each.name for each in before):
            raise DeclarationError(
                f"{step.place}: step {step.name!r} of stage {stage!r} has no compensation,"
                f" so a saga that turns back would leave what it did: write one under"
                f" @{step.name}.compensation, or say why nothing has to be undone:"
                f" compensation=None, reason='...'"
            )
