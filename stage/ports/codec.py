"""How the contents of a saga become the bytes at rest in a database, and back.

Every store is given one codec, and the engine uses that of its store: encryption of the contents
at rest needs another codec and nothing more.
"""

from __future__ import annotations

from typing import Protocol

from stage.core.events import Event
from stage.wire.envelope import Envelope


class Codec(Protocol):
    """Encodes and decodes each kind of contents. Pure: no I/O, and nothing that waits.

    The requests to external APIs and the results of steps lie in the events that hold them. Beside
    the contents a store keeps in the clear what it searches, orders and judges by: ids, states,
    epochs, instants, names of events, the payload hash, the trace context and the cause of parking.

    `saga_id` names the saga that the bytes belong to, for a codec with a key for each. Decoding
    raises msgspec.MsgspecError or ValueError for bytes that this codec did not write.
    """

    def encode_envelope(self, envelope: Envelope) -> bytes:
        """The bytes of an accepted envelope, never empty. Called once a saga."""
        ...

    def decode_envelope(self, saga_id: str, encoded: bytes) -> Envelope:
        """The envelope that was accepted."""
        ...

    def encode_event(self, saga_id: str, event: Event) -> bytes:
        """The bytes of one journal entry."""
        ...

    def decode_event(self, saga_id: str, encoded: bytes) -> Event:
        """The event of one journal entry."""
        ...

    def encode_answer(self, saga_id: str, body: bytes) -> bytes:
        """The bytes of the answer that a duplicate gets; `body` is empty before the end."""
        ...

    def decode_answer(self, saga_id: str, encoded: bytes) -> bytes:
        """The body of the answer, byte for byte as it was first given."""
        ...
