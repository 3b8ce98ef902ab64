"""`auth = "none"` believes the callers of this machine, whichever server listens (rule 36)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from stage.inbound.aiohttp import Doors, _came_in
from stage.inbound.caller import Claims, permit
from stage.inbound.principal import CLAIMED, Kind, Who, local
from stage.inbound.request import Request
from stage.wire.problem import WireError

OPERATORS = frozenset({Who.OPERATOR})


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.53", "::1", "::ffff:127.0.0.1", "localhost", ""]
)
async def test_a_caller_at_loopback_is_believed(address: str) -> None:
    """And one at a socket file, which has no address."""
    assert CLAIMED == await Claims().identify(
        Request(method="GET", path="/", local_address=address)
    )


@pytest.mark.parametrize(
    "address",
    ["192.0.2.7", "0.0.0.0", "::", "fd00::2", "::ffff:192.0.2.7", "payment.internal", "?"],
)
async def test_a_caller_at_any_other_address_is_a_stranger(address: str) -> None:
    """It may be anybody in the network; the answer says how to be believed."""
    found = await Claims().identify(Request(method="GET", path="/", local_address=address))
    assert Kind.STRANGER is found.kind and not found.known
    with pytest.raises(WireError) as refused:
        permit(found, OPERATORS)
    assert 401 == refused.value.status
    assert "auth is none" in str(refused.value.hint) and "127.0.0.1" in str(refused.value.hint)


async def test_the_user_of_this_machine_has_a_name_also_here() -> None:
    """At the socket beside the database."""
    asked = Request(method="GET", path="/", local_user="kim")
    assert local("kim") == await Claims().identify(asked)


async def test_a_caller_that_has_gone_is_not_believed() -> None:
    """Nobody can say any more at which address it came in: a stranger hangs up at will."""
    gone = cast("Any", SimpleNamespace(transport=None))
    _, address, user = _came_in(gone, Doors())
    asked = Request(method="POST", path="/sagas", local_address=address, local_user=user)
    assert Kind.STRANGER is (await Claims().identify(asked)).kind
