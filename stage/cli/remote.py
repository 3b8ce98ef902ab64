"""One request to a running stage: once, without redirects or proxies, capped, within a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import click

from stage.cli.failure import FAILED, NEGATIVE, Failure, one_line
from stage.config import Config, check_url, load, local_socket
from stage.core.errors import StageError

if TYPE_CHECKING:
    import ssl
    from http.client import HTTPConnection

    import msgspec

V = TypeVar("V", bound="msgspec.Struct")
F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "http://127.0.0.1:8080"
ANSWER_SECONDS_MAX = 70.0
"""Longer than the longest wait that a stage grants."""
LONG_SECONDS_MAX = 900.0
"""For an order behind which the whole database is written anew: as long as workers wait for it."""
CONNECT_SECONDS_MAX = 5.0
ANSWER_BYTES_MAX = 8_388_608

UNIX = "unix:"
TOKEN_FILE = "stage.token_file"  # noqa: S105 - a key of click's context
TLS_FILES = {
    "stage.ca_file": ("--ca-file", "Trust these authorities alone (PEM)."),
    "stage.client_cert": ("--client-cert", "The certificate to show to the stage (PEM)."),
    "stage.client_key": ("--client-key", "Its key, where the certificate's file has none."),
}
"""Options of TLS by their key of click's context; each may stand in the environment."""
TOKEN_BYTES_MAX = 65_536
UNAUTHENTICATED = 401


def url_option(function: F) -> F:
    """Add `--url` and `--token-file`: where the stage is served, and what it is shown."""
    return token_file_option(
        click.option(
            "--url",
            envvar="STAGE_URL",
            callback=_url,
            metavar="URL",
            help="Where the stage is served: by default the socket beside the database, which"
            f" STAGE_CONFIG and STAGE_DATABASE name, or {DEFAULT_URL}; unix:FILE is a socket."
            "  [STAGE_URL]",
        )(function)
    )


def token_file_option(function: F) -> F:
    """Add `--token-file` and the files of TLS, which `exchange` reads for itself."""
    for key, (option, text) in reversed(TLS_FILES.items()):
        variable = "STAGE_" + option.removeprefix("--").replace("-", "_").upper()
        function = click.option(
            option,
            envvar=variable,
            metavar="FILE",
            expose_value=False,
            callback=partial(keep_option, key),
            help=f"{text}  [{variable}]",
        )(function)
    return click.option(
        "--token-file",
        envvar="STAGE_TOKEN_FILE",
        metavar="FILE",
        expose_value=False,
        callback=partial(keep_option, TOKEN_FILE),
        help="The token to show to the stage.  [STAGE_TOKEN_FILE]",
    )(function)


def keep_option(
    key: str, context: click.Context, _option: click.Parameter, value: str | None
) -> None:
    """Keep the value of an option in click's context, under that key."""
    context.meta[key] = value


def _url(_context: click.Context, _option: click.Parameter, value: str | None) -> str:
    """The URL that is given, the socket if a stage listens there, otherwise the usual port."""
    if value:
        return value
    path = local_socket(_database())
    if path is not None and path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
            try:
                tried.connect(str(path))
            except OSError:
                return DEFAULT_URL  # a stage that was killed left it behind
        return f"{UNIX}{path}"
    return DEFAULT_URL


def _database() -> str:
    """The database of the stage here, by the same origins as `stage serve` without options."""
    try:
        return load({}, os.environ).database
    except StageError:
        return Config().database


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For a person, or for a program.",
)


class Answer(NamedTuple):
    """An answer, read whole. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def checked_url(url: str, option: str = "option --url") -> str:
    """The base URL without a trailing slash. Raises Failure."""
    try:
        return check_url(url)
    except ValueError as error:
        raise Failure(f"{option}: {error}") from None


def exchange(
    method: str,
    url: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    seconds_max: float | None = None,
) -> Answer:
    """Send one request to `url` + `path`; it waits for each part of the answer so long.

    Raises Failure: with FAILED when nobody was reached, with NEGATIVE when the answer was lost, so
    that nobody knows what the request did.
    """
    from http.client import HTTPException
    from urllib.parse import urlsplit

    base = url if url.startswith(UNIX) else checked_url(url)
    shown = _token_headers()
    connection = _connected(base, ANSWER_SECONDS_MAX if seconds_max is None else seconds_max)
    try:
        try:
            if not base.startswith(UNIX):
                path = urlsplit(base).path + path
            connection.request(method, path, body=body, headers={**(headers or {}), **shown})
            response = connection.getresponse()
            answer = response.read(ANSWER_BYTES_MAX + 1)
        except (OSError, HTTPException) as error:
            raise Failure(
                f"the answer of {base} was lost ({_text_of(error)}): what the request did is not"
                " known; ask again, under the same saga id",
                NEGATIVE,
            ) from error
    finally:
        connection.close()
    if len(answer) > ANSWER_BYTES_MAX:
        raise Failure(f"the answer of {base} has more than {ANSWER_BYTES_MAX} bytes: ask for less")
    return Answer(
        response.status, {name.lower(): value for name, value in response.getheaders()}, answer
    )


def _connected(base: str, seconds_max: float) -> HTTPConnection:
    """An open connection. Raises Failure when there is none within CONNECT_SECONDS_MAX."""
    from http.client import HTTPConnection, HTTPSConnection
    from urllib.parse import urlsplit

    connection: HTTPConnection
    try:
        if base.startswith(UNIX):
            connection = HTTPConnection("localhost")
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.connect(base.removeprefix(UNIX))
        else:
            parts = urlsplit(base)
            assert parts.hostname is not None  # check_url saw it
            if parts.scheme == "https":
                connection = HTTPSConnection(
                    parts.hostname, parts.port, timeout=CONNECT_SECONDS_MAX, context=_tls_context()
                )
            else:
                connection = HTTPConnection(parts.hostname, parts.port, timeout=CONNECT_SECONDS_MAX)
            connection.connect()
    except OSError as error:
        connection.close()
        raise Failure(
            f"{base} cannot be reached ({_text_of(error)}):"
            " start it with `stage serve`, or name another with --url or STAGE_URL, or its settings"
            " with STAGE_CONFIG or STAGE_DATABASE"
        ) from error
    connection.sock.settimeout(seconds_max)
    return connection


def _tls_context() -> ssl.SSLContext:
    """TLS with the files of the options. Raises Failure."""
    import ssl

    from stage.ports.certificates import MINIMUM, load_pair, words_of

    context = click.get_current_context(silent=True)
    ca, cert, key = ("" if context is None else context.meta.get(each) or "" for each in TLS_FILES)
    try:
        made = ssl.create_default_context(cafile=ca or None)
        made.minimum_version = MINIMUM
    except OSError as error:  # SSLError is such a one
        raise Failure(
            f"option --ca-file: {ca} cannot be used ({words_of(error)}): give PEM"
        ) from None
    if key and not cert:
        raise Failure("option --client-key: there is no --client-cert that it belongs to")
    if cert:
        try:
            load_pair(made, cert, key)
        except ValueError as error:
            raise Failure(f"option --client-cert: {error}") from None
    return made


def _token_headers() -> dict[str, str]:
    """The header that shows the token of --token-file. Raises Failure."""
    context = click.get_current_context(silent=True)
    path = None if context is None else context.meta.get(TOKEN_FILE)
    if not path:
        return {}
    try:
        with open(path, "rb") as stream:
            token = stream.read(TOKEN_BYTES_MAX).decode("utf-8-sig").strip()
            token.encode("ascii")
    except (OSError, UnicodeError):
        raise Failure(
            f"option --token-file: {path} cannot be read: give the file that `stage keys new` wrote"
        ) from None
    if not token.isprintable() or not token or " " in token:
        raise Failure(f"option --token-file: {path} holds no token: one line of ASCII")
    return {"Authorization": f"Bearer {token}"}


def fetch(url: str, path: str, kind: type[V]) -> V:
    """GET a view. Raises Failure: NEGATIVE when the stage says no."""
    from stage.wire.limits import Limits
    from stage.wire.problem import WireError
    from stage.wire.views import decode_view

    answer = exchange("GET", url, path)
    if answer.status != 200:
        refuse(url, answer)
    try:
        return decode_view(answer.body, kind, Limits(body_bytes_max=ANSWER_BYTES_MAX))
    except WireError as error:
        raise Failure(f"{url} does not answer like a stage ({error.detail}): check --url") from None


def refuse(url: str, answer: Answer) -> NoReturn:
    """Raise the Failure for the problem that was answered."""
    from stage.wire.problem import decode_problem

    problem = decode_problem(answer.body)
    if problem is None:
        raise Failure(f"{url} answered {answer.status}, and not like a stage: check --url", FAILED)
    text = problem.detail or problem.title
    hint = f": {problem.hint}" if problem.hint else ""
    if answer.status == UNAUTHENTICATED:
        hint = ": give --token-file, or leave --url out on its own machine"
    raise Failure(one_line(f"{text}{hint} ({answer.status})"), NEGATIVE, answer.status)


def _text_of(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return one_line(str(text))
