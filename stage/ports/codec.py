"""How the contents of a saga become the bytes at rest in a database, and back.

Every store is given one codec, and the engine uses that of its store: encryption of the contents
at rest is another codec (`store.sealed`) and nothing more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from stage.core.events import Event
from stage.wire.envelope import Envelope


class Codec(Protocol):
    """Encodes and decodes each kind of contents. Pure: no I/O, and nothing that waits.

    The requests to external APIs and the results of steps lie in the events that hold them. Beside
    the contents a store keeps in the clear what it searches, orders and judges by: ids, states,
    epochs, instants, names of events, the trace context and the cause of parking.

    `saga_id` names the saga that the bytes belong to, and `number` the place in its journal, for a
    codec that ties the bytes to their place; `number` is 0 for an event that is on its way to the
    journal. Decoding raises msgspec.MsgspecError or ValueError for bytes that this codec did not
    write, or not for that place, and NewerJournal for those under a key that it lacks.
    """

    def admit(self, recorded: Collection[str]) -> str:
        """The id of the key that is used from now on, to be recorded before the first write.

        `recorded` are the keys under which contents of the database may lie. Called by a store
        when it is opened. Raises ConfigurationError with the fix for one that this codec lacks.
        """
        ...

    def encode_envelope(self, envelope: Envelope) -> bytes:
        """The bytes of an accepted envelope, never empty. Called once a saga."""
        ...

    def decode_envelope(self, saga_id: str, encoded: bytes) -> Envelope:
        """The envelope that was accepted."""
        ...

    def renew_envelope(self, saga_id: str, encoded: bytes) -> bytes:
        """The bytes of an envelope as they are written now. A live saga may hold older ones."""
        ...

    def encode_event(self, saga_id: str, number: int, event: Event) -> bytes:
        """The bytes of one journal entry."""
        ...

    def decode_event(self, saga_id: str, number: int, encoded: bytes) -> Event:
        """The event of one journal entry."""
        ...

    def encode_answer(self, saga_id: str, body: bytes) -> bytes:
        """The bytes of the answer that a duplicate gets; `body` is empty before the end."""
        ...

    def decode_answer(self, saga_id: str, encoded: bytes) -> bytes:
        """The body of the answer, byte for byte as it was first given."""
        ...

    def encode_hash(self, saga_id: str, payload_hash: str) -> str:
        """The text of the payload hash, from which a payload of few choices could be guessed."""
        ...

    def encode_term(self, name: str, value: str) -> str:
        """The text under which a business number is kept and searched: the same for the same."""
        ...

    def known_terms(self, name: str, value: str) -> list[str]:
        """Every text under which it may lie here, that of today first."""
        ...

    def decode_hash(self, saga_id: str, encoded: str) -> str:
        """The payload hash."""
        ...
