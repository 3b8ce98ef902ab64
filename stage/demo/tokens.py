"""The tokens of the demo, made anew for each run in its temporary folder."""

from __future__ import annotations

from pathlib import Path
from secrets import token_urlsafe

from stage.wire.tokens import TOKEN_BYTES, accept_line

LINKS = ("order-payment", "payment-order", "payment-shipping", "shipping-payment", "operator")
"""A token for each direction of a link, and one for the person who watches."""


class Keys:
    """One pair of files for each link: FROM-TO.token is shown, FROM-TO.accept recognises it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokens = {link: token_urlsafe(TOKEN_BYTES) for link in LINKS}
        self._webhooks = token_urlsafe(TOKEN_BYTES)

    def write(self) -> None:
        """Write all files."""
        for link, token in self._tokens.items():
            _write(self.token_file(link), token)
            _write(self.accept_file(link), accept_line(token))
        _write(self.webhook_file, self._webhooks)

    @property
    def webhook_file(self) -> Path:
        """The secret that the external API signs its webhooks with."""
        return self._folder / "psp.webhook"

    def token(self, link: str) -> str:
        """The token itself."""
        return self._tokens[link]

    def token_file(self, link: str) -> Path:
        """The file for the one that shows it."""
        return self._folder / f"{link}.token"

    def accept_file(self, link: str) -> Path:
        """The file for the one that recognises it."""
        return self._folder / f"{link}.accept"

    def of_stub(self, name: str) -> list[str]:
        """Options of a neighbour of the stage."""
        return [
            *("--token-file", str(self.token_file(f"{name}-payment"))),
            *("--accept-file", str(self.accept_file(f"payment-{name}"))),
        ]

    def of_stage(self) -> list[str]:
        """Options of the stage: what it shows its neighbours, and what they and we show it."""
        options = []
        for option, name in (("--upstream", "order"), ("--downstream", "shipping")):
            options += [option, f"{name}.token_file={self.token_file(f'payment-{name}')}"]
            options += [option, f"{name}.accept_file={self.accept_file(f'{name}-payment')}"]
        options += ["--external", f"psp.webhook_secret_file={self.webhook_file}"]
        options += ["--operator", f"kim.accept_file={self.accept_file('operator')}"]
        return [*options, "--operator", "kim.role=admin"]


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text + "\n")
