"""Loads the configuration from its origins.

Later origins hold over earlier ones: the defaults, the file, the environment, the options.
Peers are merged by name and key. All problems are collected and raised at once, each with its
origin and its fix. A key or an option that is not known is refused: one that does nothing would be
believed to do something.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from stage.config.environment import from_environment
from stage.config.file import from_file
from stage.config.given import Given, nearest
from stage.config.options import from_options
from stage.config.peers import NEIGHBOURS, URL, keys_of, peer_of
from stage.config.settings import FILE_VARIABLE, SETTINGS, Config
from stage.config.values import peer_name
from stage.core.errors import ConfigurationError
from stage.ports.connection import Connection, connection_of


def load(
    options: Mapping[str, object],
    environ: Mapping[str, str],
    file: str | Path | None = None,
) -> Config:
    """The configuration from all origins.

    `options` has the names of Config's fields; None is not given, peers are a sequence of
    "NAME=URL" and "NAME.KEY=VALUE", or a mapping. `file` is a stage.toml; without one, the
    variable STAGE_CONFIG may name it. Raises ConfigurationError with one line a problem.
    """
    problems: list[str] = []
    ignored: list[str] = []
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    path = file if file is not None else environ.get(FILE_VARIABLE) or None
    everything = chain(
        from_file(path, problems),
        from_environment(environ, problems, ignored),
        from_options(options, problems),
    )
    for given in everything:  # one after the other, so that problems stand in the order of origins
        _take(given, values, origins, problems)
    _make_peers(values, origins, problems)
    _check_peers(values, origins, problems)
    if problems:
        raise ConfigurationError("\n".join(problems))
    return Config(**values, origins=origins, ignored=tuple(ignored))


def _take(
    given: Given, values: dict[str, Any], origins: dict[str, str], problems: list[str]
) -> None:
    setting = given.setting
    try:
        if not setting.peers:
            values[setting.name] = setting.read(given.value)
            origins[setting.name] = given.origin
            return
        peer = peer_name(given.peer)
        keys = keys_of(setting.name)
        if given.key not in keys:
            raise ValueError(f"{given.key!r} is not known{nearest(given.key, keys)}")
        parts = values.setdefault(setting.name, {}).setdefault(peer, {})
        origins.setdefault(f"{setting.name}.{peer}", given.origin)
        parts[given.key] = keys[given.key].read(given.value)
        place = "" if given.key == URL else f".{given.key}"
        origins[f"{setting.name}.{peer}{place}"] = given.origin
    except ValueError as error:
        problems.append(f"{given.origin}: {error}")


def _make_peers(values: dict[str, Any], origins: Mapping[str, str], problems: list[str]) -> None:
    """Make one value of the keys of each peer."""
    if problems:
        return  # a key that was refused is not missing
    for setting in (each for each in SETTINGS if each.peers):
        for peer, parts in values.get(setting.name, {}).items():
            try:
                values[setting.name][peer] = peer_of(setting.name, parts)
            except ValueError as error:
                place = f"{setting.name}.{peer}"
                problems.append(f"{origins[place]}: {place} {error}")


def _check_peers(
    values: Mapping[str, Any], origins: Mapping[str, str], problems: list[str]
) -> None:
    """A name stands for one neighbour: a request to compensate must come from one side only."""
    both = sorted(set(values.get("upstreams", {})) & set(values.get("downstreams", {})))
    problems.extend(
        f"{origins[f'upstreams.{name}']} and {origins[f'downstreams.{name}']}: {name!r} is both"
        " upstream and downstream: give one of them another name"
        for name in both
    )
    _check_former_names(values, origins, problems)


def _check_former_names(
    values: Mapping[str, Any], origins: Mapping[str, str], problems: list[str]
) -> None:
    """A name stands for one neighbour, also that of before."""
    if problems:
        return  # there are no peers then, but their keys
    peers: dict[str, str | Connection] = {
        f"{setting}.{name}": given
        for setting in NEIGHBOURS
        for name, given in values.get(setting, {}).items()
    }
    owner = {place.partition(".")[2]: place for place in peers}
    for place, given in peers.items():
        for former in connection_of(given).formerly:
            other = owner.setdefault(former, place)
            if other != place:
                problems.append(
                    f"{origins[place]}: {place} was {former!r} before, and {other} has that name"
                    " too: a name stands for one neighbour"
                )
