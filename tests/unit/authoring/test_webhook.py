"""Nothing of a webhook counts before its function has verified it."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from stage import Declined, Landed, NotVerified, Stage, Webhook
from stage.authoring.webhook import run_webhook
from stage.core.errors import DeclarationError, StageError
from stage.ports.webhook import WebhookRequest
from stage.wire.flood import EXPONENTS_OF_ANSWERS_MAX

NEW, OLD = b"whsec-new", b"whsec-old"
BODY = b'{"id":"ch-1"}'


def request(secret: bytes = NEW, **more: Any) -> WebhookRequest:
    signature = hmac.new(secret, BODY, hashlib.sha256).hexdigest()
    usual: dict[str, Any] = {
        "external": "psp",
        "body": BODY,
        "headers": {"psp-signature": signature},
        "secrets": (OLD, NEW),
        "now": 1_000.0,
    }
    return WebhookRequest(**{**usual, **more})


def ended(hook: Webhook) -> Landed[str] | Declined | None:
    hook.verify_hmac(hook.header("Psp-Signature"))
    return Landed(result=hook.json()["id"], key="k")


@pytest.mark.parametrize("secret", [OLD, NEW], ids=["old", "new"])
def test_every_configured_secret_verifies(secret: bytes) -> None:
    """Two hold while the secret is rotated."""
    assert Landed(result="ch-1", key="k") == run_webhook("", ended, request(secret))


@pytest.mark.parametrize(
    "wrong",
    [
        request(b"guessed"),
        request(body=b"{}"),
        request(headers={}),
        request(headers={"psp-signature": "\xe9"}),
        request(secrets=()),
    ],
    ids=["guessed", "another body", "no signature", "not hex", "no secret"],
)
def test_a_webhook_that_proves_nothing_is_refused(wrong: WebhookRequest) -> None:
    with pytest.raises(NotVerified):
        run_webhook("", ended, wrong)


def test_a_webhook_that_takes_long_to_read_is_refused() -> None:
    """Also by a function that reads it before it has verified it: anybody may send one."""
    numbers = b",".join([b"1e308"] * (EXPONENTS_OF_ANSWERS_MAX + 1))
    hook = Webhook(request(body=b'{"id":[%s]}' % numbers))
    with pytest.raises(NotVerified, match="large exponent"):
        hook.json()


@pytest.mark.parametrize(
    "sent_at,fresh",
    [("1000", True), (705.0, True), (699.0, False), (1_301.0, False), ("nan", False), ("x", False)],
)
def test_an_old_webhook_is_refused(sent_at: float | str, fresh: bool) -> None:
    """Neither older than five minutes, nor from a future in which it could be replayed."""
    hook = Webhook(request())
    if fresh:
        hook.verify_time(sent_at)
    else:
        with pytest.raises(NotVerified):
            hook.verify_time(sent_at)


def test_a_function_that_verifies_nothing_is_a_defect() -> None:
    """Its word does not count."""

    def careless(hook: Webhook) -> Landed[str] | None:
        return Landed(result=hook.json()["id"], key="k")

    with pytest.raises(DeclarationError, match="without having verified"):
        run_webhook("payment.py:1", careless, request())


def test_an_exception_before_the_check_is_no_defect() -> None:
    """A stranger could fill the log; behind the signature it is a bug."""

    def early(hook: Webhook) -> None:
        raise KeyError("time")

    def late(hook: Webhook) -> None:
        hook.vouch()
        raise KeyError("time")

    with pytest.raises(NotVerified):
        run_webhook("", early, request())
    with pytest.raises(KeyError):
        run_webhook("", late, request())


@pytest.mark.parametrize(
    "said", ["ch-1", Landed(result=1), Landed(result=1, key="k", number=("order", "o-1"))]
)
def test_the_returned_word_names_its_call_once(said: Any) -> None:
    def function(hook: Webhook) -> Any:
        hook.vouch()
        return said

    with pytest.raises(DeclarationError):
        run_webhook("", function, request())


def test_a_webhook_is_a_plain_function_and_one_a_call() -> None:
    stage: Stage[dict[str, Any], Any] = Stage("payment", accepts=dict[str, Any])

    @stage.call(to="psp", pending_on={202}, compensation=None, reason="none")
    async def charge(http: Any, saga: Any) -> str:
        return "never"

    async def awaits(hook: Webhook) -> Landed[str] | Declined | None:
        return None

    with pytest.raises(DeclarationError, match="write def"):
        charge.webhook(awaits)  # type: ignore[arg-type]  # which is what is refused
    charge.webhook(ended)
    stage.bind()
    with pytest.raises(DeclarationError, match="two webhooks"):
        charge.webhook(ended)


class Panic(BaseException):
    """Of an extension in Rust."""


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, Panic])
def test_an_exit_out_of_the_function_ends_only_that_webhook(kind: type[BaseException]) -> None:
    """A stranger's is not believed; behind the verification it is an error of ours (rule 35)."""

    def exits(hook: Webhook) -> None:
        if hook.header("Psp-Signature"):
            hook.verify_hmac(hook.header("Psp-Signature"))
        raise kind("4929-1111")

    with pytest.raises(NotVerified, match=kind.__name__):
        run_webhook("", exits, request(headers={}))
    with pytest.raises(StageError, match=rf"^exits \(shop\.py:7\) raised {kind.__name__}") as said:
        run_webhook("exits (shop.py:7)", exits, request())
    assert "4929" not in str(said.value)
