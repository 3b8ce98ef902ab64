"""Configuration: defaults, stage.toml, environment and options become one frozen `Config`."""

from stage.config.describe import describe
from stage.config.load import load
from stage.config.local import local_socket
from stage.config.settings import OTHER_VARIABLES, SETTINGS, Config, Setting
from stage.config.values import check_url, redacted

__all__ = [
    "OTHER_VARIABLES",
    "SETTINGS",
    "Config",
    "Setting",
    "check_url",
    "describe",
    "load",
    "local_socket",
    "redacted",
]
