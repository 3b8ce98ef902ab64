"""The kinds of values: each reads text or a TOML value, or raises ValueError with the fix."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress

from stage.core.names import STAGE_NAME

_BAGGAGE_KEY = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_SAN = re.compile(r"[A-Za-z0-9._-]{1,253}|[a-z][a-z0-9+.-]*:[\x21-\x7e]{1,1024}")
POSTGRESQL = "postgresql://"
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")


TRACE_ID_PLACE = "{trace_id}"
"""Stands in a URL of traces where the id of one goes."""


def check_url(value: object) -> str:
    """An absolute http(s) URL without its trailing slash. Raises ValueError with the fix."""
    from urllib.parse import urlsplit

    from stage.wire.http import has_dot_segment

    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a URL: give text like http://host:8080")
    shown = repr(redacted(value))
    if not value.isprintable() or " " in value or "\\" in value or not value.isascii():
        raise ValueError(f"{shown} is not a URL: write it in ASCII without spaces")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{shown} is not a URL ({error}): give http://host:8080") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"{shown} is not an absolute http or https URL: give http://host:8080")
    if "@" in parts.netloc:
        raise ValueError(f"{shown} holds credentials: take them out of the URL")
    if "?" in value or "#" in value:
        raise ValueError(f"{shown} has a query or a fragment: end it with its path")
    if has_dot_segment(parts.path):
        raise ValueError(f"{shown} has . or .. in its path: write the path that it means")
    return value.rstrip("/")


def proxy_url(value: object) -> str:
    """The URL of a proxy. Raises ValueError with the fix."""
    from urllib.parse import urlsplit

    if isinstance(value, str) and "@" in value:
        raise ValueError(
            f"{redacted(value)!r} holds credentials: write user:password into proxy_basic_file"
        )
    url = check_url(value)
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.path or parts.port is None:
        raise ValueError(f"{url!r} is no proxy: give http://HOST:PORT, without a path")
    return url


def file_path(value: object) -> str:
    """The path of a file. Raises ValueError with the fix."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{value!r} is not a path: give the path of a file")
    return value


def certificate_name(value: object) -> str:
    """A subject alternative name: of a host, or the URI of a workload. Raises ValueError."""
    if not isinstance(value, str) or not _SAN.fullmatch(value):
        raise ValueError(
            f"{value!r} is no name of a certificate: give a host such as order.example, or a URI"
            " such as spiffe://example/order"
        )
    return value


def stage_names(value: object) -> tuple[str, ...]:
    """Reads names of stages: a list, or text with a blank between them. Raises ValueError."""
    given = value.split() if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f"{value!r} is no list of names: give such as order shop")
    return tuple(dict.fromkeys(peer_name(each) for each in given))


def redacted(text: str) -> str:
    """Text without the credentials that a URL in it may hold."""
    return _CREDENTIALS.sub("***@", text)


def peer_name(value: object) -> str:
    """A name of a stage or of a peer. Raises ValueError with the fix."""
    if not isinstance(value, str) or not STAGE_NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a name: use 1 to 48 of a-z 0-9 _ -, starting with a letter"
        )
    return value


def namespace(value: object) -> str:
    """A namespace of Temporal; that of its Cloud ends with an account. Raises ValueError."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}", value):
        raise ValueError(f"{value!r} is no namespace of Temporal: give one such as shop.a1b2c")
    return value


def host(value: object) -> str:
    """An address or a host name. Raises ValueError with the fix."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9.:_%-]+", value):
        raise ValueError(f"{value!r} is not a host: give an address or a name, such as 0.0.0.0")
    return value


def host_and_port(value: object) -> str:
    """HOST:PORT. Raises ValueError with the fix."""
    name, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not re.fullmatch(r"[A-Za-z0-9.:_%\[\]-]+", name) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError(f"{value!r} is no address: give HOST:PORT, such as temporal:7233")
    return name + ":" + port


def activity_arn(value: object) -> str:
    """The ARN of an activity of Step Functions. Raises ValueError with the fix."""
    if not isinstance(value, str) or not re.fullmatch(
        r"arn:[\w-]+:states:[\w-]+:\d{12}:activity:[\w.-]{1,80}", value
    ):
        raise ValueError(
            f"{value!r} is no activity: give its ARN, such as"
            " arn:aws:states:eu-west-1:123456789012:activity:payment"
        )
    return value


def host_names(value: object) -> str:
    """Names of hosts without ports, divided by commas. Raises ValueError with the fix."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else [""]
    if not all(_HOST_NAME.fullmatch(name) for name in names):
        raise ValueError(
            f"{value!r} is no list of host names: give for example payment,payment.example"
        )
    return ",".join(name.lower() for name in names)


def trace_url(value: object) -> str:
    """A URL with the place of a trace id in it, for people to follow. Raises ValueError."""
    known = isinstance(value, str) and re.fullmatch(r"https?://[^\s<>\"']+", value)
    if not isinstance(value, str) or not known or value.count(TRACE_ID_PLACE) != 1:
        raise ValueError(
            f"{value!r} is no URL of traces: give for example"
            f" https://jaeger.example/trace/{TRACE_ID_PLACE}"
        )
    return value


def database(value: object) -> str:
    """The URL of a SQLite file, of memory, or of a PostgreSQL database.

    Raises ValueError with the fix.
    """
    prefix = "sqlite:///"
    shown = redacted(value) if isinstance(value, str) else value
    if isinstance(value, str) and value != value.strip():  # as lists of variables and Secrets do
        raise ValueError(
            f"the database URL {shown!r} begins or ends with a blank or a line break: take it out,"
            " for it would name another database"
        )
    if isinstance(value, str) and value.startswith(POSTGRESQL):
        return _postgresql(value)
    if not isinstance(value, str) or not value.startswith(prefix):
        raise ValueError(
            f"the database URL {shown!r} is not known:"
            f" use {prefix}FILE, {POSTGRESQL}HOST/NAME, or {prefix}:memory: to keep nothing"
        )
    path = value.removeprefix(prefix)
    if not path or not path.isprintable() or "?" in path or path.endswith("/"):
        raise ValueError(f"the database URL {shown!r} names no file: use {prefix}FILE")
    return value


def _postgresql(value: str) -> str:
    from urllib.parse import parse_qsl, urlsplit

    shown = repr(redacted(value))
    if not value.isprintable() or " " in value:
        raise ValueError(f"the database URL {shown} has a space in it: write %20")
    parts = urlsplit(value)
    if not parts.netloc.rpartition("@")[2] or not parts.path.strip("/"):
        raise ValueError(f"the database URL {shown} names no database: use {POSTGRESQL}HOST/NAME")
    caches = [given for name, given in parse_qsl(parts.query) if name == "statement_cache"]
    if any(given not in ("0", "1") for given in caches):
        raise ValueError(
            f"the database URL {shown} has another statement_cache than 0 or 1: use 0 behind a"
            " pooler in transaction mode, and leave it out otherwise"
        )
    return value


def count(least: int, most: int | None = None) -> Callable[[object], int]:
    """Reads whole numbers from `least` to `most`, both included."""
    bounds = f"{least} or more" if most is None else f"{least} to {most}"

    def read(value: object) -> int:
        number = value
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
            number = int(value)
        if type(number) is not int:
            raise ValueError(f"{value!r} is not a whole number: give {bounds}")
        if number < least or (most is not None and number > most):
            raise ValueError(f"{value!r} is out of range: give {bounds}")
        return number

    return read


def codes(value: object) -> tuple[int, ...]:
    """Reads HTTP codes: a list of numbers, or text with a blank between them."""
    read = count(200, 599)
    given = value.split() if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f"{value!r} is no list of codes: give such as 500 503, or [500, 503]")
    return tuple(sorted({read(each) for each in given}))


def seconds_between(least: float, most: float) -> Callable[[object], float]:
    """Reads seconds from `least` to `most`, both included."""
    return _number_between(least, most, "seconds")


def days_between(least: float, most: float) -> Callable[[object], float]:
    """Reads days from `least` to `most`, both included."""
    return _number_between(least, most, "days")


def rate_between(least: float, most: float) -> Callable[[object], float]:
    """Reads how many a second, from `least` to `most`, both included."""
    return _number_between(least, most, "a second")


def _number_between(least: float, most: float, unit: str) -> Callable[[object], float]:
    bounds = f"{least:g} to {most:.15g} {unit}"

    def read(value: object) -> float:
        number = math.nan
        if isinstance(value, str):
            with suppress(ValueError):
                number = float(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{value!r} is not a number: give {bounds}")
        if not least <= number <= most:
            raise ValueError(f"{value!r} is out of range: give {bounds}")
        return number

    return read


def switch(value: object) -> bool:
    """Reads true or false, also as text. Raises ValueError with the fix."""
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if not isinstance(value, str) or value.lower() not in known:
        raise ValueError(f"{value!r} is not known: use true or false")
    return known[value.lower()]


def one_of(*choices: str) -> Callable[[object], str]:
    """Reads one of the words, whatever its case."""

    def read(value: object) -> str:
        word = value.lower() if isinstance(value, str) else value
        if word not in choices:
            raise ValueError(f"{value!r} is not known: use {', '.join(choices)}")
        return str(word)

    return read


def baggage_keys(value: object) -> str:
    """Keys of W3C baggage, divided by commas. Raises ValueError with the fix."""
    keys = [key.strip() for key in value.split(",")] if isinstance(value, str) else [""]
    if not all(_BAGGAGE_KEY.fullmatch(key) for key in keys):
        raise ValueError(f"{value!r} is no list of baggage keys: give for example tenant,region")
    return ",".join(keys)
