"""The keys of the contents in a database: recorded before they are used, exchanged in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stage.ports.codec import Codec
from stage.store.postgres.link import Link
from stage.store.postgres.replica import UNNUMBERED
from stage.store.reencryption import (
    BATCH,
    PASSES_MAX,
    Reencrypted,
    not_settled,
    renewed_columns,
    renewed_terms,
)

if TYPE_CHECKING:  # it needs the extra `encryption`
    from stage.store.sealed import SealedCodec


async def payload_keys(link: Link) -> frozenset[str]:
    """The keys under which contents may lie in the database."""
    return frozenset(key for (key,) in await link.fetch("payload_keys"))


async def record_key(link: Link, codec: Codec) -> None:
    """Let the codec see which keys it needs, and record its own. Raises ConfigurationError."""
    recorded = await payload_keys(link)
    key = codec.admit(recorded)
    if key not in recorded:
        await link.fetch("put_payload_key", key)


async def reencrypt(link: Link, codec: SealedCodec) -> Reencrypted:
    """As store.sqlite.payload_keys.reencrypt.

    Each row is replaced by itself, and only as it was read: no lock is held on two rows, so that
    the writers of replicas never wait for this in a circle.
    """
    renewed = 0
    for _ in range(PASSES_MAX):
        recorded = await payload_keys(link)
        current = codec.admit_again(recorded)
        found = await _sagas(link, codec) + await _entries(link, codec) + await _mail(link, codec)
        if not found:
            ended = sorted(recorded - {current})
            for key in ended:
                await link.fetch("drop_payload_key", key)
            return Reencrypted(renewed=renewed, key=current, ended=tuple(ended))
        renewed += found
    raise not_settled()


async def _sagas(link: Link, codec: SealedCodec) -> int:
    last, changed = "", 0
    while found := await link.fetch("sealed_sagas", last, BATCH):
        for row in found:
            new = renewed_columns(codec, row)
            if new != row[1:]:
                await link.fetch("reseal_saga", *row, *new)
                changed += 1
            terms = await link.fetch("terms_of_saga", row[0])
            for term in renewed_terms(codec, row[0], new[0], terms):
                await link.fetch("reseal_term", row[0], *term)
                changed += 1
        last = found[-1][0]
    return changed


async def _entries(link: Link, codec: SealedCodec) -> int:
    last, number, changed = "", 0, 0
    while found := await link.fetch("sealed_entries", last, number, BATCH):
        for saga_id, place, event in found:
            new = codec.renewed_event(saga_id, place, event)
            if new != event:
                await link.fetch("reseal_entry", saga_id, place, new)
                changed += 1
        last, number = found[-1][:2]
    return changed


async def _mail(link: Link, codec: SealedCodec) -> int:
    last, changed = 0, 0
    while found := await link.fetch("sealed_mail", last, BATCH):
        for number, saga_id, event in found:
            new = codec.renewed_event(saga_id, UNNUMBERED, event)
            if new != event:
                await link.fetch("reseal_mail", number, new)
                changed += 1
        last = found[-1][0]
    return changed
