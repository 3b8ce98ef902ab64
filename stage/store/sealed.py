"""The contents of a saga encrypted at rest: AES-256-GCM, under the keys of the operator's file.

A key of the file encrypts nothing itself. From it and the id of a saga the key of that saga is
derived, so that no key ever sees so many messages that two random nonces could meet. The place of
the bytes (kind, saga, number) is authenticated with them: bytes that were moved do not open.

    0 1    id of the key (4 bytes)    nonce (12)    ciphertext and tag

Contents in the clear begin otherwise, and are read only while the database is recorded to hold
such: until `stage db reencrypt` has found none.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Collection
from functools import lru_cache
from os import urandom
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stage.core.errors import ConfigurationError, NewerJournal
from stage.core.events import Event, decode_event, encode_event
from stage.ports.store import TRACE_TERM
from stage.store.codec import PLAIN_KEY, SEALED, SEALED_HASH, stored_envelope
from stage.wire.envelope import Envelope, encode_envelope

KEY_BYTES: Final = 32
KEYS_MAX: Final = 8
SAGA_KEYS_MAX: Final = 4096
"""Keys of sagas that are kept derived."""
_ID: Final = 4
_NONCE: Final = 12
_HEAD: Final = len(SEALED) + _ID + _NONCE
_HASHED_TERM: Final = re.compile(r"[0-9a-f]{64}")
_LINE: Final = re.compile(r"[A-Za-z0-9_-]{43}=?")


class PayloadKey(msgspec.Struct, frozen=True):
    """One key of the file. Its id is derived from it, so that no id can name another key."""

    secret: bytes

    @property
    def id(self) -> bytes:
        """Written before the bytes that it encrypts."""
        return hashlib.sha256(b"stage payload key id\n" + self.secret).digest()[:_ID]

    def __repr__(self) -> str:
        return f"PayloadKey({self.id.hex()})"


def new_key_line() -> str:
    """A new key, as the file holds it."""
    return base64.urlsafe_b64encode(urandom(KEY_BYTES)).decode().rstrip("=")


def parse_keys(text: str) -> tuple[PayloadKey, ...]:
    """The keys in a file: the first encrypts, all decrypt. Raises ValueError, quoting no line."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if not _LINE.fullmatch(stripped):
            raise ValueError(f"line {number} is no key: let `stage keys payload` write it")
        try:
            secret = base64.urlsafe_b64decode(stripped.rstrip("=") + "=")
        except binascii.Error:
            raise ValueError(
                f"line {number} is no key: let `stage keys payload` write it"
            ) from None
        found.append(PayloadKey(secret))
    if not found:
        raise ValueError("holds no key: let `stage keys payload` write one")
    if len(found) > KEYS_MAX or len({key.id for key in found}) < len(found):
        raise ValueError(f"holds a key twice, or more than {KEYS_MAX}: keep those in use")
    return tuple(found)


class SealedCodec:
    """ports.codec.Codec whose bytes only those can read who have the key, and nobody can change."""

    def __init__(self, keys: tuple[PayloadKey, ...]) -> None:
        self._keys = {key.id: key.secret for key in keys}
        self._current = keys[0].id
        self._head = SEALED + self._current
        self._hash_head = SEALED_HASH + base64.b64encode(self._head).decode()
        self._cipher = lru_cache(SAGA_KEYS_MAX)(self._derive)
        self._reads_clear = False

    def __repr__(self) -> str:
        return f"SealedCodec({', '.join(each.hex() for each in self._keys)})"

    def admit(self, recorded: Collection[str]) -> str:
        """See ports.codec.Codec."""
        known = {key_id.hex() for key_id in self._keys}
        if lacking := sorted(set(recorded) - known - {PLAIN_KEY}):
            raise ConfigurationError(
                f"contents of the database are encrypted under the key {', '.join(lacking)}, which"
                f" payload_key_file does not hold (it holds {', '.join(sorted(known))}): add that"
                " key as a further line, or let `stage db reencrypt` end its use"
            )
        self._reads_clear = PLAIN_KEY in recorded
        return self._current.hex()

    def admit_again(self, recorded: Collection[str]) -> str:
        """As `admit`, for a key that the stage must write with already. Raises ConfigurationError.

        Contents under a key that a running stage does not have would be lost to it.
        """
        current = self.admit(recorded)
        if current not in recorded:
            raise ConfigurationError(
                f"no stage has written under the key {current} yet: start the stage with this"
                " payload_key_file first"
            )
        return current

    def encode_envelope(self, envelope: Envelope) -> bytes:
        """See ports.codec.Codec."""
        return self._seal(envelope.saga_id, "envelope", encode_envelope(envelope))

    def decode_envelope(self, saga_id: str, encoded: bytes) -> Envelope:
        """See ports.codec.Codec."""
        return stored_envelope(saga_id, self._open(saga_id, "envelope", encoded))

    def renew_envelope(self, saga_id: str, encoded: bytes) -> bytes:
        """See ports.codec.Codec. Empty ones are those of tombstones, and of closed sagas."""
        return self._renewed(saga_id, "envelope", encoded)

    def encode_event(self, saga_id: str, number: int, event: Event) -> bytes:
        """See ports.codec.Codec."""
        return self._seal(saga_id, f"event {number}", encode_event(event))

    def decode_event(self, saga_id: str, number: int, encoded: bytes) -> Event:
        """See ports.codec.Codec."""
        return decode_event(self._open(saga_id, f"event {number}", encoded))

    def encode_answer(self, saga_id: str, body: bytes) -> bytes:
        """See ports.codec.Codec."""
        return self._seal(saga_id, "answer", body) if body else b""

    def decode_answer(self, saga_id: str, encoded: bytes) -> bytes:
        """See ports.codec.Codec."""
        return self._open(saga_id, "answer", encoded) if encoded else b""

    def encode_hash(self, saga_id: str, payload_hash: str) -> str:
        """See ports.codec.Codec."""
        if not payload_hash:
            return ""
        sealed = self._seal(saga_id, "hash", bytes.fromhex(payload_hash))
        return SEALED_HASH + base64.b64encode(sealed).decode()

    def encode_term(self, name: str, value: str) -> str:
        """See ports.codec.Codec: a keyed hash, so that a number cannot be read or guessed."""
        return self._hashed_term(self._current, name, value)

    def known_terms(self, name: str, value: str) -> list[str]:
        """See ports.codec.Codec."""
        ids = [self._current, *(each for each in self._keys if each != self._current)]
        found = [self._hashed_term(each, name, value) for each in ids]
        return [*found, value] if self._reads_clear or name == TRACE_TERM else found

    def renewed_term(self, name: str, value: str, numbers: Collection[str]) -> str:
        """The stored term under the key of today, where it is one of these numbers of its saga.

        A clear term that is none of them is hashed as it is.
        """
        for number in numbers:
            known = self.known_terms(name, number)
            if value in known:
                return value if name == TRACE_TERM else known[0]
        clear = self._reads_clear and not _HASHED_TERM.fullmatch(value)
        return self.encode_term(name, value) if clear else value

    def _hashed_term(self, key_id: bytes, name: str, value: str) -> str:
        if name == TRACE_TERM:  # it stands in the row of the saga as well
            return value
        label = f"stage term\n{name}\n{value}".encode()
        return hmac.digest(self._keys[key_id], label, "sha256").hex()

    def decode_hash(self, saga_id: str, encoded: str) -> str:
        """See ports.codec.Codec."""
        if not encoded.startswith(SEALED_HASH):
            if encoded and not self._reads_clear:
                raise ValueError(f"the payload hash of saga {saga_id} is in the clear")
            return encoded
        sealed = base64.b64decode(encoded.removeprefix(SEALED_HASH), validate=True)
        return self._open(saga_id, "hash", sealed).hex()

    def _renewed(self, saga_id: str, place: str, encoded: bytes) -> bytes:
        """The same contents under the key of today; the same bytes where they are already."""
        if not encoded or encoded.startswith(self._head):
            return encoded
        return self._seal(saga_id, place, self._open(saga_id, place, encoded))

    def renewed_event(self, saga_id: str, number: int, encoded: bytes) -> bytes:
        """The journal entry under the key of today."""
        return self._renewed(saga_id, f"event {number}", encoded)

    def renewed_answer(self, saga_id: str, encoded: bytes) -> bytes:
        """The answer under the key of today."""
        return self._renewed(saga_id, "answer", encoded)

    def renewed_hash(self, saga_id: str, encoded: str) -> str:
        """The text of the payload hash under the key of today."""
        if encoded.startswith(self._hash_head):
            return encoded
        return self.encode_hash(saga_id, self.decode_hash(saga_id, encoded))

    def _derive(self, key_id: bytes, saga_id: str) -> AESGCM:
        label = b"stage payload\n" + saga_id.encode()
        return AESGCM(hmac.digest(self._keys[key_id], label, "sha256"))

    def _seal(self, saga_id: str, place: str, clear: bytes) -> bytes:
        nonce = urandom(_NONCE)
        cipher = self._cipher(self._current, saga_id)
        return self._head + nonce + cipher.encrypt(nonce, clear, _bound(saga_id, place))

    def _open(self, saga_id: str, place: str, sealed: bytes) -> bytes:
        if not sealed.startswith(SEALED):
            if self._reads_clear:
                return sealed
            raise ValueError(
                f"the {place} of saga {saga_id} is in the clear, and this stage wrote none so:"
                " restore the database from a backup"
            )
        key_id = sealed[len(SEALED) : len(SEALED) + _ID]
        if key_id not in self._keys:
            raise NewerJournal(
                f"the {place} of saga {saga_id} is encrypted under the key {key_id.hex()}, which"
                " this process began without: one that has it goes on with the saga. Add it to"
                " payload_key_file, and restart"
            )
        nonce = sealed[len(SEALED) + _ID : _HEAD]
        try:
            cipher = self._cipher(key_id, saga_id)
            return cipher.decrypt(nonce, sealed[_HEAD:], _bound(saga_id, place))
        except (InvalidTag, ValueError):
            raise ValueError(
                f"the {place} of saga {saga_id} was changed or moved since it was encrypted:"
                " restore the database from a backup"
            ) from None


def _bound(saga_id: str, place: str) -> bytes:
    """The place that is authenticated with the contents; neither part holds a line break."""
    return f"{place}\n{saga_id}".encode()
