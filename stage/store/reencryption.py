"""The exchange of payload keys, as far as it is the same on every database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from stage.core.errors import ConfigurationError
from stage.ports.store import Row

if TYPE_CHECKING:  # it needs the extra `encryption`
    from stage.store.sealed import SealedCodec

BATCH: Final = 100
"""Rows a transaction: the writer of the stage waits for no more than that."""
PASSES_MAX: Final = 10


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


def not_settled() -> ConfigurationError:
    """For a stage that goes on writing under an older key."""
    return ConfigurationError(
        f"{PASSES_MAX} passes each found contents under an older key: a replica of the stage still"
        " writes so. Restart all of them with the new payload_key_file, then run this again"
    )
