"""The contents of a saga as plain JSON at rest: the codec of every store unless it gets another."""

from __future__ import annotations

from typing import Final

from stage.core.events import Event, decode_event, encode_event
from stage.ports.codec import Codec
from stage.wire.envelope import Envelope, decode_envelope, encode_envelope


class PlainCodec:
    """ports.codec.Codec whose bytes anybody can read who can read the database."""

    def encode_envelope(self, envelope: Envelope) -> bytes:
        """See ports.codec.Codec."""
        return encode_envelope(envelope)

    def decode_envelope(self, saga_id: str, encoded: bytes) -> Envelope:
        """See ports.codec.Codec."""
        return decode_envelope(encoded)

    def encode_event(self, saga_id: str, event: Event) -> bytes:
        """See ports.codec.Codec."""
        return encode_event(event)

    def decode_event(self, saga_id: str, encoded: bytes) -> Event:
        """See ports.codec.Codec."""
        return decode_event(encoded)

    def encode_answer(self, saga_id: str, body: bytes) -> bytes:
        """See ports.codec.Codec."""
        return body

    def decode_answer(self, saga_id: str, encoded: bytes) -> bytes:
        """See ports.codec.Codec."""
        return encoded


PLAIN: Final[Codec] = PlainCodec()
