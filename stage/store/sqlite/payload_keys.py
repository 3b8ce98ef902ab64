"""The keys of the contents in a file: recorded before they are used, and exchanged in batches."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from stage.ports.codec import Codec
from stage.store.reencryption import (
    BATCH,
    PASSES_MAX,
    Reencrypted,
    not_settled,
    renewed_columns,
    renewed_terms,
)
from stage.store.sqlite.statements import statement

if TYPE_CHECKING:  # it needs the extra `encryption`
    from stage.store.sealed import SealedCodec

_FIRST_ENTRY: Final = ("", 0)


def payload_keys(connection: sqlite3.Connection) -> frozenset[str]:
    """The keys under which contents may lie in the file."""
    return frozenset(key for (key,) in connection.execute(statement("payload_keys")))


def record_key(connection: sqlite3.Connection, codec: Codec) -> None:
    """Let the codec see which keys it needs, and record its own. Raises ConfigurationError."""
    recorded = payload_keys(connection)
    key = codec.admit(recorded)
    if key not in recorded:
        connection.execute(statement("put_payload_key"), (key,))


def reencrypt(connection: sqlite3.Connection, codec: SealedCodec) -> Reencrypted:
    """Bring all contents under the first key, beside a stage that serves from the file.

    Each batch is a short transaction of its own, so that a stop at any place loses nothing. The
    record of an older key is dropped once a whole pass has found none of its contents.
    """
    connection.execute(statement("secure_delete"))
    renewed = 0
    for _ in range(PASSES_MAX):
        recorded = payload_keys(connection)
        current = codec.admit_again(recorded)
        found = _sagas(connection, codec) + _entries(connection, codec)
        if not found:
            ended = sorted(recorded - {current})
            for key in ended:
                connection.execute(statement("drop_payload_key"), (key,))
            return Reencrypted(renewed=renewed, key=current, ended=tuple(ended))
        renewed += found
    raise not_settled()


def _sagas(connection: sqlite3.Connection, codec: SealedCodec) -> int:
    last, changed = "", 0
    while True:
        connection.execute(statement("begin_batch"))
        with connection:
            found = connection.execute(statement("sealed_sagas"), (last, BATCH)).fetchall()
            for row in found:
                new = renewed_columns(codec, row)
                if new != row[1:]:
                    connection.execute(statement("reseal_saga"), (*row, *new))
                    changed += 1
                terms = connection.execute(statement("terms_of_saga"), (row[0],)).fetchall()
                for term in renewed_terms(codec, row[0], new[0], terms):
                    connection.execute(statement("reseal_term"), (row[0], *term))
                    changed += 1
        if not found:
            return changed
        last = found[-1][0]


def _entries(connection: sqlite3.Connection, codec: SealedCodec) -> int:
    last, changed = _FIRST_ENTRY, 0
    while True:
        connection.execute(statement("begin_batch"))
        with connection:
            found = connection.execute(statement("sealed_entries"), (*last, BATCH)).fetchall()
            for saga_id, number, event in found:
                new = codec.renewed_event(saga_id, number, event)
                if new != event:
                    connection.execute(statement("reseal_entry"), (saga_id, number, new))
                    changed += 1
        if not found:
            return changed
        last = found[-1][:2]
