"""Tokens of callers: how one is shown, and how it is recognised without being kept.

A token is 32 random bytes, so one plain hash keeps it: there is nothing to guess it from.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence

AUTHORIZATION = "Authorization"
BEARER = "Bearer"
TOKEN_BYTES = 32
TOKEN_CHARS_MAX = 512
ACCEPTED_MAX = 2
"""Lines of an accept_file: the token of today, and during a rotation the one before it."""

_BEARER = re.compile(r"bearer +([\x21-\x7e]+) *", re.IGNORECASE)
_BASIC = re.compile(r"basic +([A-Za-z0-9+/=]+) *", re.IGNORECASE)
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_LINE = re.compile(r"sha256:([0-9a-f]{64})")


def bearer_of(values: Sequence[str]) -> str | None:
    """The token in the `Authorization` headers of a request; None without exactly one."""
    if len(values) != 1 or len(values[0]) > TOKEN_CHARS_MAX:
        return None
    found = _BEARER.fullmatch(values[0])
    return None if found is None else found[1]


def basic_token_of(values: Sequence[str]) -> str | None:
    """The token that a person typed as the password of a browser's own dialog; None without one.

    The name beside it counts for nothing: the token has one.
    """
    if len(values) != 1 or len(values[0]) > 2 * TOKEN_CHARS_MAX:
        return None
    found = _BASIC.fullmatch(values[0])
    try:
        pair = b"" if found is None else base64.b64decode(found[1], validate=True)
        token = pair.partition(b":")[2].decode("ascii")
    except ValueError:
        return None
    return token if _TOKEN.fullmatch(token) else None


def accept_line(token: str) -> str:
    """The line of an accept_file that recognises the token."""
    return f"sha256:{digest_of(token).hex()}"


def digest_of(token: str) -> bytes:
    """The hash that is kept in place of the token."""
    return hashlib.sha256(token.encode()).digest()


def parse_accept_lines(text: str) -> tuple[bytes, ...]:
    """The digests in an accept_file. Raises ValueError with the fix, without quoting a line."""
    digests = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = _LINE.fullmatch(stripped)
        if found is None:
            raise ValueError(f"line {number} is no hash of a token: let `stage keys new` write it")
        digests.append(bytes.fromhex(found[1]))
    if len(digests) > ACCEPTED_MAX:
        raise ValueError(f"has {len(digests)} hashes: keep the latest {ACCEPTED_MAX}")
    return tuple(digests)


def is_accepted(token: str, digests: Iterable[bytes]) -> bool:
    """Whether one of the digests is the token's. Looks at all, in constant time each."""
    return is_among(digest_of(token), digests)


def is_among(shown: bytes, digests: Iterable[bytes]) -> bool:
    """As `is_accepted`, for a digest that was made once for several questions."""
    found = False
    for digest in digests:
        found |= hmac.compare_digest(shown, digest)
    return found
