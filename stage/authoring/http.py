"""The client that a call function is given: it describes requests, the engine sends them.

Awaiting a request hands it out of the coroutine as a value. So its intent is durable before it
leaves (rule 1), and a repeat sends the bytes that were stored (rule 5).
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload
from urllib.parse import urlencode

import msgspec

from stage.authoring.annotations import declaring_place
from stage.authoring.habits import OF_AN_ANSWER, no_member
from stage.authoring.payload import Codec, encode_json, mistake_in
from stage.core.errors import AuthorDefect, StageError
from stage.core.events import Request
from stage.ports.credentials import CREDENTIAL_HEADERS, ENGINE_HEADERS
from stage.ports.stage import Answer, Send
from stage.wire import headers as h
from stage.wire.flood import EXPONENTS_OF_ANSWERS_MAX, has_more_exponents
from stage.wire.http import (
    SAFE_METHODS,
    has_dot_segment,
    is_token,
    unsendable_in_header,
    unsendable_in_target,
)

T = TypeVar("T")


class HeaderRefused(ValueError):
    """A step set a header that is not its own: a defect, seen before the request leaves."""


class RequestRefused(AuthorDefect, ValueError):
    """A step described a request that cannot be sent as it is described.

    Seen before its intent is journaled: later it would be a doubt, or reach another resource.
    """


class NotAwaited(AuthorDefect):
    """A request was described and never sent, or awaited twice: a defect (rule 4)."""


class InATask(AuthorDefect):
    """A request was awaited by another task, as under asyncio.gather: a defect (rule 4)."""


class TooManyRequests(StageError):
    """A call function wanted to make more requests than its step declares."""


class NotRead(AuthorDefect):
    """An undo returned without a look at an answer whose code its call declares as a no."""


class NotJson(StageError, msgspec.DecodeError):
    """The body of an answer is no JSON, or not of the type that was asked for: a gateway's page."""


class Response:
    """An answer with a 2xx or 4xx code, read whole."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.looked_at = False
        """Whether the function has asked for its body, where the API's own word is."""

    @property
    def status(self) -> int:
        """The HTTP code."""
        return self._answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers by their lower-case names; of repeated ones, the last."""
        return {name.lower(): value for name, value in self._answer.headers}

    @property
    def body(self) -> bytes:
        """The body as it came."""
        self.looked_at = True
        return self._answer.body

    def text(self) -> str:
        """The body as UTF-8. Raises UnicodeDecodeError, which leaves the step in doubt."""
        return self.body.decode()

    @overload
    def json(self) -> Any: ...
    @overload
    def json(self, kind: type[T]) -> T: ...

    def json(self, kind: Any = Any) -> Any:
        """The body as JSON, or as a value of the type that is given, one that a payload may have.

        Raises NotJson, a msgspec.DecodeError, which leaves the step in doubt.
        """
        if has_more_exponents(self.body, EXPONENTS_OF_ANSWERS_MAX):
            raise NotJson(
                f"answered {self.status} with more than {EXPONENTS_OF_ANSWERS_MAX} numbers that"
                " have a large exponent: reading them would hold all other sagas up"
            )
        try:
            if kind is not Any:
                return _codec(kind).from_json(self._answer.body)
            return msgspec.json.decode(self._answer.body)
        except msgspec.ValidationError as error:
            raise self._of_another_type(kind, error) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            size = len(self._answer.body)
            raise NotJson(
                f"answered {self.status} with {size} bytes that are no JSON, as by a gateway in"
                " place of the API: nothing of it is believed"
            ) from error
        except ValueError as error:  # pydantic's
            raise self._of_another_type(kind, error) from error

    def _of_another_type(self, kind: Any, error: Exception) -> NotJson:
        return NotJson(
            f"answered {self.status} with JSON that is no {getattr(kind, '__name__', kind)}:"
            f" {mistake_in(error)}. Nothing of it is believed"
        )

    if not TYPE_CHECKING:  # a type checker would take any member for one that is there

        def __getattr__(self, name: str) -> Any:
            """Raise NoMember, which says the mend; asked only where nothing was found."""
            raise no_member("an answer", name, OF_AN_ANSWER, Response)


@lru_cache
def _codec(kind: type[T]) -> Codec[T]:
    return Codec(kind)


_OF_AN_ANSWER: Final = frozenset({"body", "headers", "json", "status", "text"})


class Exchange(Coroutine[Any, Any, Response]):
    """One request, handed to the engine when it is awaited.

    A coroutine by its type, so that mypy and pyright see one that nobody awaits.
    """

    def __init__(self, send: Send, place: str) -> None:
        self.intent = send
        """The value that is handed out."""
        self.place = place
        """`payment.py:42`: the line of the author's that describes it."""
        self._generator: Generator[Send, Answer, Response] | None = None
        self.awaited = False
        """Whether it was handed out; one that never was has sent nothing."""
        self.response: Response | None = None
        """Its answer, once the function has it."""

    def __await__(self) -> Generator[Send, Answer, Response]:
        if self.awaited:
            raise NotAwaited(f"{self.place}: {self} was awaited twice: describe each request anew")
        self.awaited = True
        try:
            answer = yield self.intent
        except RuntimeError:  # of a task, whose text quotes the request with its body
            raise InATask(
                f"{self.place}: {self} was put into a task of its own, from where nothing is sent:"
                " await it in the function itself. Calls at the same time are steps with one"
                " together='word'"
            ) from None
        self.response = Response(answer)
        return self.response

    def __getattr__(self, name: str) -> Any:
        """Raise NotAwaited for what only its answer has, and AttributeError otherwise."""
        if name in _OF_AN_ANSWER:
            raise NotAwaited(
                f"{self.place}: {self} was not awaited, so there is no answer with a {name}: write"
                f" await http.{self.method}(...)"
            )
        raise AttributeError(name)

    def send(self, value: Any) -> Any:
        """See collections.abc.Coroutine."""
        return self._running().send(value)

    def throw(self, *raised: Any) -> Any:
        """See collections.abc.Coroutine."""
        return self._running().throw(*raised)

    def close(self) -> None:
        """See collections.abc.Coroutine."""
        self._running().close()

    def _running(self) -> Generator[Send, Answer, Response]:
        if self._generator is None:
            self._generator = self.__await__()
        return self._generator

    @property
    def method(self) -> str:
        """The HTTP method as `Http` spells it: `post`."""
        return self.intent.request.method.lower()

    def __str__(self) -> str:
        """`http.post('/charges')`, without the query, which is data."""
        return f"http.{self.method}({self.intent.request.path.partition('?')[0]!r})"


class Http:
    """A client bound to one configured external API; paths are relative to its base URL.

    The idempotency key, the trace context and the remaining budget are set by the engine, and
    credentials by the operator (rule 30).
    """

    def __init__(self, peer: str = "", operators: frozenset[str] = frozenset()) -> None:
        self._peer = peer
        self._operators = operators
        self._exchanges: list[Exchange] = []

    def check_awaited(self) -> None:
        """Raise NotAwaited for a request that the function described and did not await."""
        for exchange in self._exchanges:
            if not exchange.awaited:
                raise NotAwaited(
                    f"{exchange.place}: {exchange} was not awaited, so nothing was sent: write"
                    f" await http.{exchange.method}(...)"
                )

    def check_read(self, noes: frozenset[int]) -> None:
        """Raise NotRead for an answer with such a code of which the function saw no body.

        It may be a gateway's: it proves neither that the effect is gone, nor that it stays.
        """
        for exchange in self._exchanges:
            answer = exchange.response
            if answer is None or answer.status not in noes or answer.looked_at:
                continue
            if exchange.intent.request.method not in SAFE_METHODS:
                raise NotRead(
                    f"{exchange.place}: {exchange} was answered {answer.status}, which refused_on"
                    " calls a no, and the undo returned without a look at its body: raise Transient"
                    " unless the API's own word is there"
                )

    def _check_line(self, method: str, path: str, queried: bool) -> None:
        """Raise RequestRefused for a first line that would ask for something else, or for nothing.

        The path is not quoted, for it may hold data.
        """
        if not is_token(method):
            raise RequestRefused(f"{declaring_place()}: the method of a request is a word: 'POST'")
        call = f"http.{method.lower()}"
        if not path.startswith("/") or path.startswith("//"):
            raise RequestRefused(
                f"{declaring_place()}: {call} takes a path that begins with one"
                " slash, such as '/charges': the URL before it is the operator's, --external"
                f" {self._peer or 'NAME'}=URL"
            )
        if character := unsendable_in_target(path):
            raise RequestRefused(
                f"{declaring_place()}: the path of {call} holds {character!r}, so that it would"
                " reach another resource, or none: put a value into a path with"
                " urllib.parse.quote(value, safe='')"
            )
        if has_dot_segment(path):
            raise RequestRefused(
                f"{declaring_place()}: the path of {call} has . or .. between two slashes, so that"
                " it would reach another resource. quote() leaves dots as they are: refuse such a"
                " value, or send it in the body or as params="
            )
        if queried and "?" in path:
            raise RequestRefused(
                f"{declaring_place()}: the path of {call} has a query, and params= is another one:"
                " give all of it as params=, and put a value into a path with"
                " urllib.parse.quote(value, safe='')"
            )

    def _checked(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """The headers of a step. Raises HeaderRefused for one that is not its own.

        Raises RequestRefused for one that would end its line, or is none.
        """
        given = [(name, value) for name, value in headers.items()]
        for name, value in given:
            if not all(isinstance(part, str) for part in (name, value)):
                raise TypeError(f"header {name!r}: name and value must be str, not {value!r}")
            if not is_token(name):
                raise RequestRefused(f"{declaring_place()}: {name!r} is no name of a header")
            if character := unsendable_in_header(value):
                raise RequestRefused(
                    f"{declaring_place()}: the header {name!r} holds {character!r}, which no header"
                    " may: quote the value with urllib.parse.quote(value)"
                )
            if name.lower() in ENGINE_HEADERS:
                raise HeaderRefused(f"header {name!r} is set by the engine: leave it out")
            if name.lower() in CREDENTIAL_HEADERS or name.lower() in self._operators:
                raise HeaderRefused(
                    f"header {name!r} is the operator's: leave it out of the step, and set"
                    f" bearer_file, basic_file or headers_file in [externals.{self._peer}]"
                )
        return given

    def _encoded(self, value: Any, method: str, path: str) -> bytes:
        """The body of a request. Raises RequestRefused, without the value, for what is no JSON."""
        try:
            return encode_json(value)
        except (TypeError, ValueError) as error:
            raise RequestRefused(
                f"{declaring_place()}: json= of http.{method.lower()}({path.partition('?')[0]!r})"
                f" is no JSON: {error}. Give texts, numbers, lists, dictionaries or Structs"
            ) from error

    def described(self, ordinal: int) -> Exchange:
        """The request of that number, from 1."""
        return self._exchanges[ordinal - 1]

    def exchange_of(self, send: Send) -> Exchange:
        """The value that an author awaits. A fake gives one that it answers itself."""
        return Exchange(send, declaring_place())

    def get(self, path: str, **options: Any) -> Coroutine[Any, Any, Response]:
        """GET; the options are those of `request`."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Coroutine[Any, Any, Response]:
        """POST; the options are those of `request`."""
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> Coroutine[Any, Any, Response]:
        """PUT; the options are those of `request`."""
        return self.request("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> Coroutine[Any, Any, Response]:
        """PATCH; the options are those of `request`."""
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> Coroutine[Any, Any, Response]:
        """DELETE; the options are those of `request`."""
        return self.request("DELETE", path, **options)

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: bytes = b"",
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Response]:
        """Describe one request. `path` begins with a slash; give `json` or `data`, not both.

        A value in the path is quoted: `quote(value, safe="")`.

        Raises RequestRefused for one that cannot be sent as it is, such as a URL, and HeaderRefused
        for a header that the engine or the operator sets. Both are a ValueError.
        """
        self._check_line(method, path, queried=bool(params))
        if json is not None and data:
            raise RequestRefused(f"{declaring_place()}: give json or data, not both")
        given = self._checked(headers) if headers else []
        body = data
        if json is not None:
            body = self._encoded(json, method, path)
            given.append(("Content-Type", h.CONTENT_JSON))
        if params:
            path = f"{path}?{urlencode(params)}"
        request = Request(method=method.upper(), path=path, headers=tuple(given), body=body)
        send = Send(request=request, ordinal=len(self._exchanges) + 1)
        exchange = self.exchange_of(send)
        self._exchanges.append(exchange)
        return exchange
