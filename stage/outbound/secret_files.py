"""Files of credentials and certificates: read, understood, and refused without quoting them."""

from __future__ import annotations

import base64
import re
import ssl
import stat
from collections.abc import Callable
from typing import NamedTuple

from stage.outbound.proxy import Proxy
from stage.ports.certificates import MINIMUM, Pair, Shows, read_pair, read_pem, words_of
from stage.ports.connection import Connection
from stage.ports.credentials import ENGINE_HEADERS
from stage.ports.file_marks import Mark, mark_of

FILE_BYTES_MAX = 65_536
OTHERS = stat.S_IRWXG | stat.S_IRWXO
SECRETS = frozenset(
    {
        *("token_file", "bearer_file", "basic_file", "headers_file", "webhook_secret_file"),
        *("client_key", "proxy_basic_file"),
    }
)
HEADERS = ("token_file", "bearer_file", "basic_file", "headers_file")
AUTHORITIES = ("ca_file",)
PAIR = ("client_cert", "client_key")
WEBHOOKS = ("webhook_secret_file",)
PROXY = ("proxy_basic_file",)

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Shown(NamedTuple):
    """The credentials that a peer is shown. Its `repr` has the names alone."""

    headers: tuple[tuple[str, str], ...] = ()
    tls: ssl.SSLContext | None = None
    expires_at: float | None = None
    """The end of the client's certificate."""
    webhook_secrets: tuple[bytes, ...] = ()
    """The secrets that verify its webhooks; they are shown to nobody."""
    authorities: str = ""
    """The TLS is made of these and of `pair`."""
    pair: Pair | None = None
    proxy: Proxy | None = None
    """The way to the peer; its credentials are shown to the proxy alone."""

    def __repr__(self) -> str:
        names = ", ".join(name for name, _ in self.headers)
        return f"Shown({names}{', TLS' if self.tls else ''})"


def marks_of(connection: Connection, keys: tuple[str, ...]) -> dict[str, Mark]:
    """The marks of those files, by key. Raises ValueError with the fix for a missing one."""
    marks: dict[str, Mark] = {}
    for key in keys:
        if path := getattr(connection, key):
            try:
                marks[key] = mark_of(path)
            except OSError as error:
                raise ValueError(_unreadable(key, path, error)) from None
    return marks


def exposed(connection: Connection, marks: dict[str, Mark]) -> list[str]:
    """A line for each secret that other users of the machine may read."""
    return [
        f"{key} {getattr(connection, key)} may be read by others"
        f" (mode {stat.S_IMODE(mark.mode):04o}): chmod 600 it"
        for key, mark in marks.items()
        if key in SECRETS and mark.mode & OTHERS
    ]


def with_headers(shown: Shown, connection: Connection) -> Shown:
    """With the headers that the files give now.

    Raises ValueError with the fix, without what a file holds; so do the next two.
    """
    headers: list[tuple[str, str]] = []
    for key, understand in _UNDERSTAND.items():
        if path := getattr(connection, key):
            try:
                headers.extend(understand(_text(key, path)))
            except _NotUnderstood as error:
                raise ValueError(f"{key} {path} {error}") from None
    names = [name.lower() for name, _ in headers]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"headers_file sets {twice!r}, which is set already: remove it there")
    return shown._replace(headers=tuple(headers))


def with_authorities(shown: Shown, connection: Connection) -> Shown:
    """Believe the authorities of now."""
    if not (path := connection.ca_file):
        return shown
    try:
        pem = read_pem(path)
        if not pem.strip():  # none at all would stand for those of the system
            raise ValueError("it is empty")
        return _with_context(shown._replace(authorities=pem))
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ValueError(
            f"ca_file {path} cannot be used ({words_of(error)}): give PEM with certificates of"
            " authorities"
        ) from None


def with_pair(shown: Shown, connection: Connection) -> Shown:
    """Show the certificate of now."""
    if not (path := connection.client_cert):
        return shown
    try:
        pair = read_pair(path, connection.client_key, Shows.CLIENT)
        return _with_context(shown._replace(pair=pair, expires_at=pair.expires_at))
    except OSError as error:
        raise ValueError(_unreadable("client_cert", error.filename or path, error)) from None
    except ValueError as error:
        raise ValueError(f"client_cert {error}") from None


def with_webhook_secrets(shown: Shown, connection: Connection) -> Shown:
    """With the secrets of now."""
    return shown._replace(webhook_secrets=_webhook_secrets(connection))


def with_proxy(shown: Shown, connection: Connection) -> Shown:
    """By the proxy, with the credentials of now."""
    if not connection.proxy:
        return shown
    key, path = "proxy_basic_file", connection.proxy_basic_file
    if not path:
        return shown._replace(proxy=Proxy(connection.proxy))
    try:
        ((_, authorization),) = _basic(_text(key, path))
    except _NotUnderstood as error:
        raise ValueError(f"{key} {path} {error}") from None
    return shown._replace(proxy=Proxy(connection.proxy, authorization))


PARTS: tuple[tuple[tuple[str, ...], Callable[[Shown, Connection], Shown]], ...] = (
    (HEADERS, with_headers),
    (AUTHORITIES, with_authorities),
    (PAIR, with_pair),
    (WEBHOOKS, with_webhook_secrets),
    (PROXY, with_proxy),
)
"""The keys of files that are taken up together or not at all, and how they are read.

The issuer of a token knows nothing of the certificate beside it: a wrong file of one part must not
keep the others from being renewed.
"""


def _webhook_secrets(connection: Connection) -> tuple[bytes, ...]:
    """One secret a line: two while they are rotated. Raises ValueError with the fix."""
    key, path = "webhook_secret_file", connection.webhook_secret_file
    if not path:
        return ()
    try:
        secrets = tuple(line.strip().encode() for line in _text(key, path).splitlines())
    except _NotUnderstood as error:
        raise ValueError(f"{key} {path} {error}") from None
    secrets = tuple(secret for secret in secrets if secret)
    if not secrets:
        raise ValueError(f"{key} {path} holds no secret: write one a line, as the API gave it")
    return secrets


def check_header(name: object, value: object) -> tuple[str, str]:
    """A header that may be added. Raises ValueError that does not quote the value."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("a header has no valid name: give Name: value")
    if name.lower() in ENGINE_HEADERS:
        raise ValueError(f"header {name!r} is set by the engine: leave it out")
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise ValueError(f"header {name!r} has no valid value: give one line of ASCII")
    return name, value


class _NotUnderstood(Exception):
    """A file that says something else; the message has the fix."""


def _text(key: str, path: str) -> str:
    try:
        with open(path, "rb") as stream:
            body = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(_unreadable(key, path, error)) from None
    if len(body) > FILE_BYTES_MAX:
        raise _NotUnderstood(f"is larger than {FILE_BYTES_MAX} bytes: shorten it")
    try:
        return body.decode("utf-8-sig")  # some editors put a mark before the first byte
    except UnicodeDecodeError:
        raise _NotUnderstood("is not UTF-8: write it anew") from None


def _unreadable(key: str, path: str, error: OSError) -> str:
    return f"{key} {path} cannot be read ({error.strerror}): write it, readable by this user"


def _bearer(text: str) -> list[tuple[str, str]]:
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise _NotUnderstood("holds no token: write one line of ASCII without spaces")
    return [("Authorization", f"Bearer {token}")]


def _basic(text: str) -> list[tuple[str, str]]:
    pair = text.strip("\r\n")
    if ":" not in pair or not pair.isprintable():
        raise _NotUnderstood("holds no user and password: write one line user:password")
    return [("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())]


def _headers(text: str) -> list[tuple[str, str]]:
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    found = []
    for number, line in lines:
        if not line or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise _NotUnderstood(f"line {number} is no header: write Name: value")
        try:
            found.append(check_header(name.strip(), value.strip()))
        except ValueError as error:
            raise _NotUnderstood(f"line {number}: {error}") from None
    if not found:
        raise _NotUnderstood("holds no header: write Name: value")
    return found


_UNDERSTAND: dict[str, Callable[[str], list[tuple[str, str]]]] = {
    "token_file": _bearer,
    "bearer_file": _bearer,
    "basic_file": _basic,
    "headers_file": _headers,
}


def _with_context(shown: Shown) -> Shown:
    """With a new context for what is believed and shown now. Raises OSError, ValueError."""
    context = ssl.create_default_context(cadata=shown.authorities or None)
    context.minimum_version = MINIMUM
    context.set_alpn_protocols(("http/1.1",))
    if shown.pair is not None:
        shown.pair.load_into(context)
    return shown._replace(tls=context)
