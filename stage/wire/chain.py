"""The chain's story: what each stage of a chain knows of one saga, asked over the protocol.

`GET /sagas/{id}?view=chain` makes a stage ask its neighbours the same question. Two headers keep
that from running in circles: Chain-Asked names the stages that were asked already, Chain-Hops is
how many stages further the question may go. A stage that does not answer is listed as unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stage.wire.envelope import STAGE_NAME_RE, parse_instant
from stage.wire.limits import DEFAULT_LIMITS, Limits
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError, untrusted_answer
from stage.wire.views import decode_view

CHAIN_ASKED = "Chain-Asked"
CHAIN_HOPS = "Chain-Hops"
HOPS_MAX = 16
"""Stages that a question may pass; also what is assumed where the header is missing."""
STAGES_MAX = 32
EVENTS_MAX = 500
"""Events of one stage in a chain view: the latest."""
ASKED_CHARS_MAX = 2_048
TEXT_CHARS_MAX = 300


class ChainEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that became durable at a stage. `at` is RFC 3339, by that stage's own clock.

    `event` is a word of the journal, such as `step_started`; a neighbour that keeps no journal
    uses its own words.
    """

    at: str
    event: str
    step: str = ""
    attempt: int | None = None
    by: str = ""
    """The stage or person that asked for it."""
    reason: str = ""
    epoch: int | None = None
    may_stand: bool = False
    """An end after which something may stand all the same: a no in doubt."""
    span: str = ""


class StageStory(msgspec.Struct, frozen=True, kw_only=True):
    """The saga as one stage knows it. `known` is false where it did not answer or knows nothing."""

    stage: str
    known: bool = True
    why_unknown: str | None = None
    state: str | None = None
    outcome: Outcome | None = None
    parked_reason: str | None = None
    parked_cause: str | None = None
    next_action: str | None = None
    next_action_at: str | None = None
    stands: list[str] = []
    may_stand: list[str] = []
    standing: str | None = None
    trace_id: str | None = None
    events: list[ChainEvent] = []


class ChainView(msgspec.Struct, frozen=True, kw_only=True):
    """The stages in the order of the chain, from the head to the tail."""

    saga_id: str
    stages: list[StageStory]


def unknown(stage: str, why: str) -> StageStory:
    """The story of a stage that gave none."""
    return StageStory(stage=stage, known=False, why_unknown=why[:TEXT_CHARS_MAX])


def decode_chain(body: bytes, saga_id: str, limits: Limits = DEFAULT_LIMITS) -> ChainView:
    """The chain in a neighbour's answer. Raises WireError (502) when it is not to be trusted."""
    view = decode_view(body, ChainView, limits)
    if view.saga_id != saga_id:
        raise untrusted_answer(f"it is about another saga than {saga_id}")
    if len(view.stages) > STAGES_MAX:
        raise untrusted_answer(f"it has {len(view.stages)} stages")
    for story in view.stages:
        if not STAGE_NAME_RE.fullmatch(story.stage):
            raise untrusted_answer("one of its stages has no name")
        if len(story.events) > EVENTS_MAX:
            raise untrusted_answer(f"{story.stage} has {len(story.events)} events")
        try:
            for event in story.events:
                parse_instant(event.at)  # pages draw them by it
        except ValueError:
            raise untrusted_answer(f"{story.stage} has an event without an instant") from None
    return view


def parse_asked(values: Sequence[str]) -> tuple[str, ...]:
    """The names in Chain-Asked. Raises WireError (400) for what is no list of names."""
    text = ",".join(values)
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if len(text) > ASKED_CHARS_MAX or not all(STAGE_NAME_RE.fullmatch(name) for name in names):
        raise WireError(
            400, "Header not accepted", f"{CHAIN_ASKED} is no list of names of stages",
            hint="leave it out: it is for stages that ask each other",
        )  # fmt: skip
    return names


def parse_hops(values: Sequence[str]) -> int:
    """The number in Chain-Hops, at most HOPS_MAX. Raises WireError (400) for what is none."""
    if not values:
        return HOPS_MAX
    if len(values) > 1 or not (values[0].isascii() and values[0].isdigit()):
        raise WireError(
            400, "Header not accepted", f"{CHAIN_HOPS} is no number",
            hint=f"send 0 to {HOPS_MAX}, or leave it out",
        )  # fmt: skip
    return min(int(values[0][:6]), HOPS_MAX)


def event_of(at: str, event: str, members: dict[str, Any]) -> ChainEvent:
    """An event as a neighbour may see it, made of the public members of the journal's event."""
    return ChainEvent(
        at=at,
        event=event,
        step=str(members.get("step", "")),
        attempt=members.get("attempt"),
        by=str(members.get("requested_by", "") or members.get("actor", ""))[:TEXT_CHARS_MAX],
        reason=str(members.get("reason", ""))[:TEXT_CHARS_MAX],
        epoch=members.get("epoch"),
        may_stand=members.get("may_stand") is True,
        span=str(members.get("span", "")),
    )
