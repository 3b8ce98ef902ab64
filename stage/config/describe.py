"""The settings in force and their sources: the lines of `stage config`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import NamedTuple

from stage.config.peers import URL, keys_of
from stage.config.settings import SETTINGS, Config
from stage.config.values import redacted
from stage.ports.connection import Connection, connection_of
from stage.ports.operator import Operator
from stage.ports.policy import Policy

DEFAULT = "default"
PROGRAM = "program"


class Line(NamedTuple):
    """One line of `stage config`."""

    name: str
    value: str
    origin: str


def describe(config: Config) -> list[Line]:
    """Every effective value with its origin, in the order of SETTINGS; credentials redacted."""
    lines: list[Line] = []
    defaults = {item.name: item.default for item in fields(Config) if item.default is not MISSING}
    for setting in SETTINGS:
        value = getattr(config, setting.name)
        if setting.peers:
            lines.extend(_peer_lines(setting.name, value, config.origins))
            if not value:
                lines.append(Line(setting.name, "", DEFAULT))
            continue
        origin = DEFAULT if value == defaults[setting.name] else PROGRAM
        lines.append(
            Line(setting.name, redacted(_shown(value)), config.origins.get(setting.name, origin))
        )
    return lines


def _peer_lines(
    setting: str,
    peers: Mapping[str, str | Connection | Operator | Policy],
    origins: Mapping[str, str],
) -> Iterator[Line]:
    """A line for each key that is set: names of files, never what is in them."""
    for name, given in peers.items():
        shown = given if isinstance(given, Operator | Policy) else connection_of(given)
        for key in keys_of(setting).values():
            value = getattr(shown, key.name)
            place = f"{setting}.{name}" if key.name == URL else f"{setting}.{name}.{key.name}"
            if value:
                yield Line(place, redacted(_shown(value)), origins.get(place, PROGRAM))


def _shown(value: object) -> str:
    """As it could stand in the environment."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.15g}"
        case _:
            return str(value)
