"""The contents of a saga as plain JSON at rest: the codec of every store unless it gets another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from stage.core.errors import ConfigurationError
from stage.core.events import Event, decode_event, encode_event
from stage.ports.codec import Codec
from stage.wire.envelope import Envelope, decode_envelope, encode_envelope

PLAIN_KEY: Final = "plain"
"""Recorded in place of the id of a key, while contents may lie in the clear."""


class PlainCodec:
    """ports.codec.Codec whose bytes anybody can read who can read the database."""

    def admit(self, recorded: Collection[str]) -> str:
        """See ports.codec.Codec."""
        if sealed := sorted(set(recorded) - {PLAIN_KEY}):
            raise ConfigurationError(
                f"contents of the database are encrypted under the key {', '.join(sealed)}: give"
                " the file that holds it as payload_key_file"
            )
        return PLAIN_KEY

    def encode_envelope(self, envelope: Envelope) -> bytes:
        """See ports.codec.Codec."""
        return encode_envelope(envelope)

    def decode_envelope(self, saga_id: str, encoded: bytes) -> Envelope:
        """See ports.codec.Codec."""
        return decode_envelope(encoded)

    def renew_envelope(self, saga_id: str, encoded: bytes) -> bytes:
        """See ports.codec.Codec."""
        return encoded

    def encode_event(self, saga_id: str, number: int, event: Event) -> bytes:
        """See ports.codec.Codec."""
        return encode_event(event)

    def decode_event(self, saga_id: str, number: int, encoded: bytes) -> Event:
        """See ports.codec.Codec."""
        return decode_event(encoded)

    def encode_answer(self, saga_id: str, body: bytes) -> bytes:
        """See ports.codec.Codec."""
        return body

    def decode_answer(self, saga_id: str, encoded: bytes) -> bytes:
        """See ports.codec.Codec."""
        return encoded

    def encode_hash(self, saga_id: str, payload_hash: str) -> str:
        """See ports.codec.Codec."""
        return payload_hash

    def encode_term(self, name: str, value: str) -> str:
        """See ports.codec.Codec."""
        return value

    def known_terms(self, name: str, value: str) -> list[str]:
        """See ports.codec.Codec."""
        return [value]

    def decode_hash(self, saga_id: str, encoded: str) -> str:
        """See ports.codec.Codec."""
        return encoded


PLAIN: Final[Codec] = PlainCodec()
