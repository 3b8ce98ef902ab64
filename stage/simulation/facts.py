"""The facts that the world's books hold: values without a rule of their own.

`Known` is what a stage has made durable about a saga, `Effect` what an external API has done.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from stage.core import events as e
from stage.ports.store import SagaRow


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """An invariant that did not hold."""

    invariant: str
    saga: str
    text: str
    at: float


class Effect(msgspec.Struct, kw_only=True):
    """All that happened at an external API under one key."""

    key: str
    api: str
    made: int = 0
    undone: int = 0
    closed: bool = False
    """Undone before it was made: a late request is refused."""
    refused: bool = False
    undo_refused: bool = False
    name: str = ""
    """How the API calls what it made."""
    body: bytes = b""
    path: str = ""
    """Where it was asked for first."""

    @property
    def standing(self) -> int:
        """How many are not undone."""
        return self.made - self.undone


class Intent(NamedTuple):
    """The meaning of a key: one effect of a step, or its undoing."""

    saga: str
    stage: str
    step: str
    undo: bool


def read_key(key: str) -> Intent:
    """The parts of a key `saga:stage:step:do` (see core.ids); further parts are an ordinal.

    `undo.2` is the second key of an undo, which an operator has ordered.
    """
    saga, stage, step, direction = (*key.split(":", 4), "", "", "", "")[:4]
    return Intent(saga, stage, step, direction.partition(".")[0] == "undo")


class Written(NamedTuple):
    """One write of a unit. `epoch` is the one that the writer held; None for a new saga."""

    row: SagaRow
    events: tuple[e.Event, ...]
    epoch: int | None


class Worked(NamedTuple):
    """One transaction function that ran in a unit."""

    saga: str
    step: str
    undo: bool


class Known(msgspec.Struct, kw_only=True):
    """The durable facts of one saga at one stage."""

    row: SagaRow
    writer: str = ""
    """The process that wrote last."""
    events: list[e.Event] = []
    starts: dict[str, int] = {}
    """The order in which steps were started."""
    turned: bool = False
    """It goes backward, or was buried."""
    deferred: bool = False
    """A caller may have been answered 202."""
    asked: bool = False
    """A neighbour asked to compensate it."""
    requests: dict[str, list[e.Request]] = {}
    """The requests whose intent is durable, by `step:do` and `step:undo`."""
    succeeded: set[str] = set()
    intents: set[str] = set()
    """`step:do`, `step:undo`, `step:probe` and `:tell` whose start is durable."""
    given_up: set[str] = set()
    """Steps whose compensation failed for good."""
    gave_up: bool = False
    """It gave up a compensation at some time, and a person may have had it tried again since."""
    doubted: set[str] = set()
    """Steps with an attempt in doubt that nothing has settled since."""
    flying: set[str] = set()
    """Steps with an attempt under way."""
    forgiven: dict[str, int] = {}
    """Attempts that an operator let pass, by step."""
    attempts: dict[str, int] = {}
    refused: set[str] = set()
    """Steps whose last attempt was a no."""
    pending: dict[str, float] = {}
    """How long the saga had waited when the API of a step first said that it is under way."""
    waited: float = 0.0
    """Seconds in which a call was pending: clocks that went back take nothing away (rule 34)."""
    said: dict[str, e.Webhook] = {}
    """The word that a webhook brought of a step; that it landed outweighs that it did not."""
    pending_at: float | None = None
    """The last event while a call was pending: the deadline stands still."""
    asked_for: set[str] = set()
    """Approvals that a person was asked for."""
    ordered: set[str] = set()
    """The keys of the orders of an operator that were done."""
    decided: set[str] = set()
    """Approvals that were decided by a person."""
    waited_out: bool = False
    """A call was pending for as long as its author waits."""
    set_back: float = 0.0
    """Seconds by which clocks went back while a call was pending: the deadline may be as early."""
    answers: set[bytes] = set()
    """Every answer that was durable at some time."""
    deadline: float | None = None
    generation: int = 1
    """The generation of the database in which it was accepted, or last taken over."""
    recovered: int = 0
    forgotten: bool = False
    mended: bool = False
    """A person retried or resolved it."""
    invented: set[str] = set()
    """Steps whose start is written down though nobody knows of one: an older copy was put back."""


class Local(msgspec.Struct, kw_only=True):
    """How often a transaction and its compensation took effect."""

    done: int = 0
    undone: int = 0


class Copied(NamedTuple):
    """A copy of the facts about the database of one stage."""

    known: dict[str, Known]
    local: dict[tuple[str, str], tuple[int, int]]


def settle_what_is_said(known: Known) -> None:
    """Apply the webhooks that came for calls with no attempt under way."""
    for name, word in known.said.items():
        if name not in known.flying and name not in known.refused:
            _settle(known, name, word)


def _settle(known: Known, step: str, word: e.Webhook) -> None:
    """The word of an API ends the doubt about its call."""
    known.doubted.discard(step)
    known.pending.pop(step, None)
    if isinstance(word, e.WebhookFound):
        known.succeeded.add(step)
    elif step not in known.succeeded:
        known.refused.add(step)


def copied_facts(known: Known) -> Known:
    """A copy of the facts, which later facts do not change."""
    facts = {
        name: value.copy()
        for name in known.__struct_fields__
        if isinstance(value := getattr(known, name), list | dict | set)
    }
    facts["requests"] = {key: list(sent) for key, sent in known.requests.items()}
    return msgspec.structs.replace(known, **facts)
