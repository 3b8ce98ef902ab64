"""The stage as the engine sees it: the author's functions behind names and bytes.

A function that talks to an external API is a *conversation*: effects as values. `begin` runs it
until it wants to send a request (`Send`), waits for something else (`Foreign`) or ends
(`Finished`, `Failed`). The engine makes the request durable, sends it, and passes the answer to
`resume`. So no request can leave before its intent is stored, whatever the author writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgspec

from stage.core.commands import AttemptKind
from stage.core.events import Request
from stage.core.failure import FailureKind
from stage.core.steps import Plan
from stage.ports.store import Tx
from stage.ports.webhook import Said, WebhookRequest


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of a peer, capped and read whole.

    `retry_after` is what its header Retry-After said when it came, in seconds from then.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    retry_after: float | None = None


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """No usable answer. `certain` is True when the request certainly had no effect.

    `error` is one word for what became of it, from a short list: `refused`, `certificate`,
    `timeout`, `broken`, or the code of an answer that could not be used.
    """

    reason: str
    certain: bool = False
    retry_after: float | None = None
    error: str = "broken"
    denied: bool = False
    """The answer was 401 or 403, or the peer refused our certificate: a wrong or rotated key.

    The operator is notified at once.
    """
    unserved: bool = False
    """The answer was that of a server which does not serve such a request."""
    not_now: bool = False
    """Certain, and for now: a copy of the request that is still on its way may be accepted."""


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """The function wants this request sent; `ordinal` counts from 1."""

    request: Request
    ordinal: int


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """The function returned; `result` is its JSON, `null` for None."""

    result: msgspec.Raw


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """The function ended without a result.

    `may_stand` is True when an earlier request of the same attempt was answered, so that some
    effect may stand although the last one did not happen. `may_come` is True when an answer says
    that the last one did not happen, and nobody vouches for it (decision 0087). `changed` is True
    when the function
    wanted to repeat a request as another one, which was not sent. `said` is True when the reason
    is the author's own word, which neighbours may read. `error` is the exception of a function that
    failed unforeseen: for a report here, never for the journal or a neighbour. `final` is True when
    the author said that such an attempt is never repeated.
    """

    kind: FailureKind
    reason: str
    retry_after: float | None = None
    may_stand: bool = False
    may_come: bool = False
    changed: bool = False
    said: bool = False
    error: BaseException | None = None
    final: bool = False


class Foreign(msgspec.Struct, frozen=True, kw_only=True):
    """The function awaits something that is not ours; it must go on in the event loop."""


Turn = Send | Finished | Failed | Foreign


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """The saga as a function may know it. `now` is the instant at which it was called."""

    id: str
    stage: str
    data: Mapping[str, Any]
    trail: tuple[str, ...]
    results: Mapping[str, msgspec.Raw]
    keys: Mapping[str, str]
    """The journaled keys of steps; one that is missing follows from the names (rule 32)."""
    deadline: float | None
    budget: float | None
    """Seconds left, or None without a deadline."""
    key: str
    attempt: int
    now: float


class Conversation(Protocol):
    """One run of a call, probe or compensation function of the author.

    All of it runs in a copy of the context (of contextvars) in which it was made.
    """

    def begin(self) -> Turn:
        """Run until the first turn, in any thread.

        A `Foreign` turn means that nothing left and that this conversation is over: the function
        needs the event loop, so `proceed` with a new one there.
        """
        ...

    async def resume(self, answer: Answer | Lost) -> Turn:
        """Pass the answer to the last `Send` and run until the next turn, in the event loop."""
        ...

    async def proceed(self) -> Turn:
        """Run until the first turn in the event loop; the function may await what it likes."""
        ...

    def close(self) -> None:
        """Drop the function where it stands."""
        ...


class Participant(Protocol):
    """One version of a stage: its plan and what its steps do."""

    @property
    def plan(self) -> Plan:
        """The steps, forwards included."""
        ...

    @property
    def supersedes(self) -> Participant | None:
        """The version before, under which the sagas go on that it accepted (rule 32)."""
        ...

    @property
    def indexed(self) -> Mapping[str, str] | None:
        """The paths in `data` of the business numbers by which sagas are found, by their names.

        None where sagas are found by their ids alone.
        """
        ...

    @property
    def shows(self) -> Mapping[str, str]:
        """The paths in `data` of the members that operators may see, by the names they see."""
        ...

    def check(self, data: Mapping[str, Any]) -> None:
        """Decode the payload. Raises wire.WireError (422) naming the member that is wrong.

        A payload that holds a member of the stage's own name is refused too.
        """
        ...

    def check_result(self, step: str, result: msgspec.Raw) -> None:
        """Decode a result that a person gave for a step. Raises wire.WireError (422)."""
        ...

    async def run_transaction(
        self, tx: Tx, kind: AttemptKind, step: str, view: RunView
    ) -> msgspec.Raw:
        """Run a transaction or its compensation; its result as JSON.

        An exception of the function is let through, so that `Unit.attempt` undoes its writes;
        `explain` gives its meaning.
        """
        ...

    def explain(self, error: Exception) -> Failed:
        """The meaning of an exception in a transaction: refused or transient, never in doubt."""
        ...

    def converse(self, kind: AttemptKind, step: str, view: RunView) -> Conversation:
        """A conversation for a call or an effect, its probe or its compensation.

        The conversation of an effect does nothing before `proceed`.
        """
        ...

    def shown(self, step: str, view: RunView) -> msgspec.Raw | None:
        """The words for the person who is asked for that approval, as JSON; None where none is.

        Raises what the author's function raises; `explain` says what it means.
        """
        ...

    def hear(self, request: WebhookRequest) -> list[Said]:
        """The end of each function that this version has for webhooks of that external API.

        Raises nothing of theirs: an exception of one hides no word of another.
        """
        ...

    def output(self, view: RunView) -> msgspec.Raw | None:
        """The addition of the stage to the data, as JSON; None when it adds nothing.

        Raises what the author's function raises, and ValueError for more than may be added.
        """
        ...


def family_of(newest: Participant) -> Iterator[Participant]:
    """The stage with those that it supersedes, the newest first."""
    each: Participant | None = newest
    while each is not None:
        yield each
        each = each.supersedes
