"""What is in force and where it comes from: the lines of `stage config`."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import NamedTuple

from stage.config.settings import SETTINGS, Config
from stage.config.values import redacted

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
            for name, url in value.items():
                key = f"{setting.name}.{name}"
                lines.append(Line(key, redacted(url), config.origins.get(key, PROGRAM)))
            if not value:
                lines.append(Line(setting.name, "", DEFAULT))
            continue
        origin = DEFAULT if value == defaults[setting.name] else PROGRAM
        lines.append(
            Line(setting.name, redacted(_shown(value)), config.origins.get(setting.name, origin))
        )
    return lines


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
