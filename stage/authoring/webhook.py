"""Webhooks: what an external API tells of its own accord, once the author has verified it.

Anybody who finds the address can post to it. So the function of a webhook gets the raw bytes, and
nothing that it returns counts unless it has verified them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec

from stage.core.errors import DeclarationError
from stage.core.raised import exit_raised
from stage.ports.webhook import NotVerified, WebhookRequest
from stage.wire.flood import EXPONENTS_OF_ANSWERS_MAX, has_more_exponents

R = TypeVar("R")

REPLAY_SECONDS_MAX: Final = 300.0
"""How far the time in a webhook may lie from ours, either way."""
DIGESTS: Final = ("sha256", "sha512")


class Landed(msgspec.Struct, Generic[R], frozen=True, kw_only=True):
    """The call landed, with this result, which is what the call's function would return.

    `key` is the idempotency key of the call. An API that does not send it back is matched by
    `number`, a business number that `indexed=` names and its value: `("order", "o-1")`.
    """

    result: R
    key: str = ""
    number: tuple[str, str] | None = None


class Declined(msgspec.Struct, frozen=True, kw_only=True):
    """The call ended with a business no: nothing happened. Its members are those of `Landed`."""

    reason: str
    key: str = ""
    number: tuple[str, str] | None = None


class Webhook:
    """One webhook as it came. Verify it before you read it."""

    def __init__(self, request: WebhookRequest) -> None:
        self._request = request
        self.verified = False
        """Whether its function has verified it; otherwise nothing that it returns counts."""

    @property
    def body(self) -> bytes:
        """The raw bytes, which a signature covers."""
        return self._request.body

    def header(self, name: str) -> str:
        """The value of a header, in whatever case its name is; empty where it is not there."""
        return self._request.headers.get(name.lower(), "")

    def json(self) -> Any:
        """The body as JSON. Raises NotVerified for a body that is none, or takes long to read."""
        if has_more_exponents(self.body, EXPONENTS_OF_ANSWERS_MAX):
            raise NotVerified("its body has too many numbers with a large exponent")
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            raise NotVerified("its body is no JSON") from None

    def verify_hmac(
        self, signature: str, *, signed: bytes | None = None, digest: str = "sha256"
    ) -> None:
        """Check a signature in hex: an HMAC over the body, or over the bytes that are `signed`.

        Every secret of `webhook_secret_file` is tried, and compared in constant time. Raises
        NotVerified.
        """
        if digest not in DIGESTS:
            raise ValueError(f"digest={digest!r}: give one of {', '.join(DIGESTS)}")
        if not self._request.secrets:
            raise NotVerified(
                "there is no secret to verify it with: name its file as webhook_secret_file in"
                f" [externals.{self._request.external}]"
            )
        message = self.body if signed is None else signed
        given = signature.strip().lower().encode("utf-8", "replace")
        right = False
        for secret in self._request.secrets:
            made = hmac.new(secret, message, getattr(hashlib, digest)).hexdigest().encode()
            right = hmac.compare_digest(made, given) or right
        if not right:
            raise NotVerified("its signature is not that of a secret which is configured")
        self.verified = True

    def verify_time(self, sent_at: float | str, seconds_max: float = REPLAY_SECONDS_MAX) -> None:
        """Check that it was sent lately, in seconds since the epoch, and is no old one replayed.

        The time has to be among the signed bytes: otherwise it proves nothing. Raises NotVerified.
        """
        try:
            apart = abs(self._request.now - float(sent_at))
        except ValueError:
            raise NotVerified("its time is no number of seconds") from None
        if not apart <= seconds_max:
            raise NotVerified(f"its time is more than {seconds_max:g} s from ours")

    def vouch(self) -> None:
        """Say that the function has verified it in another way, such as by a public key."""
        self.verified = True


WebhookFunction = Callable[[Webhook], Landed[R] | Declined | None]


def run_webhook(
    place: str, function: WebhookFunction[R], request: WebhookRequest
) -> Landed[R] | Declined | None:
    """The end that the function says; None where the webhook does not concern its call.

    Raises NotVerified, also for whatever a function raises before it has verified: a stranger
    must not fill the log. Later exceptions are let through; an exit or a panic is a StageError,
    because it may end nothing but this webhook (rule 35).
    """
    webhook = Webhook(request)
    try:
        said = function(webhook)
    except NotVerified:
        raise
    except BaseException as error:
        if not webhook.verified:
            raise NotVerified(f"its function raised {type(error).__name__}") from error
        if isinstance(error, Exception):
            raise
        raise exit_raised(place, error) from error
    if not webhook.verified:
        raise DeclarationError(
            f"{place} returned without having verified the webhook: call verify_hmac first, or"
            " vouch where you verify it in another way"
        )
    if not isinstance(said, Landed | Declined | None):
        raise DeclarationError(
            f"{place} returned {type(said).__name__}: return Landed, Declined, or None for a"
            " webhook that does not concern this call"
        )
    if said is not None and bool(said.key) == bool(said.number):
        given = "both its key and its number" if said.key else "neither its key nor its number"
        raise DeclarationError(f"{place} returned {given}: give one of them")
    return said
