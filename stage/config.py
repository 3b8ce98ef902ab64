"""Configuration: defaults, stage.toml, environment and options become one frozen `Config`.

Later sources hold over earlier ones, in the order of this sentence; neighbours are merged by name.
Whatever is wrong is collected and told at once, each with its origin and its fix. What is not
known is refused: an option that does nothing would be believed to do something.

The command line draws its options from SETTINGS, so this file imports nothing that starts slowly.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from stage.core.errors import ConfigurationError

PREFIX = "STAGE_"
FILE_VARIABLE = "STAGE_CONFIG"
OTHER_VARIABLES = frozenset({FILE_VARIABLE, "STAGE_URL", "STAGE_TRACE_URL", "STAGE_FAST_TELEMETRY"})
"""Variables of ours that are not part of the configuration of a stage."""
DEFAULT = "default"
FILE_BYTES_MAX = 1_048_576

_BAGGAGE_KEY = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PEER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}")
# What Kubernetes puts into the environment for a service that is called "stage".
_SERVICE_LINK = re.compile(r"STAGE_(?:SERVICE_(?:HOST|PORT)\w*|PORT_\d+_(?:TCP|UDP)\w*)")
_SERVICE_LINK_URL = re.compile(r"(?:tcp|udp)://\S+")
_SERVICE_LINK_FIX = (
    "Kubernetes sets it for a service named stage: set enableServiceLinks: false in the pod,"
    " or rename the service"
)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that can be set for one stage. Times in seconds. Made by `load`, or by hand.

    `origins` says where a value comes from, by the name of the field (`downstreams.shipping` for
    one neighbour); what is not named there is a default, or was set by a program.
    """

    name: str = ""
    """What the process calls itself in traces; empty: the name of the stage."""
    host: str = "127.0.0.1"
    port: int = 8080
    database: str = "sqlite:///stage.db"
    upstreams: Mapping[str, str] = field(default_factory=dict)
    downstreams: Mapping[str, str] = field(default_factory=dict)
    externals: Mapping[str, str] = field(default_factory=dict)
    wait_seconds_max: float = 25.0
    drain_delay_seconds: float = 0.0
    drain_seconds: float = 20.0
    concurrency_max: int = 1_000
    requests_max: int = 2_000
    compensation_window_seconds: float = 604_800.0
    attempts_max: int | None = None
    compensation_attempts_max: int | None = None
    external_timeout_seconds_max: float | None = None
    forward_timeout_seconds: float = 30.0
    forward_attempts_max: int = 8
    log_format: str = "auto"
    log_level: str = "info"
    otlp_endpoint: str = ""
    baggage_keys: str = ""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


class Setting(NamedTuple):
    """One thing that can be set: `read` makes the value of what was told, or raises ValueError.

    `flag` is the option, the variable and the key at once: `--drain-seconds`,
    `STAGE_DRAIN_SECONDS`, `drain_seconds`. For neighbours it is in the singular, and the table of
    the file and the field of Config are in the plural (`name`).
    """

    name: str
    read: Callable[[object], Any]
    metavar: str
    help: str
    peers: bool = False

    @property
    def flag(self) -> str:
        """The name in the singular."""
        return self.name.removesuffix("s") if self.peers else self.name

    @property
    def option(self) -> str:
        """As it is given on the command line."""
        return "--" + self.flag.replace("_", "-")

    @property
    def variable(self) -> str:
        """As it stands in the environment."""
        return PREFIX + self.flag.upper()


class Line(NamedTuple):
    """One line of `stage config`."""

    name: str
    value: str
    origin: str


class _Told(NamedTuple):
    """What one source says of one setting; `peer` is the neighbour's name, or empty."""

    setting: Setting
    value: object
    origin: str
    peer: str = ""


# --- what a value may be -------------------------------------------------------------------------


def check_url(value: object) -> str:
    """An absolute http(s) URL without its trailing slash. Raises ValueError with the fix."""
    from urllib.parse import urlsplit

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
    return value.rstrip("/")


def redacted(text: str) -> str:
    """Text without the credentials that a URL in it may hold."""
    return _CREDENTIALS.sub("***@", text)


def _service(value: object) -> str:
    if not isinstance(value, str) or not _PEER_NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a name: use 1 to 48 of a-z 0-9 _ -, starting with a letter"
        )
    return value


def _host(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9.:_%-]+", value):
        raise ValueError(f"{value!r} is not a host: give an address or a name, such as 0.0.0.0")
    return value


def _database(value: object) -> str:
    prefix = "sqlite:///"
    shown = redacted(value) if isinstance(value, str) else value
    if not isinstance(value, str) or not value.startswith(prefix):
        raise ValueError(
            f"the database URL {shown!r} is not known:"
            f" use {prefix}FILE, or {prefix}:memory: to keep nothing"
        )
    path = value.removeprefix(prefix)
    if not path or not path.isprintable() or "?" in path or path.endswith("/"):
        raise ValueError(f"the database URL {shown!r} names no file: use {prefix}FILE")
    return value


def _count(least: int, most: int | None = None) -> Callable[[object], int]:
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


def _seconds(least: float, most: float) -> Callable[[object], float]:
    bounds = f"{least:g} to {most:.15g} seconds"

    def read(value: object) -> float:
        seconds = math.nan
        if isinstance(value, str):
            with suppress(ValueError):
                seconds = float(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value)
        if not math.isfinite(seconds):
            raise ValueError(f"{value!r} is not a number: give {bounds}")
        if not least <= seconds <= most:
            raise ValueError(f"{value!r} is out of range: give {bounds}")
        return seconds

    return read


def _one_of(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        word = value.lower() if isinstance(value, str) else value
        if word not in choices:
            raise ValueError(f"{value!r} is not known: use {', '.join(choices)}")
        return str(word)

    return read


def _keys(value: object) -> str:
    keys = [key.strip() for key in value.split(",")] if isinstance(value, str) else [""]
    if not all(_BAGGAGE_KEY.fullmatch(key) for key in keys):
        raise ValueError(f"{value!r} is no list of baggage keys: give for example tenant,region")
    return ",".join(keys)


DAY = 86_400.0
SETTINGS = (
    Setting("name", _service, "NAME", "Name in traces; else that of the stage."),
    Setting("host", _host, "HOST", "Address to listen on."),
    Setting("port", _count(0, 65_535), "PORT", "Port to listen on; 0 takes a free one."),
    Setting("database", _database, "URL", "sqlite:///FILE, or sqlite:///:memory:."),
    Setting("upstreams", check_url, "NAME=URL", "A stage before this one.", peers=True),
    Setting("downstreams", check_url, "NAME=URL", "A stage after this one.", peers=True),
    Setting("externals", check_url, "NAME=URL", "An external API that is called.", peers=True),
    Setting(
        "wait_seconds_max", _seconds(0, 60), "SECONDS", "How long POST /sagas waits before 202."
    ),
    Setting(
        "drain_delay_seconds",
        _seconds(0, 600),
        "SECONDS",
        "How long to serve on, not ready, after SIGTERM.",
    ),
    Setting(
        "drain_seconds", _seconds(0, 3_600), "SECONDS", "How long running sagas may take to stop."
    ),
    Setting("concurrency_max", _count(1), "N", "Sagas run at the same time."),
    Setting("requests_max", _count(1), "N", "Requests answered at the same time; then 503."),
    Setting(
        "compensation_window_seconds",
        _seconds(0, 3_650 * DAY),
        "SECONDS",
        "How long a completed saga stays compensable.",
    ),
    Setting("attempts_max", _count(1, 1_000), "N", "Attempts of every step, whatever it declares."),
    Setting(
        "compensation_attempts_max",
        _count(1, 10_000),
        "N",
        "Attempts of every compensation, whatever it declares.",
    ),
    Setting(
        "external_timeout_seconds_max",
        _seconds(0.001, 3_600),
        "SECONDS",
        "Longest time-out of a call, whatever it declares.",
    ),
    Setting(
        "forward_timeout_seconds",
        _seconds(0.001, 3_600),
        "SECONDS",
        "How long one attempt to hand on downstream may take.",
    ),
    Setting("forward_attempts_max", _count(1, 1_000), "N", "Attempts to hand on downstream."),
    Setting("log_format", _one_of("auto", "json", "console"), "FORMAT", "auto, json or console."),
    Setting(
        "log_level",
        _one_of("debug", "info", "warning", "error"),
        "LEVEL",
        "debug, info, warning or error.",
    ),
    Setting("otlp_endpoint", check_url, "URL", "Base URL of an OTLP/HTTP collector for traces."),
    Setting("baggage_keys", _keys, "KEY,KEY", "Members of W3C baggage to pass on; else none."),
)
"""What can be set, in the order in which it is shown."""

BY_NAME = {setting.name: setting for setting in SETTINGS}


# --- load ----------------------------------------------------------------------------------------


def load(
    options: Mapping[str, object],
    environ: Mapping[str, str],
    file: str | Path | None = None,
) -> Config:
    """The configuration from all sources.

    `options` has the names of Config's fields; None is not given, neighbours are a sequence of
    "NAME=URL" or a mapping. `file` is a stage.toml; without one, the variable STAGE_CONFIG may
    name it. Raises ConfigurationError with one line a problem.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    path = file if file is not None else environ.get(FILE_VARIABLE) or None
    sources = chain(
        _from_file(path, problems),
        _from_environment(environ, problems),
        _from_options(options, problems),
    )
    for told in sources:  # one after the other, so that problems stand in the order of sources
        _take(told, values, origins, problems)
    _check_peers(values, origins, problems)
    if problems:
        raise ConfigurationError("\n".join(problems))
    return Config(**values, origins=origins)


def _take(
    told: _Told, values: dict[str, Any], origins: dict[str, str], problems: list[str]
) -> None:
    setting = told.setting
    try:
        if not setting.peers:
            values[setting.name] = setting.read(told.value)
            origins[setting.name] = told.origin
            return
        if not _PEER_NAME.fullmatch(told.peer):
            raise ValueError(
                f"{told.peer!r} is not a name: use 1 to 48 of a-z 0-9 _ -, starting with a letter"
            )
        values.setdefault(setting.name, {})[told.peer] = setting.read(told.value)
        origins[f"{setting.name}.{told.peer}"] = told.origin
    except ValueError as error:
        link = isinstance(told.value, str) and _SERVICE_LINK_URL.fullmatch(told.value)
        fix = f" ({_SERVICE_LINK_FIX})" if link and told.origin.startswith("environment") else ""
        problems.append(f"{told.origin}: {error}{fix}")


def _check_peers(
    values: Mapping[str, Any], origins: Mapping[str, str], problems: list[str]
) -> None:
    """A name stands for one neighbour: who asks us to compensate must not be mistaken."""
    both = sorted(set(values.get("upstreams", {})) & set(values.get("downstreams", {})))
    problems.extend(
        f"{origins[f'upstreams.{name}']} and {origins[f'downstreams.{name}']}: {name!r} is both"
        " upstream and downstream: give one of them another name"
        for name in both
    )


def _from_options(options: Mapping[str, object], problems: list[str]) -> Iterator[_Told]:
    for name, value in options.items():
        setting = BY_NAME.get(name)
        if setting is None:
            problems.append(f"option {name}: is not known{_nearest(name, BY_NAME)}")
        elif value is None:
            continue
        elif not setting.peers:
            yield _Told(setting, value, f"option {setting.option}")
        elif isinstance(value, Mapping):
            yield from _from_pairs(setting, value.items(), f"option {setting.option}", problems)
        else:
            # Whatever else a caller gives is many, a sequence, which the type cannot say.
            entries = [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]
            yield from _from_entries(setting, entries, f"option {setting.option}", problems)


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Iterator[_Told]:
    known = {setting.variable: setting for setting in SETTINGS}
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        origin, value = f"environment {variable}", environ[variable]
        setting = known.get(variable)
        if variable in OTHER_VARIABLES:
            continue
        if setting is None:
            fix = _nearest(variable, [*known, *OTHER_VARIABLES])
            if _SERVICE_LINK.fullmatch(variable):
                fix = f": {_SERVICE_LINK_FIX}"
            problems.append(f"{origin}: is not known{fix}")
        elif not value:
            continue  # set to nothing, as compose files do for what is left out
        elif setting.peers:
            entries = [entry.strip() for entry in value.split(",") if entry.strip()]
            yield from _from_entries(setting, entries, origin, problems)
        else:
            yield _Told(setting, value, origin)


def _from_entries(
    setting: Setting, entries: list[Any], origin: str, problems: list[str]
) -> Iterator[_Told]:
    pairs = []
    for entry in entries:
        name, equals, url = str(entry).partition("=")
        if equals:
            pairs.append((name.strip(), url.strip()))
        else:
            problems.append(
                f"{origin}: {redacted(str(entry))!r} is not NAME=URL:"
                " give for example shipping=http://host:8080"
            )
    yield from _from_pairs(setting, pairs, origin, problems)


def _from_pairs(setting: Setting, pairs: Any, origin: str, problems: list[str]) -> Iterator[_Told]:
    seen: set[str] = set()
    for name, url in pairs:
        if name in seen:
            problems.append(f"{origin}: {name!r} is given twice: keep one")
        seen.add(name)
        yield _Told(setting, url, origin, peer=name)


def _from_file(path: str | Path | None, problems: list[str]) -> Iterator[_Told]:
    if path is None:
        return
    import tomllib

    shown = Path(path).name
    try:
        with open(path, "rb") as stream:
            body = stream.read(FILE_BYTES_MAX + 1)
        if len(body) > FILE_BYTES_MAX:
            problems.append(f"{shown}: is larger than {FILE_BYTES_MAX} bytes: shorten it")
            return
        text = body.decode("utf-8")
        told = tomllib.loads(text)
    except OSError as error:
        problems.append(
            f"{path}: cannot be read ({error.strerror}): give the path of a TOML file to --config"
        )
        return
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        problems.append(f"{shown}: is not TOML in UTF-8 ({error}): mend the file")
        return
    for key, value in told.items():
        setting = BY_NAME.get(key)
        origin = _place(shown, text, key)
        if setting is None:
            problems.append(f"{origin}: is not known{_nearest(key, BY_NAME)}")
        elif not setting.peers:
            yield _Told(setting, value, origin)
        elif isinstance(value, dict):
            for name, url in value.items():
                yield _Told(setting, url, _place(shown, text, name, table=key), peer=name)
        else:
            problems.append(
                f'{origin}: {value!r} is not a table: write [{key}] and below it name = "URL"'
            )


def _place(file: str, text: str, key: str, table: str = "") -> str:
    """`stage.toml line 3 port`. tomllib does not tell lines: the first that fits is named."""
    inside = not table
    named = f"{table}.{key}" if table else key
    for number, line in enumerate(text.splitlines(), start=1):
        if table and line.lstrip().startswith("["):
            inside = line.strip().strip("[]").strip() == table
        elif inside and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", line):
            return f"{file} line {number} {named}"
        if not table and re.match(rf"\s*\[\[?\s*{re.escape(key)}\s*\]", line):
            return f"{file} line {number} {named}"
    return f"{file} {named}"


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f": did you mean {near[0]}?" if near else ": remove it"


# --- describe ------------------------------------------------------------------------------------


def describe(config: Config) -> list[Line]:
    """Every effective value with its origin, in the order of SETTINGS; credentials redacted."""
    lines: list[Line] = []
    defaults = {item.name: item.default for item in fields(Config) if item.default is not MISSING}
    for setting in SETTINGS:
        value = getattr(config, setting.name)
        if setting.peers:
            for name, url in value.items():
                key = f"{setting.name}.{name}"
                lines.append(Line(key, redacted(url), config.origins.get(key, "program")))
            if not value:
                lines.append(Line(setting.name, "", DEFAULT))
            continue
        origin = DEFAULT if value == defaults[setting.name] else "program"
        shown = "" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)
        lines.append(Line(setting.name, redacted(shown), config.origins.get(setting.name, origin)))
    return lines
