"""The gateways of a simulated world: they answer for a neighbour or an API that is behind them.

Their answer is never the word of the one behind them. It may come before the request was passed
on, while the one behind works, or in place of its answer, under any code and with any body but a
true one about this saga.
"""

from __future__ import annotations

from random import Random

import msgspec

from stage.ports.stage import Answer
from stage.wire.outcome import Outcome

HTML = (("Content-Type", "text/html"),)
JSON = (("Content-Type", "application/json"),)
PAGE = b"<html><body><h1>Sorry</h1></body></html>"

NEIGHBOUR_CODES = (
    200, 202, 204, 302, 400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 422, 425, 429, 500, 502,
    503, 504, 520,
)  # fmt: skip
"""The answers that gateways in front of neighbours give by themselves."""
OF_ANOTHER_SAGA = (
    (200, Outcome.EXECUTED),
    (200, Outcome.COMPENSATED),
    (202, Outcome.IN_PROGRESS),
    (409, Outcome.COMPENSATED),
    (409, Outcome.NOT_EXECUTED),
    (410, Outcome.COMPENSATED),
)
"""True answers that a gateway gives to the wrong caller."""
OF_ANOTHER_REPLICA = tuple(
    (code, Outcome.NOT_EXECUTED) for code in (400, 401, 403, 404, 415, 429, 503)
)
"""True answers of a replica which the gateway asked second: it refuses what it did not look at, for
its key, its state or what the gateway made of the request. The first one may have the saga."""
API_CODES = (200, 400, 401, 403, 404, 409, 410, 422, 429, 502, 503, 504)
"""The answers of gateways in front of an API, whether or not it was asked: it may have acted.

Not 402, which none gives.
"""
REWRITTEN = (404, 500, 502, 503, 504)
"""Codes that a gateway puts over an answer whose body it lets through."""


def page(random: Random, saga: str) -> Answer:
    """An answer to a neighbour that no neighbour gave."""
    status = random.choice(NEIGHBOUR_CODES)
    retry = (("Retry-After", str(random.randint(0, 3))),) if status in (429, 503) else ()
    match random.randrange(5):
        case 0:
            return Answer(status=status, headers=retry)
        case 1:
            body = msgspec.json.encode({"message": "no route", "code": status})
            return Answer(status=status, headers=(*JSON, *retry), body=body)
        case 2:
            replica = random.random() < 0.5
            status, outcome = random.choice(OF_ANOTHER_REPLICA if replica else OF_ANOTHER_SAGA)
            about: dict[str, str] = {} if replica else {"saga_id": f"{saga}-other"}
            about["outcome"] = outcome
            return Answer(status=status, headers=(*JSON, *retry), body=msgspec.json.encode(about))
        case _:
            return Answer(status=status, headers=(*HTML, *retry), body=PAGE)


def without_key(random: Random) -> Answer:
    """The word of a second replica that does not know the key; the first one may have the saga."""
    body = msgspec.json.encode({"outcome": Outcome.NOT_EXECUTED})
    return Answer(status=random.choice((401, 403)), headers=JSON, body=body)


def away(random: Random) -> Answer:
    """The page of a gateway that does not reach what is behind it."""
    return Answer(status=random.choice((502, 503, 504)), headers=HTML, body=PAGE)


def page_of_api(random: Random) -> Answer:
    """An answer for an external API, which may have had the request or not.

    Some gateways speak JSON, with members that an API has as well.
    """
    return _page(random, random.choice(API_CODES))


def without_route(random: Random) -> Answer:
    """The page of a gateway that does not find what is behind it, as after a deploy of its own."""
    return _page(random, 404)


def rewritten(random: Random, answer: Answer) -> Answer:
    """A neighbour's own body under a code that it did not give."""
    return Answer(status=random.choice(REWRITTEN), headers=answer.headers, body=answer.body)


def _page(random: Random, status: int) -> Answer:
    """Nothing, HTML, or JSON with the members that such a page usually has."""
    match random.randrange(4):
        case 0:
            return Answer(status=status)
        case 1:
            said = {"status": status, "error": "no route", "message": "no route", "code": status}
            return Answer(status=status, headers=JSON, body=msgspec.json.encode(said))
        case _:
            return Answer(status=status, headers=HTML, body=PAGE)
