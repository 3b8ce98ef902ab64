"""Models of external APIs: they answer requests and keep the world's books.

`books.make` is called when an effect takes place, `books.unmake` when it is undone. Faults are not
the business of a model: the network loses and delays, and `ApiModel` refuses and fails before what
a derived class says is asked.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs, quote, unquote
from zlib import crc32

import msgspec

from stage.authoring.steps import RESULT_BYTES_MAX
from stage.outbound.transport import ANSWER_BYTES_MAX
from stage.ports.stage import Answer
from stage.simulation.books import Books
from stage.simulation.facts import Effect, read_key
from stage.simulation.faults import Faults
from stage.simulation.loop import EPOCH
from stage.wire.http import SAFE_METHODS, is_beside

WEBHOOK_SECRET = b"simulated"
"""The secret of every webhook in a simulated world."""

LOOKED_UP = 200
"""The code of a look that has found an effect."""
OVERSIZED = b" " * (ANSWER_BYTES_MAX + 1)
"""The body of an answer that nobody reads to its end."""
UNDOS = "/undos/"
"""Below this path stands how an undo goes that was taken on with 202."""
DENIALS = (400, 404, 409, 410, 422)
"""Codes under which APIs say that what stands cannot be undone; a gateway gives each of them."""
UNDOING_SECONDS_MAX = 40
"""How long an API works at the longest on an undo that it has taken on."""

Headers = tuple[tuple[str, str], ...]
Deliver = Callable[[str, Headers, bytes, float], None]
"""Takes the saga, headers and body of a webhook, and the seconds after which it leaves."""
Now = Callable[[], float]


class ApiRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it arrives. `key` is its Idempotency-Key."""

    method: str
    path: str
    key: str
    body: bytes = b""


class ApiModel:
    """An API that honours idempotency keys, for any stage.

    A request that may have an effect makes one under its key, once; one whose key says `undo`
    undoes what the step made, and closes what it did not make; a GET looks the key up, at the path
    of the request that made the effect, or below or above it. A yes is `{"id": "fx_000001"}`. A no
    has a code of its own, such as `{"code": "unknown_key"}` of a 404: that tells it from the page
    of a gateway.
    """

    look_up_path = ""
    """The path at which a GET finds effects, where that is not the path of what makes them."""

    honours_keys = True
    parts: int | None = None
    """How many effects make a call whole; None: one, or as many as it has sent requests."""
    finds_lengths = True
    """Whether looks give the lengths of results too: a doubt that only they settle would stay."""
    keeps = False
    """True where what it makes may stand after a saga turned back, such as a mail that was sent."""

    def __init__(self, name: str, books: Books, faults: Faults) -> None:
        self.name = name
        self.books = books
        self.faults = faults
        self.away = False
        self.unrouted = False
        """Whether the gateway in front of it says 404 for all of it."""
        self._willing: dict[str, bool] = {}
        self._undoing: dict[str, tuple[ApiRequest, float]] = {}
        """Undos that were taken on, by key: what was asked for, and when it is done."""
        self.deliver: Deliver = _to_nobody
        self.clock: Now = _epoch

    def now(self) -> float:
        """The time of this world in seconds since the epoch, for what a webhook has to be signed.

        It is not that of the machine. The stage's own clock may be minutes off.
        """
        return self.clock()

    def answer(self, request: ApiRequest) -> Answer:
        """Answer one request that has arrived, with the faults of this world."""
        answer = self._answer(request)
        if answer.status == LOOKED_UP and self.faults.happens("api_oversized"):
            return Answer(status=answer.status, body=OVERSIZED)
        return answer

    def _answer(self, request: ApiRequest) -> Answer:
        if request.method not in SAFE_METHODS:
            if self.faults.happens("api_busy"):
                return self._say(request, Answer(status=429, headers=(("Retry-After", "1"),)))
            if self.faults.happens("api_error"):
                return self._say(request, Answer(status=500))
        if request.method in SAFE_METHODS:
            look = self._look_at_undo if request.path.startswith(UNDOS) else self.look_up
            return self._say(request, look(request))
        if self.is_undo(request):
            return self._say(request, self._taken_back(request))
        effect = self.books.effect(request.key, self.name)
        effect.body = effect.body or request.body
        effect.path = effect.path or request.path
        if effect.closed:
            return self._say(request, self.gone(request))
        if not effect.made and not self._will(request.key, "api_refuses"):
            effect.refused = True
            return self._say(request, self.refuse(request))
        self.books.make(effect, honours_keys=self.honours_keys)
        if self.faults.happens("api_garbled"):
            return self._say(request, Answer(status=200, body=b"<html>done</html>"))
        return self._say(request, self.made(request, effect))

    def _taken_back(self, request: ApiRequest) -> Answer:
        """The answer to an undo: done, refused, or taken on and done later."""
        key = request.key
        if not self._will(key, "undo_refused"):
            self._cannot_undo(request)
            return self.refuse_undo(request)
        stands = any(effect.standing for effect in self.meant_by(request))
        if stands and not self._will(f"{key}/denied", "undo_denied"):
            self._cannot_undo(request)
            code = DENIALS[crc32(key.encode()) % len(DENIALS)]
            return json_answer(code, {"code": "undo_refused"})
        if self._will(f"{key}/accepted", "undo_accepted"):
            return self.undo(request)
        if key not in self._undoing:
            self._take_on(request, float(crc32(f"{key}/seconds".encode()) % UNDOING_SECONDS_MAX))
        return self._undo_now(key)

    def _take_on(self, request: ApiRequest, seconds: float) -> None:
        """An undo is taken on, and will be done in so many seconds."""
        self._undoing[request.key] = request, self.now() + seconds

    def _undo_now(self, key: str) -> Answer:
        """How an undo stands that was taken on: one in eight is done before that is said.

        Of those that end later one in eight fails in the end.
        """
        request, until = self._undoing[key]
        if _way(f"{key}/early") == 0:
            self.undo(request)
        if self.now() < until:
            return json_answer(202, {"state": "undoing", "look": f"{UNDOS}{quote(key, safe='')}"})
        stands = any(effect.standing for effect in self.meant_by(request))
        if stands and _way(f"{key}/fails") == 0:
            self._cannot_undo(request)
            return json_answer(409, {"code": "undo_refused"})
        return self.undo(request)

    def _look_at_undo(self, request: ApiRequest) -> Answer:
        key = unquote(request.path.removeprefix(UNDOS))
        if key not in self._undoing:
            return json_answer(404, {"code": "unknown_key"})
        return self._undo_now(key)

    def _yes(self, effect: Effect, *, looked_up: bool = False) -> Answer:
        """The effect stands. Some answers have a length, from which a result is made."""
        lengthy = self.finds_lengths or not looked_up
        if not lengthy or self._will(f"{effect.key}/size", "result_oversized"):
            return json_answer(200, {"id": effect.name})
        return json_answer(200, {"id": effect.name, "length": RESULT_BYTES_MAX})

    def _cannot_undo(self, request: ApiRequest) -> None:
        """Note that this API says of what stands that it cannot be undone."""
        for effect in self.meant_by(request):
            effect.undo_refused = True

    def meant_by(self, request: ApiRequest) -> Sequence[Effect]:
        """The effects that an undo is about: all of its step, also one that may still come."""
        saga, stage, step, _ = read_key(request.key)
        self.books.effect(f"{saga}:{stage}:{step}:do", self.name)
        return self.books.effects_of(stage, saga, step)

    def _will(self, key: str, fault: str) -> bool:
        """A business no is said for good: the same to every request under a key."""
        if key not in self._willing:
            self._willing[key] = not self.faults.happens(fault)
        return self._willing[key]

    def _say(self, request: ApiRequest, answer: Answer) -> Answer:
        saga = read_key(request.key).saga
        self.books.tell(saga, self.name, f"{request.method} {request.path}: {answer.status}")
        return answer

    def send_webhook(
        self, key: str, body: bytes, headers: Headers = (), *, after: float = 0.0
    ) -> None:
        """Tell the stage by a webhook about the call made under that key, in so many seconds.

        The network loses, delays and repeats it, and it is sent again until it is acknowledged.
        """
        self.deliver(read_key(key).saga, headers, body, after)

    # --- what a model of a real API replaces -----------------------------------------------------

    def is_undo(self, request: ApiRequest) -> bool:
        """Whether the request asks for something to be taken back."""
        return read_key(request.key).undo

    def made(self, request: ApiRequest, effect: Effect) -> Answer:
        """The answer to a request whose effect stands."""
        return self._yes(effect)

    def refuse(self, request: ApiRequest) -> Answer:
        """A business no: nothing happened."""
        return json_answer(402, {"code": "refused"})

    def gone(self, request: ApiRequest) -> Answer:
        """The key was undone before: nothing happens under it any more."""
        return json_answer(410, {"code": "closed_key"})

    def look_up(self, request: ApiRequest) -> Answer:
        """A probe; its own key is the one it asks for. At a path of its own it finds nothing."""
        effect = self.books.effects.get(request.key)
        if effect is None or not effect.made:
            return json_answer(404, {"code": "unknown_key"})
        if not is_beside(self.look_up_path or effect.path or request.path, request.path):
            return json_answer(404, {"code": "no_such_path", "made_at": effect.path})
        return self._yes(effect, looked_up=True)

    def undo(self, request: ApiRequest) -> Answer:
        """Undo all that the step made, and close what it did not make."""
        for effect in self.meant_by(request):
            self.books.unmake(effect)
        return json_answer(200, {"undone": True})

    def refuse_undo(self, request: ApiRequest) -> Answer:
        """It will never be undone."""
        return json_answer(402, {"code": "undo_refused"})


class PendingApi(ApiModel):
    """An API that takes a request on with 202: how it ends is there at a later look.

    It makes the effect when it takes the request on, and says so after a few looks; some it never
    says anything of. A request that was undone meanwhile never ends well.
    """

    def __init__(self, name: str, books: Books, faults: Faults) -> None:
        super().__init__(name, books, faults)
        self._looks: dict[str, int] = {}

    def made(self, request: ApiRequest, effect: Effect) -> Answer:
        """202 until it was looked up often enough."""
        return self._now(request, effect)

    def look_up(self, request: ApiRequest) -> Answer:
        """A probe; each look brings the end nearer, but for one request in sixteen.

        A look at a path of its own finds no more than that of any other API.
        """
        found = super().look_up(request)
        if found.status != LOOKED_UP:
            return found
        self._looks[request.key] = self._looks.get(request.key, 0) + 1
        return self._now(request, self.books.effects[request.key])

    def _now(self, request: ApiRequest, effect: Effect) -> Answer:
        wanted = crc32(request.key.encode()) % 16
        if wanted and self._looks.get(request.key, 0) >= wanted % 4:
            return self._yes(effect)
        return json_answer(202, {"state": "pending"})


class SilentApi(ApiModel):
    """An API that says 202 to some undos for good, and never undoes them.

    Half of them: of the others it says how they ended.
    """

    def _undo_now(self, key: str) -> Answer:
        """202 for good, or how it stands."""
        if _way(f"{key}/silent") < 4:
            request, _ = self._undoing[key]
            self._cannot_undo(request)
            return json_answer(202, {"state": "undoing", "look": f"{UNDOS}{quote(key, safe='')}"})
        return super()._undo_now(key)


class PartsApi(ApiModel):
    """An API at which one call makes two effects, each under a key of its own.

    A look and an undo name the key of the effect that they are about.
    """

    parts = 2

    def meant_by(self, request: ApiRequest) -> Sequence[Effect]:
        """The effect that was made, or may be, under the key in the body."""
        return (self.books.effect(msgspec.json.decode(request.body)["of"], self.name),)

    def look_up(self, request: ApiRequest) -> Answer:
        """A probe; the key in its query is the one it asks for."""
        effect = self.books.effects.get(parse_qs(request.path.partition("?")[2])["of"][0])
        if effect is None or not effect.made:
            return json_answer(404, {"code": "unknown_key"})
        return self._yes(effect)


class BlindApi(ApiModel):
    """An API that undoes by the id of an effect, and says 200 to an undo without one as well.

    That closes the key, and leaves an effect standing. Of half of the keys no look finds anything
    before that. Behind it one does, at once or later: the first look may be answered by a replica
    that lacks the effect, or the first few by 202 or 500.
    """

    finds_lengths = False

    def __init__(self, name: str, books: Books, faults: Faults) -> None:
        super().__init__(name, books, faults)
        self._looks: dict[str, int] = {}

    def look_up(self, request: ApiRequest) -> Answer:
        """A probe finds what stands, sooner or later."""
        effect = self.books.effects.get(request.key)
        if effect is None or not effect.standing:
            return json_answer(404, {"code": "unknown_key"})
        if not effect.closed:
            found = crc32(f"{request.key}/looks".encode()) % 2
            return super().look_up(request) if found else Answer(status=500)
        looks = self._looks[request.key] = self._looks.get(request.key, 0) + 1
        match _way(request.key):
            case 0 if looks == 1:
                return json_answer(404, {"code": "unknown_key"})
            case 1 | 2 | 3 if looks <= 2:
                return json_answer(202, {"state": "pending"})
            case 4 if looks <= 2:
                return Answer(status=500)
            case _:
                return super().look_up(request)

    def undo(self, request: ApiRequest) -> Answer:
        """Undo what has the id that is named, and make nothing more under the key."""
        named = msgspec.json.decode(request.body)["id"]
        for effect in self.meant_by(request):
            if not effect.standing or effect.name == named:
                self.books.unmake(effect)
            effect.closed = True
        return json_answer(200, {"undone": True})


class HookingApi(ApiModel):
    """An API that takes a request on with 202, and tells by webhooks how it ended.

    By the key it tells before its answer, soon, late or never, and all of it twice. In one case of
    eight it answers at once besides. Its no comes as an answer or by a webhook.
    """

    def __init__(self, name: str, books: Books, faults: Faults) -> None:
        super().__init__(name, books, faults)
        self._sent: dict[str, None] = {}

    def made(self, request: ApiRequest, effect: Effect) -> Answer:
        """202, or in one case of eight the end itself."""
        self._tell(request.key, "landed", effect.name)
        if _way(request.key) == 1:
            return self._yes(effect)
        return json_answer(202, {"state": "pending"})

    def refuse(self, request: ApiRequest) -> Answer:
        """A no at once, or later."""
        if _way(request.key) % 2:
            return super().refuse(request)
        self._tell(request.key, "declined", "")
        return json_answer(202, {"state": "pending"})

    def _take_on(self, request: ApiRequest, seconds: float) -> None:
        """It tells of its undos too; no stage hears that as a word on the call."""
        super()._take_on(request, seconds)
        body = msgspec.json.encode({"key": request.key, "end": "undone", "id": ""})
        self.send_webhook(request.key, body, signed(body), after=seconds)

    def _tell(self, key: str, end: str, name: str) -> None:
        way = _way(key)
        if way == 0 or key in self._sent:
            return
        self._sent[key] = None
        after = 0.0 if way < 4 else 5.0 * way
        body = msgspec.json.encode({"key": key, "end": end, "id": name})
        for again in (0.0, 3.0):
            self.send_webhook(key, body, signed(body), after=after + again)


def signed(body: bytes) -> Headers:
    """The header that the stages to simulate look for in a webhook."""
    made = hmac.new(WEBHOOK_SECRET, body, hashlib.sha256).hexdigest()
    return (("Api-Signature", made),)


def _way(key: str) -> int:
    return crc32(key.encode()) % 8


def _to_nobody(_saga: str, _headers: Headers, _body: bytes, _after: float) -> None:
    """The model is in no world."""


def _epoch() -> float:
    """The model is in no world."""
    return EPOCH


class UnkeyedApi(ApiModel):
    """An API that ignores idempotency keys: every request that arrives makes an effect."""

    honours_keys = False
    finds_lengths = False


def json_answer(status: int, value: object) -> Answer:
    """An answer in JSON."""
    return Answer(
        status=status,
        headers=(("Content-Type", "application/json"),),
        body=msgspec.json.encode(value),
    )
