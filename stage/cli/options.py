"""The options that configure a stage, drawn from the table of settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import click

from stage.cli.failure import Failure
from stage.config import SETTINGS, Config, Setting, load

F = TypeVar("F", bound=Callable[..., Any])

FILE = "config_file"


def configured(only: Collection[str] = ()) -> Callable[[F], F]:
    """Add `--config` and an option for each setting, or for `only` some of them.

    Values stay text here: `load` judges all of them together, so that all problems are reported
    at once.
    """

    def decorate(function: F) -> F:
        for setting in reversed(SETTINGS):
            if not only or setting.name in only:
                function = _option(setting)(function)
        return click.option(
            "--config",
            FILE,
            metavar="FILE",
            help="A stage.toml with these settings.  [STAGE_CONFIG]",
        )(function)

    return decorate


def _option(setting: Setting) -> Callable[[F], F]:
    if setting.switch:
        return click.option(
            setting.option,
            setting.name,
            flag_value="true",
            default=None,
            help=f"{setting.help}  [{setting.variable}]",
        )
    again = " Repeatable." if setting.peers else ""
    return click.option(
        setting.option,
        setting.name,
        metavar=setting.metavar,
        multiple=setting.peers,
        help=f"{setting.help}{again}  [{setting.variable}]",
    )


def config_of(given: Mapping[str, Any]) -> Config:
    """The configuration from the options given. Raises ConfigurationError."""
    options = {name: value for name, value in given.items() if name != FILE and value != ()}
    return load(options, os.environ, given.get(FILE))


def reasons_of(option: str, name: str, given: Collection[str]) -> dict[str, str]:
    """The reason for each `name` that was given to the option. Raises Failure without one."""
    reasons = {}
    for text in given:
        key, equals, reason = text.partition("=")
        if not (equals and key and reason.strip()):
            raise Failure(f"{option} {text!r} has no reason: give {name}=REASON")
        reasons[key] = reason.strip()
    return reasons
