"""The setting `engine`: what it needs, and what does not fit it."""

from __future__ import annotations

import pytest

from stage.bootstrap.scheduler import scheduler_of
from stage.config import Config, load
from stage.core.errors import ConfigurationError
from stage.engine.embedded.recovery import Recovery
from stage.store.memory import MemoryStore


def test_without_it_recovery_opens_what_is_due() -> None:
    """As always."""
    assert Recovery is scheduler_of(Config(), MemoryStore(), "payment")


@pytest.mark.parametrize(
    "config, fix",
    [
        (Config(engine="temporal"), "add --temporal-address HOST:PORT"),
        (Config(temporal_address="temporal:7233"), "add --engine temporal"),
    ],
)
def test_half_of_it_is_refused_with_the_fix(config: Config, fix: str) -> None:
    """Sagas would be run by another engine than the operator believes."""
    with pytest.raises(ConfigurationError, match=fix):
        scheduler_of(config, MemoryStore(), "payment")


@pytest.mark.parametrize("given", ["temporal", "http://temporal:7233", ":7233", "temporal:"])
def test_an_address_is_a_host_and_a_port(given: str) -> None:
    """Refused at start, with the fix."""
    with pytest.raises(ConfigurationError, match="give HOST:PORT"):
        load({"temporal_address": given}, {})
