"""A request from a web page of a stranger is refused, whoever opens it, in any mode."""

from __future__ import annotations

import msgspec
import pytest

from tests.scenario.attacks.names import named_chain, shown_by
from tests.scenario.chain import Chain

PAGES = [
    {"Host": "rebound.example"},
    {"Host": "127.0.0.1.rebound.example"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", PAGES, ids=str)
async def test_a_page_compensates_nothing(chain: Chain, headers: dict[str, str]) -> None:
    """Not even where callers have no names: DNS rebinding, and a form of another site."""
    assert 200 == (await chain.send("s-1"))[0]
    names = {name.replace("-", "_"): value for name, value in headers.items()}
    status, _, body = await chain.compensate("s-1", **names)

    assert (403, "not_executed") == (status, msgspec.json.decode(body)["outcome"])
    assert (1, 1) == await chain.charges()


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
async def test_an_empty_post_says_that_it_is_json(chain: Chain, content_type: str) -> None:
    """The types that a page may post without asking first are 415, with a body or without."""
    assert 200 == (await chain.send("s-1"))[0]
    url = f"{chain.stage}/sagas/s-1/compensate"
    headers = {"Content-Type": content_type} if content_type else {}
    async with chain.session.post(
        url, headers=headers, skip_auto_headers=("Content-Type",)
    ) as response:
        assert 415 == response.status
    assert (1, 1) == await chain.charges()
    async with chain.session.post(url, headers={"Content-Type": "application/json"}) as response:
        assert 200 == response.status


async def test_names_of_loopback_are_answered(chain: Chain) -> None:
    """Loopback and the address of the connection are; a page of our own may ask."""
    port = chain.stage.rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", "LOCALHOST"):
        assert 200 == (await chain.request("GET", f"{chain.stage}/healthz", Host=host))[0]
    url = f"{chain.stage}/healthz"
    own = await chain.request("GET", url, Origin=chain.stage, Sec_Fetch_Site="same-origin")
    assert 200 == own[0]


async def test_allowed_hosts_are_answered(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As a service is called by its name in a cluster."""
    folder = tmp_path_factory.mktemp("hosts")
    async with named_chain(folder, allowed_hosts="payment,payment.default.svc") as chain:
        url, shown = f"{chain.stage}/sagas", shown_by("vera")
        for code, host in ((200, "payment.default.svc:8080"), (403, "payment.evil.example")):
            answer = await chain.request("GET", url, Authorization=shown, Host=host)
            assert code == answer[0]
