"""The state of a saga and of its steps: values, folded from the journal by the machine.

Values that are made a dozen times a saga are not tracked for cycles: they cannot be part of one.
"""

from __future__ import annotations

from msgspec import Raw, Struct

from stage.core.events import Request, Webhook
from stage.core.states import ENDED, ParkCause, Phase, SagaState, Tell
from stage.core.steps import Plan


class StepState(Struct, frozen=True, kw_only=True, gc=False):
    """The state of one step that was started.

    `order` numbers the starts within the saga. `doubted` stays true once any attempt was in
    doubt and no answer under the same key settled it. `cut_off` is true once a run was lost with
    an attempt in flight, whose answer may have been passed on. `requests` are the bytes that
    left, by ordinal. `due` is when the next attempt may start.
    """

    phase: Phase
    order: int
    key: str = ""
    """The idempotency key that the journal binds; empty where today's name of the step makes it."""
    attempts: int = 1
    doubted: bool = False
    may_come: bool = False
    """Downstream said no for now: it may accept a copy of the request that is still on its way. A
    downstream that was asked to undo the saga accepts none (decision 0083). Or an API said no for
    now, and nobody vouches for it (decision 0087)."""
    cut_off: bool = False
    probes: int = 0
    not_there: int = 0
    unserved: int = 0
    """Probes whose answer was that of a server which does not serve them."""
    compensation_attempts: int = 0
    forgiven: int = 0
    """Attempts that do not count: those that certainly did not happen (rule 28), those that an
    operator let pass, and those that the code of another saga took down (rule 35)."""
    compensation_forgiven: int = 0
    final: bool = False
    """Its author declared that an attempt is never repeated which ends as the latest one did."""
    started_at: float = 0.0
    """The instant of its first attempt, by the clock of then; see questions.key_forgotten."""
    compensation_started_at: float | None = None
    """The instant of the first attempt of the undo under its present key."""
    looked_for: bool = False
    """An undo without a result was answered; the probe is asked whether anything stands."""
    changed: bool = False
    """In doubt, and today's code makes another request than the one to be repeated."""
    compensation_doubted: bool = False
    """Whether an attempt to undo it may have had an effect."""
    ordered_anew: bool = False
    """Its undo was answered, and ordered anew before anybody had confirmed it; that is to come."""
    compensation_keys: int = 1
    """Keys that its undo has been sent under; an operator may order a new one."""
    pendings: int = 0
    """How often downstream answered 202, or the API said that the call is still pending."""
    pending_since: float | None = None
    """The age of the saga when its call was pending first, as in `core.age`; None before that."""
    not_understood_since: float | None = None
    """The age of the saga when answers to compensate began that are not in the neighbour's own
    word. This age, and the next two, are seconds as in `core.age`."""
    since: float | None = None
    """Its age at the first attempt, or when an operator ordered it anew: patience begins there."""
    compensation_since: float | None = None
    """The age at which patience with the undo begins; None before its first attempt."""
    due: float = 0.0
    result: Raw | None = None
    error: str = ""
    said: str = ""
    """The reason of a refusal, where neighbours may read it."""
    span: str = ""
    """The span id of the latest attempt, which an undo links to; that of a probe is apart."""
    probe_span: str = ""
    compensation_span: str = ""
    requests: tuple[Request, ...] = ()
    compensation_requests: tuple[Request, ...] = ()
    stands: tuple[str, ...] = ()
    asked: bool = False
    """A person was asked for an approval: nothing of the step ever stands (decision 0075)."""
    shown: Raw | None = None
    """The words for the person whose approval the step awaits."""

    @property
    def may_stand(self) -> bool:
        """True when an effect of this step may exist that nobody has undone."""
        if self.asked or self.phase is Phase.COMPENSATED:
            return False
        return self.result is not None or self.doubted or self.may_come


class Saga(Struct, frozen=True, kw_only=True, gc=False):
    """The state of one saga at this stage: the fold of its journal."""

    id: str
    state: SagaState = SagaState.ACTIVE
    epoch: int = 1
    generation: int = 1
    """The generation of the database when the saga was accepted, or last taken over by code that
    fits it."""
    asked_in: int = 1
    """The generation of the database in which it was asked to compensate, and turned back."""
    length: int = 0
    """Number of journal entries folded."""
    accepted_at: float = 0.0
    updated_at: float = 0.0
    age: float = 0.0
    """Seconds that it had lived at its last entry: see `core.age`."""
    deadline: float | None = None
    pending: bool = False
    """A call is pending: callers are answered 202, and the deadline stands still."""
    budget_left: float | None = None
    """Seconds to the deadline when the first of its pending calls became pending."""
    heard: dict[str, Webhook] = {}
    """The words of webhooks on calls that are in flight, by step, until these have ended."""
    upstream: str = ""
    opener: str = ""
    """The `requester.opener_hash` of its upstream, where its journal is not read; else empty."""
    version: int = 1
    """The version of the stage that accepted it."""
    plan: Plan | None = None
    """Its own plan, where it does not run under the plan of the newest version (rule 32)."""
    steps: dict[str, StepState] = {}
    reason: str = ""
    """Why it was turned back, for people here."""
    detail: str = ""
    """Why it was turned back, for neighbours: no text of an exception, no address (rule 38)."""
    requested_by: str = ""
    """The name of the first to ask for compensation; empty while nobody has asked."""
    was_completed: bool = False
    deferred: bool = False
    tombstone: bool = False
    forgotten: bool = False
    """An operator gave it up; nothing more is done for it."""
    parked: str = ""
    """For people: why the saga waits for a person; empty while it does not."""
    parked_cause: ParkCause | None = None
    """For code: why the saga waits for a person; None while it does not."""
    recoveries: int = 0
    """Runs that began since the last progress."""
    stands: tuple[str, ...] = ()
    tell: Tell = Tell.NO
    tell_attempts: int = 0
    tell_due: float = 0.0
    tell_since: float | None = None
    """Its age when upstream was notified first; None before that."""
    tell_span: str = ""
    tell_error: str = ""
    upstream_knows: bool = False
    """Upstream has asked to compensate by itself while it was being notified."""
    tell_not_understood_since: float | None = None

    def under(self, newest: Plan) -> Plan:
        """The plan that it runs under: that of the newest version, unless it has its own."""
        return newest if self.plan is None else self.plan

    @property
    def ended(self) -> bool:
        """True when nothing more is done for the saga itself; upstream may still be notified."""
        return self.state in ENDED
