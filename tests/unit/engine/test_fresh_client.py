"""A client of Temporal whose credentials are files that are written anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.service import TLSConfig

from stage.engine.temporal.credentials import FreshClient, TemporalFiles
from tests.certificates import Authority


class Temporal:
    """Connections to it, as `Connect` makes them."""

    def __init__(self) -> None:
        self.made: list[tuple[TLSConfig | None, str | None]] = []
        self.away = False
        self.warned: list[str] = []

    async def connect(self, *, tls: TLSConfig | None, api_key: str | None) -> Any:
        """See `Connect`."""
        if self.away:
            raise RuntimeError("it is away")
        self.made.append((tls, api_key))
        return SimpleNamespace(api_key=api_key)

    def fresh(self, **files: Path) -> FreshClient:
        """A client with these files."""
        given = TemporalFiles(**{name: str(path) for name, path in files.items()})
        return FreshClient(given, self.connect, warn=self.warned.append)


@pytest.fixture
def temporal() -> Temporal:
    return Temporal()


@pytest.fixture
def renew(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes a new certificate of a new key, at the same place."""
    authority = Authority(tmp_path)

    def write() -> tuple[Path, Path]:
        return authority.sign("worker", "worker")

    return write


async def test_a_new_api_key_is_shown_on_the_connection_that_there_is(
    temporal: Temporal, tmp_path: Path
) -> None:
    """A file that is being written changes nothing."""
    key = tmp_path / "key"
    key.write_text("first\n")
    fresh = temporal.fresh(api_key_file=key)
    client = await fresh.open()
    assert "first" == client.api_key
    for written, shown in (("", "first"), ("second\n", "second")):
        key.write_text(written)
        assert not await fresh.refresh()
        assert (client, shown) == (fresh.client, client.api_key)
    assert 1 == len(temporal.made)


async def test_a_new_certificate_is_shown_on_a_new_connection(
    temporal: Temporal, renew: Callable[..., tuple[Path, Path]]
) -> None:
    """Once both of its files are written, and once alone."""
    cert, key = renew()
    fresh = temporal.fresh(client_cert=cert, client_key=key)
    first = await fresh.open()
    assert not await fresh.refresh()
    former = key.read_bytes()
    renew()
    latter = key.read_bytes()
    key.write_bytes(former)
    assert not await fresh.refresh()
    key.write_bytes(latter)
    assert await fresh.refresh()
    assert first is not fresh.client
    assert not await fresh.refresh()
    assert [former, latter] == [tls.client_private_key for tls, _ in temporal.made if tls]


async def test_the_former_client_stays_while_the_new_certificate_is_refused(
    temporal: Temporal, renew: Callable[..., tuple[Path, Path]]
) -> None:
    """One line says so, and it is tried again."""
    cert, key = renew()
    fresh = temporal.fresh(client_cert=cert, client_key=key)
    first = await fresh.open()
    renew()
    temporal.away = True
    for _ in range(2):
        assert not await fresh.refresh()
    assert first is fresh.client
    assert 1 == len(temporal.warned)
    temporal.away = False
    assert await fresh.refresh()


async def test_a_new_api_key_is_shown_beside_certificates_that_cannot_be_used(
    temporal: Temporal, renew: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    """Refused by Temporal, or half of them written: the former key may be revoked meanwhile."""
    cert, key = renew()
    api_key = tmp_path / "key"
    api_key.write_text("first\n")
    fresh = temporal.fresh(client_cert=cert, client_key=key, api_key_file=api_key)
    client = await fresh.open()
    renew()
    temporal.away = True
    api_key.write_text("second\n")
    assert not await fresh.refresh()
    assert (client, "second") == (fresh.client, client.api_key)
    cert.write_text("half")
    api_key.write_text("third\n")
    assert not await fresh.refresh()
    assert (client, "third") == (fresh.client, client.api_key)
    api_key.write_text("")
    temporal.away = False
    renew()
    assert await fresh.refresh()
    assert "third" == fresh.client.api_key


async def test_authorities_and_certificate_are_renewed_each_by_itself(
    temporal: Temporal, renew: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    """The one beside which the other cannot be used, and neither with half of itself."""
    cert, key = renew()
    ca = tmp_path / "trusted"
    first = (tmp_path / "ca.pem").read_bytes()
    ca.write_bytes(first)
    fresh = temporal.fresh(ca_file=ca, client_cert=cert, client_key=key)
    await fresh.open()
    whole = cert.read_bytes()
    cert.write_bytes(whole[:200])
    ca.write_bytes(both := first + first)
    assert await fresh.refresh()
    renew()
    for wrong in (b"", first[:200]):
        ca.write_bytes(wrong)
        await fresh.refresh()
    assert not await fresh.refresh()
    made = [(tls.server_root_ca_cert, tls.client_cert) for tls, _ in temporal.made if tls]
    assert [(first, whole), (both, whole), (both, cert.read_bytes())] == made
