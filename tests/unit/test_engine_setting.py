"""The setting `engine`: what it needs, and what does not fit it."""

from __future__ import annotations

import pytest

from stage.bootstrap.scheduler import scheduler_of
from stage.config import Config, load
from stage.core.errors import ConfigurationError
from stage.engine.embedded.recovery import Recovery
from stage.store.memory import MemoryStore


def driven(**options: str) -> Config:
    """A stage that Temporal drives."""
    return Config(engine="temporal", temporal_address="temporal:7233", **options)  # type: ignore[arg-type]


def test_without_it_recovery_opens_what_is_due() -> None:
    """As always."""
    assert Recovery is scheduler_of(Config(), MemoryStore(), "payment")


@pytest.mark.parametrize(
    "config, fix",
    [
        (Config(engine="temporal"), "add --temporal-address HOST:PORT"),
        (Config(temporal_address="temporal:7233"), "add --engine temporal"),
        (Config(temporal_api_key_file="key"), "temporal_api_key_file is set.*--engine temporal"),
        (driven(temporal_client_cert="a.pem"), "add its key"),
        (driven(temporal_client_key="a.key"), "add the certificate"),
        (driven(temporal_ca_file="not/there"), "cannot be read .No such file"),
        (driven(temporal_ca_file=__file__), "is no PEM"),
        (driven(temporal_client_cert=__file__, temporal_client_key=__file__), "is no PEM"),
        (driven(temporal_api_key_file=__file__), "holds no API key: write the key alone"),
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


@pytest.mark.parametrize("given", ["", "two words", ".shop", "shop/a"])
def test_a_namespace_is_one_of_temporal(given: str) -> None:
    """That of Temporal Cloud has a dot and the account."""
    assert "shop.a1b2c" == load({"temporal_namespace": "shop.a1b2c"}, {}).temporal_namespace
    with pytest.raises(ConfigurationError, match="namespace of Temporal"):
        load({"temporal_namespace": given}, {})
