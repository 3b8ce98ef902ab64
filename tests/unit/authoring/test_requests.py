"""Requests that cannot be sent as they are described: a defect, before anything leaves (rule 4)."""

from __future__ import annotations

import pytest

from stage.authoring.conversation import FunctionConversation, Reading
from stage.authoring.http import Http, RequestRefused
from stage.core.failure import FailureKind
from stage.ports.stage import Failed
from stage.testing import FakeHttp

CLIENTS = [Http("psp"), FakeHttp(peer="psp")]


@pytest.mark.parametrize("http", CLIENTS, ids=["http", "fake"])
@pytest.mark.parametrize("character", ["#", " ", "\t", "\r\n", "\x00", "\x7f", "\x85", "\ud800"])
def test_a_path_that_would_go_elsewhere_is_refused_with_the_fix(http: Http, character: str) -> None:
    """`/charges/c#1/refund` was sent as `/charges/c`: another resource."""
    with pytest.raises(RequestRefused, match=r"test_requests\.py:\d+.*quote\(value, safe=''\)"):
        _ = http.post(f"/charges/c{character}1/refund")


@pytest.mark.parametrize("http", CLIENTS, ids=["http", "fake"])
@pytest.mark.parametrize("value", ["..", ".", "%2E.", "%2e%2e", "..%2Frefunds", "..;x", "x\\.."])
def test_a_path_with_dots_for_a_segment_is_refused(http: Http, value: str) -> None:
    """`quote("..")` is `..`, so that `/charges/../refund` is `/refund` behind most gateways."""
    with pytest.raises(RequestRefused, match=r"test_requests\.py:\d+.*leaves dots as they are"):
        _ = http.post(f"/charges/{value}/refund")
    with pytest.raises(RequestRefused):
        _ = http.delete(f"/charges/{value}")


def test_a_query_is_given_once() -> None:
    """Two `?` make one query of another meaning."""
    with pytest.raises(RequestRefused, match="params="):
        _ = Http().get("/charges?state=open", params={"key": "k"})


@pytest.mark.parametrize("value", ["a\nb", "a\r", "a\x00", "a\x7f", "\ud800"])
def test_a_header_that_would_end_another_is_refused(value: str) -> None:
    """A tab may stand in one."""
    with pytest.raises(RequestRefused, match="'X-Order'"):
        _ = Http().post("/charges", headers={"X-Order": value})
    _ = Http().post("/charges", headers={"X-Order": "a\tb"})


@pytest.mark.parametrize("name", ["", "X Order", "X:Order", "X\nOrder", "Größe"])
def test_a_name_of_a_header_is_a_token(name: str) -> None:
    """Another one is no header, or another one."""
    with pytest.raises(RequestRefused, match="no name of a header"):
        _ = Http().post("/charges", headers={name: "x"})


@pytest.mark.parametrize("method", ["", "PO ST", "POST\n", "POST /x HTTP/1.1"])
def test_a_method_is_a_token(method: str) -> None:
    """Anything else is another request."""
    with pytest.raises(RequestRefused, match="method"):
        _ = Http().request(method, "/charges")


@pytest.mark.parametrize(
    "path", ["/charges/c%231/refund?a=b", "/charges/ä", "/v1.2/c..1/.d/...", "/charges?next=/../x"]
)
def test_a_path_is_sent_as_it_is(path: str) -> None:
    """With a quoted value, or a letter beyond ASCII, which leaves as UTF-8."""
    http = FakeHttp()
    _ = http.post(path)
    assert path == http.described(1).intent.request.path


async def test_nothing_is_in_doubt_where_the_first_request_cannot_be_sent() -> None:
    """It is a defect, which certainly had no effect."""

    async def refund(http: Http) -> None:
        await http.post("/charges/c#1/refund")

    http = Http("psp")
    conversation = FunctionConversation(refund(http), http, lambda _: b"null", Reading())
    failed = await conversation.proceed()
    assert isinstance(failed, Failed)
    assert (FailureKind.DEFECT, False) == (failed.kind, failed.may_stand)
