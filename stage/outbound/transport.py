"""One HTTP request out: once, without redirects, capped, within a time.

It never raises for what the network does. Connections, their pool, TLS and parsing are aiohttp's.
Its session is left out: it adds redirects, cookies, proxies of the environment and resends without
notice, we want none of them, and it takes as long as all the rest. Writing is ours: the part of the
head that all requests to an address have in common is made once.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import lru_cache
from weakref import WeakSet

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from yarl import URL

from stage.outbound.classify import CERTAIN, EXPECTED, NeverWritten, NotHttp, classify_exception
from stage.outbound.proxy import Proxy
from stage.ports.stage import Answer, Lost
from stage.ports.time_limit import TimeLimit
from stage.wire.http import encode_head, has_dot_segment, unsendable_in_target

ANSWER_BYTES_MAX = 1_048_576
CONNECTIONS_MAX = 100
"""Connections for one request, where each ends before it may leave: all that idle may do so."""
INTERIM_ANSWERS_MAX = 8
"""Answers 1xx before the answer. One server sends one or two."""
CONNECT_SECONDS_MAX = 5.0
CONNECT_SHARE = 0.9
"""A share of the timeout: a connection that never came about must not end as a timeout."""
PROXY_UNAUTHENTICATED = 407
TARGETS_MAX = 256

_OWN_HEADERS = {hdrs.USER_AGENT: "stage", hdrs.ACCEPT_ENCODING: "identity"}
_OCTETS = "Content-Type: application/octet-stream"


async def _at_once() -> None:
    """Let a request leave, where no other process could have taken over what it belongs to."""


class Transport:
    """A pool of connections with our rules. Open it in the event loop that uses it."""

    def __init__(self, assured: Callable[[], Awaitable[None]] = _at_once) -> None:
        """`assured` is awaited between the connection and the first byte: the last look (rule 17).

        Connecting takes long enough for a lease to run out, above all in a process that was
        stopped meanwhile.
        """
        self._assured = assured
        self._connector: aiohttp.TCPConnector | None = None
        self._single: aiohttp.TCPConnector | None = None
        """Makes connections for one request each."""
        self._target = lru_cache(TARGETS_MAX)(_target)
        self._judged: WeakSet[ResponseHandler] = WeakSet()
        """Connections of TLS on which the peer has answered, so that it takes our certificate."""

    async def open(self) -> None:
        """Create the pool."""
        self._connector = aiohttp.TCPConnector(limit=0)  # bounded by the sender, before it starts
        self._single = aiohttp.TCPConnector(limit=0, force_close=True)

    async def close(self) -> None:
        """Close all connections."""
        for connector in (self._connector, self._single):
            if connector is not None:
                await connector.close()

    # Many because a value for each request would cost time and say no more.
    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: list[tuple[str, str]],
        body: bytes,
        timeout: float,
        tls: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
        fresh: bool = False,
    ) -> Answer | Lost:
        """Send once and read the whole answer; `timeout` in seconds covers both.

        A connection is used again only under the same `tls`, where None is the usual one, and by
        the same `proxy`. A proxy that gives no tunnel was shown nothing of the request.
        A `fresh` request gets a connection of its own. On one that was used before the peer may
        hang up in the moment in which the request arrives, and nobody knows what became of it.
        """
        # Long because a connection is given back or closed on each way out of it, in one place.
        connector = self._single if fresh else self._connector
        assert connector is not None, "open the transport first"
        leaves = judged = False
        try:
            try:
                target = self._target(method, url, tls, proxy)
                head = _head(target, headers, body)
            except ValueError as error:  # an old journal may hold one that cannot be written
                why = f"the request cannot be written: {type(error).__name__}"
                raise NeverWritten(why) from error
            with TimeLimit(timeout):
                connection = await self._connected(connector, target, timeout)
                leaves = True
                try:
                    protocol = connection.protocol
                    assert protocol is not None
                    judged = target.secure and protocol in self._judged
                    answer = await _converse(protocol, target, head, body)
                except BaseException:
                    connection.close()
                    raise
                if protocol.writing_paused:
                    connection.close()  # answered before all was taken: nothing fits behind it
                else:
                    connection.release()  # and closed, when there is more to come
                if target.secure:
                    self._judged.add(protocol)
                return answer
        except EXPECTED as error:
            if type(error) is TimeoutError and not leaves:  # that of `timeout` as a whole
                return classify_exception(NeverWritten("the last look took too long"))
            return classify_exception(error, judged=judged)

    async def _connected(
        self, connector: aiohttp.TCPConnector, target: _Target, timeout: float
    ) -> Connection:
        """A connection on which nothing waits, behind the last look.

        While that look waits for a lease, an answer that nobody asked for may come, or the peer
        may hang up: then there is another connection, and not without end.
        """
        for _ in range(CONNECTIONS_MAX):
            connection = await _connect(connector, target, timeout)
            try:
                await self._assured()
            except BaseException:
                connection.close()
                raise
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                return connection
            ended = None if protocol is None else protocol.exception()
            connection.close()
            if ended is not None and classify_exception(ended).denied:
                raise NeverWritten("the peer refuses the certificate") from ended
        raise NeverWritten("each connection ended before the request could leave")


async def _connect(connector: aiohttp.TCPConnector, target: _Target, timeout: float) -> Connection:
    """A connection. Without one in time nothing was written."""
    if target.proxy is not None:
        target.show_proxy(target.proxy)
    try:
        return await connector.connect(target.request, [], _limits(timeout))
    except TimeoutError:
        raise aiohttp.ConnectionTimeoutError from None
    except aiohttp.ClientHttpProxyError as error:
        fix = ": look at proxy_basic_file" if error.status == PROXY_UNAUTHENTICATED else ""
        raise NeverWritten(f"the proxy answers {error.status}{fix}") from error
    except EXPECTED as error:
        if target.proxy is None or isinstance(error, CERTAIN):
            raise
        raise NeverWritten(f"the proxy gives no tunnel: {type(error).__name__}") from error


class _Target:
    """Where requests go, and what the heads of all of them have in common."""

    __slots__ = (
        *("authorized", "defaults", "has_content", "line", "method", "proxy", "request", "secure"),
    )

    def __init__(self, request: aiohttp.ClientRequest, proxy: Proxy | None) -> None:
        self.proxy = proxy
        self.request = request
        """As aiohttp has checked it. It finds the connection and is never sent itself."""
        self.method = request.method
        self.has_content = request.method in request.POST_METHODS
        self.authorized = request.auth is not None
        self.secure = request.is_ssl()
        self.line = f"{request.method} {request.url.raw_path_qs} HTTP/1.1"
        self.defaults = {
            name.lower(): f"{name}: {value}" for name, value in request.headers.items()
        }
        """The usual headers as lines, by name in small letters."""

    def show_proxy(self, proxy: Proxy) -> None:
        """Say by which proxy the next connection goes.

        aiohttp adds headers of its own to those for the proxy at each connection, and tells
        connections apart by them: they begin anew.
        """
        shown = proxy.authorization
        headers = {hdrs.PROXY_AUTHORIZATION: shown} if shown else None
        self.request.update_proxy(URL(proxy.url), None, headers)


def _target(
    method: str, url: str, tls: ssl.SSLContext | None = None, proxy: Proxy | None = None
) -> _Target:
    """The target of requests. A stage has few: the paths of its APIs, and `/sagas`."""
    if character := unsendable_in_target(url):
        raise NeverWritten(f"{character!r} stands in the address")
    where = URL(url, encoded=True)
    if has_dot_segment(where.raw_path):
        raise NeverWritten("its path has . or .. between two slashes, which is another resource")
    if where.scheme not in (("https",) if proxy else ("http", "https")):
        raise aiohttp.NonHttpUrlClientError("neither http nor https")
    request = aiohttp.ClientRequest(method, where, headers=_OWN_HEADERS, ssl=tls or True)
    return _Target(request, proxy)


def _head(target: _Target, headers: list[tuple[str, str]], body: bytes) -> bytes:
    """The head of one request: the headers given replace the usual ones.

    The last of two with one name holds, so that a content type that an author names beside `json`
    is not sent twice.
    """
    lines = target.defaults.copy()
    for name, value in headers:
        lines[name.lower()] = f"{name}: {value}"
    if target.authorized and (
        lines.get("authorization") is not target.defaults.get("authorization")
    ):
        raise NeverWritten("credentials stand both in the URL and in the header Authorization")
    if body:
        lines["content-length"] = f"Content-Length: {len(body)}"
    if (body or target.has_content) and "content-type" not in lines:
        lines["content-type"] = _OCTETS
    try:
        return encode_head((target.line, *lines.values()))
    except ValueError as error:
        raise NeverWritten(
            "a character stands in the path or in a header that none may have"
        ) from error


async def _converse(
    protocol: ResponseHandler, target: _Target, head: bytes, body: bytes
) -> Answer | Lost:
    """Write the request and read its answer. The connection is the caller's to give back."""
    protocol.set_response_params(
        skip_payload=target.method == hdrs.METH_HEAD, read_until_eof=True, auto_decompress=False
    )
    transport = protocol.transport
    if transport is None or transport.is_closing():
        raise NeverWritten("the connection is closed") from protocol.exception()
    # The peer need not take it all first: it may answer before, and that counts.
    transport.write(head + body)
    message, content = await protocol.read()
    interim = 0
    while 100 <= message.code <= 199 and message.code != 101:  # not the answer yet
        interim += 1
        if interim > INTERIM_ANSWERS_MAX:
            raise NotHttp(message=f"more than {INTERIM_ANSWERS_MAX} answers 1xx")
        message, content = await protocol.read()
    encoding = message.headers.get(hdrs.CONTENT_ENCODING, "identity")
    if encoding.lower() != "identity":
        return Lost(
            reason=f"answered {message.code} in encoding {encoding!r}, not asked for",
            error=str(message.code),
        )
    # Most answers are whole by now.
    answer = content.read_nowait() if content.is_eof() else await content.readany()
    while not content.at_eof() and len(answer) <= ANSWER_BYTES_MAX:
        answer += await content.readany()
    if len(answer) > ANSWER_BYTES_MAX:
        return too_large(message.code)
    return Answer(status=message.code, headers=tuple(message.headers.items()), body=answer)


def too_large(status: int) -> Lost:
    """An answer that was not read to its end."""
    reason = f"answered {status} with more than {ANSWER_BYTES_MAX} bytes"
    return Lost(reason=reason, error=str(status))


@lru_cache(maxsize=256)
def _limits(timeout: float) -> aiohttp.ClientTimeout:
    """For the connection. Few values: a budget makes its own, and is forgotten soon."""
    connect = min(timeout * CONNECT_SHARE, CONNECT_SECONDS_MAX)
    return aiohttp.ClientTimeout(connect=connect)
