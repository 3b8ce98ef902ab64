"""Headers that are not the author's to set: refused before a request is described (rule 30)."""

from __future__ import annotations

import pytest

from stage.authoring.conversation import FunctionConversation, Reading
from stage.authoring.http import HeaderRefused, Http
from stage.core.errors import DeclarationError
from stage.core.failure import FailureKind
from stage.demo.payment import Order
from stage.ports.credentials import CREDENTIAL_HEADERS, ENGINE_HEADERS
from stage.ports.stage import Answer, Failed, Send
from stage.serving import Stage


@pytest.mark.parametrize("name", sorted(CREDENTIAL_HEADERS | ENGINE_HEADERS | {"x-api-key"}))
def test_a_header_of_the_operator_or_of_the_engine_is_refused(name: str) -> None:
    """In any case of its letters. The author may set any other header."""
    http = Http("psp", frozenset({"x-api-key"}))
    with pytest.raises(HeaderRefused, match="leave it out"):
        _ = http.post("/charges", headers={name.upper(): "x"})
    _ = http.post("/charges", headers={"X-Request": "x"})


async def test_a_refused_header_behind_an_answered_request_leaves_an_effect() -> None:
    """This request certainly did not leave, and the one before it may stand (rule 6)."""

    async def charge(http: Http) -> None:
        await http.post("/charges")
        await http.post("/charges", headers={"Cookie": "c=1"})

    conversation = FunctionConversation(
        charge(http := Http("psp")), http, lambda _: b"null", Reading()
    )
    assert isinstance(conversation.begin(), Send)
    failed = await conversation.resume(Answer(status=200))
    assert isinstance(failed, Failed)
    assert (FailureKind.TRANSIENT, True) == (failed.kind, failed.may_stand)
    assert "[externals.psp]" in failed.reason


def test_a_credentials_function_is_declared_once_for_an_api_that_is_called() -> None:
    """Each slip is refused with the fix."""
    stage: Stage[Order, Order] = Stage("payment", accepts=Order)

    @stage.credentials("psp")
    async def sign(request: object) -> dict[str, str]:
        return {}

    with pytest.raises(DeclarationError, match="two credentials functions for 'psp': keep one"):
        stage.credentials("psp")(sign)
    with pytest.raises(DeclarationError, match="credentials for 'psp', which no step calls"):
        stage.bind()
