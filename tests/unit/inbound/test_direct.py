"""Starts and requests to compensate are handled without the router where nobody can tell."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp.typedefs import Handler

from stage.inbound.aiohttp import SERVICE, direct, make_app, saga_id_to_compensate
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
    "path,expected",
    [
        ("/sagas/s-1/compensate", "s-1"),
        ("/sagas/urn:saga:1~a.b_c/compensate", "urn:saga:1~a.b_c"),
        ("/sagas/%73-1/compensate", None),
        ("/sagas/s-1/compensate?wait=1", None),
        ("/sagas/s-1/retry", None),
        ("/sagas//compensate", None),
        ("/sagas/./compensate", None),
        ("/sagas/../compensate", None),
        ("/sagas/a/b/compensate", None),
        ("/sagas/compensate", None),
        ("/pay/sagas/s-1/compensate", None),
        (f"/sagas/{'s' * 129}/compensate", None),
    ],
)
def test_the_saga_id_of_a_direct_path_is_what_the_router_would_find(
    path: str, expected: str | None
) -> None:
    """The router takes any path with an escape, a query or no saga id."""
    assert expected == saga_id_to_compensate(path)


@pytest.mark.parametrize(
    "method,path,expected",
    [
        ("POST", "/sagas", True),
        ("POST", "/sagas/s-1/compensate", True),
        ("POST", "/sagas?wait=1", False),
        ("POST", "/sagas/", False),
        ("POST", "/%73agas", False),
        ("POST", "http://stage.test/sagas", False),
        ("GET", "/sagas", False),
        ("GET", "/sagas/s-1/compensate", False),
        ("POST", "/sagas/s-1/retry", False),
    ],
)
def test_only_paths_as_they_stand_are_direct(
    app: web.Application, method: str, path: str, expected: bool
) -> None:
    """All others go through the router, which knows escapes and what is not allowed."""
    handle = direct(app)
    assert handle is not None

    handled = handle(make_mocked_request(method, path))

    assert (handled is not None) is expected
    if handled is not None:
        cast(Coroutine[object, object, object], handled).close()
