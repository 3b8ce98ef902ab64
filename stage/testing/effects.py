"""A fake of an external API that keeps its effects by idempotency key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stage.core.events import Request
from stage.core.ids import Direction
from stage.ports.stage import Answer
from stage.testing.fakes import reply
from stage.wire.http import is_beside

UNKNOWN: Final = {"code": "unknown_key"}
"""The API's own word that it made nothing under a key."""
CLOSED: Final = {"code": "closed_key"}
"""Its own word that a key was undone before it made anything."""
PENDING: Final = {"state": "pending"}
NO_SUCH_PATH: Final = "no_such_path"
"""The code of a 404 for a look-up at a path at which the API has nothing."""


class FakeApi:
    """An external API that keeps its effects by idempotency key.

    A request that is not GET makes an effect under its key, once. A request whose key says `undo`
    takes back what its step made, answered `{"undone": true}`. A GET answers 200 if there is an
    effect under its key, otherwise 404 with `{"code": "unknown_key"}`. It has to ask at the path of
    the request that made the effect, or at one below or above it: anywhere else is a slip.
    Derive from it where an API speaks otherwise: `is_undo` and `undo` are the words of most,
    `look_up_path` that of one that looks effects up elsewhere, `pends` and `webhook` those of an
    API that tells later how a call ended.
    """

    look_up_path = ""
    """The path at which a GET finds effects, where that is not the path of what makes them."""

    pends = False
    """True where it takes each call on with 202, until `land` ends it."""

    def __init__(self) -> None:
        self.effects: dict[str, str] = {}
        """The effects that stand: an id by its key."""
        self.pending: set[str] = set()
        """The keys of calls that it has taken on."""
        self.slips: list[str] = []
        """The look-ups at a wrong path, each with the fix."""
        self._made_at: dict[str, str] = {}
        self._closed: set[str] = set()
        self._made = 0

    def answer(self, request: Request, key: str) -> Answer:
        """The answer to one request."""
        if request.method == "GET":
            return self.look_up(request, key)
        if self.is_undo(request, key):
            return self.undo(request, key)
        if key in self._closed:
            return reply(410, CLOSED)
        self._made_at.setdefault(key, request.path)
        if key not in self.effects and self.pends:
            self.pending.add(key)
            return reply(202, PENDING)
        return self.made(self._make(key))

    def land(self, key: str) -> bool:
        """End a call that it has taken on, with a yes. False where none is pending by that key."""
        if key not in self.pending:
            return False
        self.pending.discard(key)
        self._make(key)
        return True

    def _make(self, key: str) -> str:
        if key not in self.effects:
            self._made += 1
            self.effects[key] = f"fx-{self._made}"
        return self.effects[key]

    def webhook(self, key: str, secret: bytes) -> tuple[Mapping[str, str], bytes] | None:
        """Headers and body of the webhook that tells of the call of that key, signed.

        None where the API tells nothing by itself.
        """
        return None

    def is_undo(self, request: Request, key: str) -> bool:
        """Whether it asks for something to be taken back."""
        return f":{Direction.COMPENSATE}" in key

    def made(self, effect: str) -> Answer:
        """The answer when the effect of that id stands."""
        return reply(201, {"id": effect})

    def look_up(self, request: Request, key: str) -> Answer:
        """A probe."""
        if key not in self.pending and key not in self.effects:
            return reply(404, UNKNOWN)
        made_at = self.look_up_path or self._made_at.get(key, request.path)
        if not is_beside(made_at, request.path):
            slip = misplaced(made_at, request.path)
            self.slips.append(slip)
            return reply(404, {"code": NO_SUCH_PATH, "detail": slip})
        return reply(202, PENDING) if key in self.pending else self.made(self.effects[key])

    def undo(self, request: Request, key: str) -> Answer:
        """Take back what the step of the key made."""
        of = key.rpartition(f":{Direction.COMPENSATE}")[0]
        for made in [each for each in self.effects if each.startswith(f"{of}:")]:
            del self.effects[made]
        for taken_on in [each for each in self.pending if each.startswith(f"{of}:")]:
            self.pending.discard(taken_on)
            self._closed.add(taken_on)
        return reply(200, {"undone": True})


def misplaced(made_at: str, asked_at: str) -> str:
    """Why a look-up finds nothing, with the fix."""
    asked = asked_at.partition("?")[0]
    return (
        f"GET {asked} finds nothing: the effect was made at {made_at}. Mend the path, or say"
        f" look_up_path = {asked!r} in the class of the fake, where the API has it there"
    )
