"""Asks the endpoints of this stage in the name of a reader, without a connection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from stage.inbound.caller import permit
from stage.inbound.problems import answer_of_error
from stage.inbound.request import Answer, HeaderPairs, Request
from stage.inbound.routes import Found, find
from stage.inbound.service import Service
from stage.wire import headers as h
from stage.wire.problem import Problem, decode_problem

V = TypeVar("V")
Pairs = Iterable[tuple[str, str]]
Headers = Sequence[tuple[str, str]]
NO_WAIT = ((h.PREFER, "respond-async, wait=0"),)


class Reader:
    """A reader of a page, who may see and do what the table of routes says."""

    def __init__(self, service: Service, request: Request) -> None:
        self.service = service
        self.request = request

    async def get(self, kind: type[V], path: str, query: Pairs = ()) -> V:
        """A view of the API. Raises what its endpoint raises, such as WireError 404."""
        answer = await self._ask("GET", path, urlencode(list(query)))
        return msgspec.json.decode(answer.body, type=kind)

    async def post(self, path: str, order: Mapping[str, Any], key: str = "") -> Any:
        """The answer of the API to an order: its JSON, or the Problem that says why not.

        Under one `key` it is done once, however often its form is sent.
        """
        keyed = ((h.IDEMPOTENCY_KEY, key),) if key else ()
        try:
            answer = await self._ask("POST", path, body=msgspec.json.encode(order), headers=keyed)
        except Exception as error:
            refused = answer_of_error(self.request, error)
            if refused is None:
                raise
            answer = refused
        problem = decode_problem(answer.body) if answer.status >= 400 else None
        return msgspec.json.decode(answer.body) if problem is None else problem

    async def _ask(
        self, method: str, path: str, query: str = "", body: bytes = b"", headers: Headers = ()
    ) -> Answer:
        """Raises WireError 401 or 403 where the reader may not, by the table."""
        found = find(method, path)
        assert isinstance(found, Found)  # a page names no path that is not in the table
        permit(self.request.about.principal, found.route.who)

        async def read_body() -> bytes:
            return body

        asked = msgspec.structs.replace(
            self.request,
            method=method,
            path=path,
            query=query,
            headers=HeaderPairs([("Content-Type", h.CONTENT_JSON), *NO_WAIT, *headers]),
            parameters=found.parameters,
            read_body=read_body,
        )
        return await found.route.endpoint(self.service, asked)


__all__ = ["Problem", "Reader"]
