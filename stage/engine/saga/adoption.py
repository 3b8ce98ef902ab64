"""A saga that the database lost, written anew from the words of its neighbours (rule 33)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from stage.core import events as e
from stage.core.bindings import bound_steps
from stage.core.lost import Word, called_otherwise, claimants, journal_of, may_ask, nothing_stands
from stage.core.saga import Saga
from stage.core.unseen import sent_at_of
from stage.engine.saga.acts import how_it_stands
from stage.engine.saga.context import Context, buried, context_with, fingerprint_of
from stage.engine.saga.interpreter import Interpreter
from stage.engine.saga.journal import Journal, Stored
from stage.ports.codec import Codec
from stage.ports.identity import Identity
from stage.ports.observer import TraceContext
from stage.ports.store import Act, Entry, LostSaga, Unit
from stage.wire.envelope import Envelope, TrailEntry, format_instant

ADOPTED: Final = "adopted"
"""The act of taking over a saga that the database lost."""
NOT_HERE: Final = "not here"


class Testimony(msgspec.Struct, frozen=True, kw_only=True):
    """The words of the neighbours on a saga that is not in the database."""

    id: str
    words: tuple[Word, ...] = ()
    envelope: Envelope | None = None
    """The envelope of a neighbour that does not speak as upstream, as it came in here; None where
    there is none, or where none is needed."""
    sent: Mapping[str, Envelope] = {}
    """The envelope of each neighbour that speaks as upstream."""
    through: str = ""
    """The opener by the envelope that went through this stage, under its name of today."""
    asked: e.CompensationRequested | None = None
    """The first request to compensate that was made of it by a caller that it belongs to."""
    strangers: tuple[str, ...] = ()
    """The names of others that have asked to compensate it."""
    known_at: tuple[float, ...] = ()
    """Instants at which it was on its way already, by the clocks of its neighbours."""

    def heard(self, word: Word, given: Envelope | None, opener: str) -> Testimony:
        """With the word of one neighbour more, and with the envelope that it has, if any.

        `opener` is the name of today of the neighbour that this envelope came from.
        """
        # A neighbour may list it under several names of a stage that was renamed.
        known = replace(self, words=tuple(dict.fromkeys((*self.words, word))))
        if given is None:
            return known
        if word.from_upstream:
            return replace(known, sent={**self.sent, word.neighbour: given})
        if self.through:
            return known
        needless = self.sent.keys() == {opener}  # no second copy is held of nearly every saga
        return replace(known, through=opener, envelope=None if needless else given)

    def known_since(self, at: float | None) -> Testimony:
        """With one instant more, where there is one."""
        return self if at is None else replace(self, known_at=(*self.known_at, at))

    def accepted_at(self, identity: Identity, now: float) -> float:
        """An instant no later than that at which this stage handed the saga on.

        A downstream whose database is younger than that may have lost the saga too, and must not
        take it for one that it never had (protocol 3.4). It came after the backup was made: of a
        neighbour with a clock of 1970, or with no instant at all, any other downstream would be
        asked for a saga from before its birth.
        """
        known = [*self.known_at]
        if (drawn_at := sent_at_of(self.id)) is not None:
            known.append(drawn_at)
        floor = identity.restored_as_of
        if floor is None:
            return max(0.0, min([now, *known]))
        return min(now, max(floor, min(known, default=floor)))

    @property
    def may_stand(self) -> bool:
        """False where upstream has the word of this stage that nothing stands here."""
        return self.asked is not None or nothing_stands(self.words) is None

    @property
    def upstream(self) -> str:
        """The neighbour that opened it; empty where no one can tell, or several say so."""
        came_in = self.came_in
        if came_in is not None:
            return came_in.upstream
        return self._claimant

    @property
    def came_in(self) -> Envelope | None:
        """The envelope that it came in; None where no neighbour could give it.

        Upstream has it as it came; that of a downstream went through this stage. Where neighbours
        contradict each other it is nobody's: by the payload of another saga nothing is undone.
        """
        claimant = self._claimant
        if not claimant and claimants(self.words):
            return None
        return self.sent.get(claimant, self.envelope)

    @property
    def _claimant(self) -> str:
        """The upstream that says that it sent the saga, and that no neighbour contradicts.

        Of several the one counts whose name is in the envelope that went through this stage.
        """
        claimed = claimants(self.words)
        if self.through:
            return self.through if self.through in claimed else ""
        return claimed[0] if len(claimed) == 1 else ""


class Adoption:
    """Writes lost sagas, each in a unit of its own."""

    def __init__(
        self,
        interpreter: Interpreter,
        journal: Journal,
        codec: Codec,
        identity: Identity,
        name_of_today: Callable[[str], str],
        sole_upstream: str = "",
    ) -> None:
        """`identity` is that of the database; `name_of_today` knows the former names of peers.

        `sole_upstream` is the only one that is configured, where there is one: nobody else can have
        opened a saga of which no neighbour says who did.
        """
        self._sole_upstream = sole_upstream
        self._name_of_today = name_of_today
        self._interpreter = interpreter
        self._journal = journal
        self._codec = codec
        self._identity = identity

    def called_otherwise(self, saga_id: str, entries: Sequence[Entry]) -> tuple[str, ...]:
        """See `core.lost.called_otherwise`."""
        bound = bound_steps(entry.event for entry in entries)
        return called_otherwise(self._interpreter.plan, saga_id, bound)

    def asked_for(self, lost: Testimony, kept: LostSaga, now: float) -> Testimony:
        """With a request to compensate that was kept while nobody here knew whose the saga is.

        It is carried out for callers that the saga belongs to (rule 36); of others a person reads.
        A neighbour that was renamed asks under the name of either time: the request gets the one
        that the saga has.
        """
        upstream, name = self._opener(lost), self._name_of_today(kept.requested_by)
        if name == self._name_of_today(upstream):
            name = upstream
        if not may_ask(self._interpreter.plan, upstream, name):
            return replace(lost, strangers=(*dict.fromkeys((*lost.strangers, kept.requested_by)),))
        if lost.asked is not None:
            return lost
        asked = e.CompensationRequested(at=now, requested_by=name, reason=kept.reason)
        return replace(lost, asked=asked).known_since(kept.first_sent_at)

    def _opener(self, lost: Testimony) -> str:
        """The upstream that opened it; empty where no one can tell."""
        unclaimed = lost.came_in is None and not claimants(lost.words)
        return self._sole_upstream if unclaimed else lost.upstream

    def stored(self, lost: Testimony, now: float) -> Stored:
        """The row and the journal that it gets."""
        plan = self._interpreter.plan
        events = journal_of(
            plan,
            lost.words,
            upstream=self._opener(lost),
            asked=lost.asked,
            strangers=lost.strangers,
            at=now,
            generation=self._identity.generation,
        )
        accepted_at = lost.accepted_at(self._identity, now)
        if isinstance(events[0], e.Accepted):
            events[0] = replace(events[0], at=accepted_at)
        context = self._context(lost, accepted_at) if lost.may_stand else buried(TraceContext())
        transition = self._interpreter.note(Saga(id=lost.id), events, now)
        return self._journal.store(transition, context, before=None)

    async def write(
        self, unit: Unit, lost: Testimony, now: float, *, actor: str = "", reason: str = ""
    ) -> bool:
        """Write it; False for a saga that is in the database after all, which stays as it is.

        A request to compensate may have come since the neighbours were asked: it is read in this
        unit, as it is kept in one that finds no saga. With an actor the audit keeps who took it
        over, and why.
        """
        if await unit.load(lost.id) is not None:
            return False
        for kept in await unit.lost_requests(lost.id):
            lost = self.asked_for(lost, kept, now)
        stored = self.stored(lost, now)
        await self._journal.write(unit, stored, epoch=None)
        if actor:
            await unit.keep_act(
                Act(
                    at=now,
                    actor=actor,
                    act=ADOPTED,
                    target=lost.id,
                    reason=reason,
                    before=NOT_HERE,
                    after=how_it_stands(stored.row),
                )
            )
        return True

    def _context(self, lost: Testimony, accepted_at: float) -> Context:
        envelope = lost.came_in
        known = "" if envelope is None else fingerprint_of(envelope)
        if envelope is None:
            upstream = self._opener(lost)
            trail = (TrailEntry(stage=upstream, at=format_instant(accepted_at)),)
            envelope = Envelope(saga_id=lost.id, data={}, trail=trail if upstream else ())
        return context_with(envelope, self._codec.encode_envelope(envelope), known, TraceContext())


def as_it_came(envelope: Envelope, names: tuple[str, ...]) -> Envelope:
    """The envelope that this stage accepted, from the one that it handed on under such a name."""
    stage = envelope.upstream
    if stage not in names:
        return envelope
    data = {name: value for name, value in envelope.data.items() if name != stage}
    return replace(envelope, data=data, trail=envelope.trail[:-1])
