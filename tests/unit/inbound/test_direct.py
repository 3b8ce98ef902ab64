"""`POST /sagas` is handled without the router, and only where nobody can tell the difference."""

from __future__ import annotations

from typing import cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp.typedefs import Handler

from stage.inbound.aiohttp import SERVICE, direct, is_direct, make_app
from stage.inbound.service import Service


@pytest.fixture
def app() -> web.Application:
    made = make_app()
    made[SERVICE] = cast(Service, object())  # nothing is asked of it
    return made


@web.middleware
async def theirs(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await handler(request)


async def prepared(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Theirs"] = "1"


def test_our_own_application_handles_it_directly(app: web.Application) -> None:
    """It has the one middleware that requests for our routes pass untouched."""
    assert direct(app) is not None


def test_a_middleware_of_the_author_sees_every_request(app: web.Application) -> None:
    """Then the router is asked as ever."""
    app.middlewares.append(theirs)

    assert direct(app) is None


def test_a_signal_of_the_author_sees_every_response(app: web.Application) -> None:
    """It is found by way of the match, which a direct request has not."""
    app.on_response_prepare.append(prepared)

    assert direct(app) is None


@pytest.mark.parametrize(
    "method,path,headers,expected",
    [
        ("POST", "/sagas", {}, True),
        ("POST", "/sagas", {"Expect": "100-continue"}, False),
        ("POST", "/sagas?wait=1", {}, False),
        ("POST", "/sagas/", {}, False),
        ("POST", "/%73agas", {}, False),
        ("POST", "http://stage.test/sagas", {}, False),
        ("GET", "/sagas", {}, False),
        ("POST", "/sagas/s-1/compensate", {}, False),
    ],
)
def test_only_the_path_as_it_stands_is_direct(
    method: str, path: str, headers: dict[str, str], expected: bool
) -> None:
    """All others go through the router, which knows escapes, `Expect` and what is not allowed."""
    assert is_direct(make_mocked_request(method, path, headers)) is expected
