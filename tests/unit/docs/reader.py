"""The reader of a page has these: an API of their own, and the ends of what a block only names."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

import msgspec
from aiohttp import web

from tests.unit.testing.test_effects import Psp as Psp


def handler() -> logging.Handler:
    """One of the standard library, which drops what it gets."""
    return logging.NullHandler()


def key_in(path: str) -> str:
    """The key at the end of a path."""
    return path.rpartition("/")[2]


def key_in_body(body: bytes) -> str:
    """The key in a body of JSON."""
    key: str = msgspec.json.decode(body)["key"]
    return key


def signature(*parts: Any) -> str:
    """Of no worth."""
    return f"{len(parts)}"


class Web:
    """`aiohttp.web`, whose server ends at once."""

    json_response = web.json_response

    @staticmethod
    def run_app(app: Coroutine[Any, Any, web.Application]) -> None:
        """Make nothing of the application."""
        app.close()
