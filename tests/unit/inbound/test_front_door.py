"""The hosts that a request may be for."""

from __future__ import annotations

import pytest

from stage.inbound.front_door import Hosts
from stage.inbound.request import HeaderPairs, Request
from stage.wire.problem import WireError


def asked(host: str, local_address: str) -> Request:
    """A request for that host, at a connection that was made to that address."""
    headers = HeaderPairs([("Host", host)])
    return Request(method="GET", path="/healthz", headers=headers, local_address=local_address)


@pytest.mark.parametrize(
    "host, address",
    [
        ("10.1.2.3:8080", "10.1.2.3"),
        ("10.1.2.3:8080", "::ffff:10.1.2.3"),
        ("[::ffff:10.1.2.3]:8080", "::ffff:10.1.2.3"),
        ("[FD00::7]", "fd00::7"),
    ],
)
def test_the_address_that_a_probe_asks_at_is_answered_for(host: str, address: str) -> None:
    """Also at a socket for both families, which has the addresses of IPv4 mapped."""
    Hosts().check(asked(host, address))


@pytest.mark.parametrize("host", ["10.1.2.4", "[fd00::8]", "ffff", "evil.example"])
@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::7", ""])
def test_another_host_is_refused(host: str, address: str) -> None:
    """403, before the body is read."""
    with pytest.raises(WireError, match="does not answer for"):
        Hosts().check(asked(host, address))
