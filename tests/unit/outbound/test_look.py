"""Looking at what became of a saga downstream: `HttpLinks.look`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from stage.outbound.links import HttpLinks
from stage.outbound.transport import Transport
from stage.ports.links import Accepted, Done, LookReply, Refused
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Lost

SAGA = "o:1~b"


class Scripted(Transport):
    """Answers every request with the same."""

    def __init__(self, answer: Answer | Lost) -> None:
        super().__init__()
        self.answer = answer
        self.sent: list[tuple[str, str]] = []

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        timeout: float,
    ) -> Answer | Lost:
        """Note where it would have gone."""
        self.sent.append((method, url))
        return self.answer


def links_over(transport: Transport) -> HttpLinks:
    bases = {"shipping": "http://shipping:1/base/"}
    return HttpLinks(transport, externals={}, downstreams=bases, upstreams={})


async def look(links: HttpLinks, saga_id: str = SAGA) -> LookReply:
    return await links.look("shipping", saga_id, trace=TraceContext(), timeout=1.0)


def answered(status: int, body: bytes = b"", *headers: tuple[str, str]) -> Answer:
    return Answer(status=status, headers=headers, body=body)


@pytest.mark.parametrize(
    "answer, reply",
    [
        (answered(200, b'{"outcome":"executed"}'), Done()),
        (
            answered(200, b'{"outcome":"in_progress"}', ("Retry-After", "3")),
            Accepted(retry_after=3),
        ),
        (answered(404, b"<html>"), Lost(reason="answered 404")),
        (
            answered(503, b"", ("retry-after", "7")),
            Lost(reason="answered 503", retry_after=7.0),
        ),
        (Lost(reason="no answer"), Lost(reason="no answer")),
    ],
)
async def test_what_downstream_shows_is_read(answer: Answer | Lost, reply: LookReply) -> None:
    """A GET of that saga, and nothing else; what is no word on the saga is as good as lost."""
    transport = Scripted(answer)
    assert reply == await look(links_over(transport))
    assert [("GET", "http://shipping:1/base/sagas/o:1~b")] == transport.sent


@pytest.mark.parametrize("status", [405, 501])
async def test_who_shows_no_sagas_says_no(status: int) -> None:
    """It has to be compensated: there is nothing to be found."""
    assert Refused(reason=f"does not show it as executed ({status})", over=True) == await look(
        links_over(Scripted(answered(status)))
    )


@pytest.mark.parametrize("status, over", [(409, True), (410, True), (403, False), (504, False)])
async def test_a_request_that_is_turned_away_is_no_word_on_the_saga(
    status: int, over: bool
) -> None:
    """It says of this request that nothing came of it, not what an earlier one did."""
    reply = await links_over(Scripted(answered(status))).forward(
        "shipping", SAGA, b"{}", trace=TraceContext(), budget=None, timeout=1.0
    )
    assert Refused(reason=f"answered {status}", over=over) == reply


async def test_looks_that_fail_do_not_bar_what_is_handed_on() -> None:
    """A neighbour need not serve them, so they tell nothing of its POST; nor are they barred."""
    transport = Scripted(answered(500))
    links = links_over(transport)
    for _ in range(50):
        await look(links)
    assert not any(links.breakers.values())
    while not any(links.breakers.values()):
        await links.forward("shipping", SAGA, b"{}", trace=TraceContext(), budget=None, timeout=1.0)
    before = len(transport.sent)
    await look(links)
    assert before + 1 == len(transport.sent)
