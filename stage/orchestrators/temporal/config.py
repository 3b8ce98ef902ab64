"""The file that names Temporal, the task queue and the stages of a chain."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from stage.config.peers import keys_of, peer_of
from stage.core.errors import ConfigurationError
from stage.engine.temporal.credentials import TemporalFiles
from stage.ports.connection import Connection, connection_of

STAGES = "stages"
_DOWNSTREAMS = "downstreams"
"""A stage of the chain has the settings of a downstream."""
PORT_MAX = 65_535


TOKENS, NONE = "tokens", "none"
LOOPBACK = ("127.0.0.1", "localhost")


class ChainConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A chain, its stages in order. `name` is what they call the orchestrator: their upstream.

    `listen` is HOST:PORT of the door for late failures; without it there is none. With `auth` none
    everybody who reaches it is believed.
    """

    stages: Mapping[str, str | Connection]
    name: str = "temporal"
    address: str = "127.0.0.1:7233"
    namespace: str = "default"
    temporal_ca_file: str = ""
    temporal_client_cert: str = ""
    temporal_client_key: str = ""
    temporal_api_key_file: str = ""
    task_queue: str = "sagas"
    listen: str = ""
    auth: str = TOKENS
    otlp_endpoint: str = ""

    @property
    def files(self) -> TemporalFiles:
        """The credentials for Temporal."""
        return TemporalFiles(
            ca_file=self.temporal_ca_file,
            client_cert=self.temporal_client_cert,
            client_key=self.temporal_client_key,
            api_key_file=self.temporal_api_key_file,
        )

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Both of `listen`, which is set."""
        host, _, port = self.listen.rpartition(":")
        return host, int(port)


def load(path: Path) -> ChainConfig:
    """Read the file. Raises ConfigurationError with the fix."""
    try:
        given = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no TOML: {error}") from None
    try:
        config = _read(given)
        config.files.check()
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"{path}: {error}") from None
    return config


def _read(given: dict[str, Any]) -> ChainConfig:
    texts = {name for name in ChainConfig.__struct_fields__ if name != STAGES}
    for name, value in given.items():
        if name == STAGES:
            continue
        if name not in texts:
            raise ValueError(
                f"{name} is no setting: these are {', '.join(sorted(texts))}, {STAGES}"
            )
        if type(value) is not str or not value:
            raise ValueError(f"{name} is {value!r}: give a text")
    tables = given.get(STAGES)
    if not isinstance(tables, dict) or not tables:
        raise ValueError(f"it names no stage: add a table [{STAGES}.NAME] with its url")
    stages = {name: _stage(name, table) for name, table in tables.items()}
    config = ChainConfig(**{**given, STAGES: stages})
    _check_door(config)
    return config


def _check_door(config: ChainConfig) -> None:
    """Raises ValueError for a door that nobody can find, or that anybody may use."""
    if config.auth not in (TOKENS, NONE):
        raise ValueError(f"auth is {config.auth!r}: it is {TOKENS} or {NONE}")
    if not config.listen:
        return
    host, _, port = config.listen.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > PORT_MAX:
        raise ValueError(f"listen is {config.listen!r}: give HOST:PORT")
    if config.auth == NONE:
        if host not in LOOPBACK:
            raise ValueError(f"auth is none and listen is {config.listen}: listen on 127.0.0.1")
        return
    for name, given in config.stages.items():
        if not connection_of(given).accept_file:
            raise ValueError(
                f"{STAGES}.{name} has no accept_file, so it cannot report a late failure:"
                f" `stage keys new {name}` writes one"
            )


def _stage(name: str, table: object) -> str | Connection:
    """The settings of one stage. Raises ValueError."""
    if isinstance(table, str):
        table = {"url": table}
    if not isinstance(table, dict):
        raise ValueError(f"{STAGES}.{name} is {table!r}: give a URL, or a table with url")
    known = keys_of(_DOWNSTREAMS)
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"{STAGES}.{name}.{unknown[0]} is no setting: {', '.join(known)} are")
    try:
        parts = {key: known[key].read(value) for key, value in table.items()}
        found = peer_of(_DOWNSTREAMS, parts)
    except ValueError as error:
        raise ValueError(f"{STAGES}.{name} {error}") from None
    assert isinstance(found, str | Connection)
    return found
