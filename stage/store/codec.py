"""The contents of a saga as plain JSON at rest: the codec of every store unless it gets another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from stage.core.errors import ConfigurationError, NewerJournal
from stage.core.events import Event, decode_event, encode_event
from stage.ports.codec import Codec
from stage.wire.envelope import Envelope, decode_envelope, encode_envelope
from stage.wire.problem import WireError

PLAIN_KEY: Final = "plain"
"""Recorded in place of the id of a key, while contents may lie in the clear."""
SEALED: Final = b"\x00\x01"
"""Begins contents that are encrypted; no JSON begins so."""
SEALED_HASH: Final = "sealed:"
"""Begins a payload hash that is encrypted, in a column of text."""


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
        return stored_envelope(saga_id, _clear(saga_id, encoded))

    def renew_envelope(self, saga_id: str, encoded: bytes) -> bytes:
        """See ports.codec.Codec."""
        return encoded

    def encode_event(self, saga_id: str, number: int, event: Event) -> bytes:
        """See ports.codec.Codec."""
        return encode_event(event)

    def decode_event(self, saga_id: str, number: int, encoded: bytes) -> Event:
        """See ports.codec.Codec."""
        return decode_event(_clear(saga_id, encoded))

    def encode_answer(self, saga_id: str, body: bytes) -> bytes:
        """See ports.codec.Codec."""
        return body

    def decode_answer(self, saga_id: str, encoded: bytes) -> bytes:
        """See ports.codec.Codec."""
        return _clear(saga_id, encoded)

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
        if encoded.startswith(SEALED_HASH):
            raise _encrypted(saga_id)
        return encoded


def stored_envelope(saga_id: str, body: bytes) -> Envelope:
    """The envelope in stored bytes. Raises ValueError: no caller has sent what is wrong with it.

    The error of a body that comes in would be answered as its fault, and as `not_executed`.
    """
    try:
        return decode_envelope(body)
    except WireError as error:
        raise ValueError(
            f"the envelope of saga {saga_id} was changed since it was written ({error.detail}):"
            " restore the database from a backup"
        ) from error


def _clear(saga_id: str, encoded: bytes) -> bytes:
    """Contents in the clear. Raises NewerJournal where another process has encrypted them since.

    A first key is used by each replica as it is restarted, beside those that are to follow.
    """
    if encoded.startswith(SEALED):
        raise _encrypted(saga_id)
    return encoded


def _encrypted(saga_id: str) -> NewerJournal:
    return NewerJournal(
        f"saga {saga_id} is encrypted, and this process began without a key: one that has it goes"
        " on with the saga. Give the file that holds it as payload_key_file, and restart"
    )


PLAIN: Final[Codec] = PlainCodec()
