"""The exchange of payload keys, as far as it is the same on every database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from stage.core.errors import ConfigurationError
from stage.ports.store import TRACE_TERM, Row

if TYPE_CHECKING:  # it needs the extra `encryption`
    from stage.store.sealed import SealedCodec

BATCH: Final = 100
"""Rows a transaction: the writer of the stage waits for no more than that."""
PASSES_MAX: Final = 10
NUMBER_CHARS_MAX: Final = 200
"""A longer value is no business number (engine.saga.terms)."""


class Reencrypted(msgspec.Struct, frozen=True, kw_only=True):
    """The result: `ended` are the ids of the keys of which nothing is left."""

    renewed: int
    key: str
    ended: tuple[str, ...]


def renewed_columns(codec: SealedCodec, row: Row) -> tuple[bytes, bytes, str]:
    """Envelope, answer and payload hash of a row under the key of today."""
    saga_id, envelope, answer, payload_hash = row
    return (
        codec.renew_envelope(saga_id, envelope),
        codec.renewed_answer(saga_id, answer),
        codec.renewed_hash(saga_id, payload_hash),
    )


def renewed_terms(
    codec: SealedCodec, saga_id: str, envelope: bytes, terms: Sequence[Row]
) -> list[tuple[str, str, str]]:
    """Name, stored value and new value of each business number that is under an older key.

    A hash cannot be opened. Its number is one of those in the envelope, which is tried.
    """
    if all(name == TRACE_TERM for name, _ in terms):
        return []
    numbers = set[str]()
    if envelope:
        _gather(codec.decode_envelope(saga_id, envelope).data, numbers)
    new = [(name, old, codec.renewed_term(name, old, numbers)) for name, old in terms]
    return [each for each in new if each[1] != each[2]]


def _gather(value: object, numbers: set[str]) -> None:
    if isinstance(value, Mapping):
        for each in value.values():
            _gather(each, numbers)
    elif isinstance(value, int) or (isinstance(value, str) and len(value) <= NUMBER_CHARS_MAX):
        numbers.add(str(value))


def not_settled() -> ConfigurationError:
    """For a stage that goes on writing under an older key."""
    return ConfigurationError(
        f"{PASSES_MAX} passes each found contents under an older key: a replica of the stage still"
        " writes so. Restart all of them with the new payload_key_file, then run this again"
    )
