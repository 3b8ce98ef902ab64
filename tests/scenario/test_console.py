"""The console without a browser: what its pages show, what its forms do, and who may use them."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from stage.console.draw import POLICY
from stage.console.live import AGAIN_SECONDS, ASKED_MAX, KEPT_SECONDS, Live
from stage.console.story import BAR_WIDTH
from stage.core.errors import NewerJournal
from stage.engine.embedded.engine import EmbeddedEngine
from stage.inbound.aiohttp import SERVICE
from stage.inbound.principal import CLAIMED
from stage.inbound.request import HeaderPairs, Request
from stage.ports.engine import PastRetention
from stage.store.sqlite.store import SqliteStore
from stage.wire.chain import ChainView
from stage.wire.chain_rows import rows_of
from tests.scenario.attacks.names import named_chain, shown_by, token_of
from tests.scenario.chain import Chain, running_chain
from tests.scenario.test_operator import audit, do, stuck, unrepeatable
from tests.scenario.test_sweeps import acts_on, until_done

SCRIPT = "<script>alert(1)</script>"
WHO = {"actor": "kim", "reason": "ticket 17"}


class Fields(HTMLParser):
    """The hidden fields of a page, its choices, and the tags in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.hidden: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.options: dict[str, list[str]] = {}
        """The values of each select by its id; a browser sends the first unless one is chosen."""
        self.required: set[str] = set()
        self._select = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        given = dict(attrs)
        self.tags.add(tag)
        self.attributes.update(given)
        if tag == "select":
            self._select = given.get("id") or ""
            self.options[self._select] = []
        elif tag == "option":
            self.options[self._select].append(given.get("value") or "")
        if "required" in given:
            self.required.add(given.get("id") or "")
        if given.get("type") == "hidden":
            self.hidden.append((str(given["name"]), given["value"] or ""))


async def see(chain: Chain, path: str, **headers: str) -> tuple[int, str]:
    """A page as a browser gets it."""
    url = f"{chain.stage}/console{path}"
    status, got, body = await chain.request("GET", url, None, **headers)
    if status == 200 and not path.startswith("/files"):
        assert POLICY == got["Content-Security-Policy"]
        assert "text/html; charset=utf-8" == got["Content-Type"]
    return status, body.decode()


async def press(
    chain: Chain, path: str, fields: Any, **headers: str
) -> tuple[int, dict[str, str], str]:
    """Send a form as a browser does; redirects are not followed."""
    names = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Origin": chain.stage,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    async with chain.session.post(
        f"{chain.stage}/console{path}",
        data=urlencode(fields, doseq=True).encode(),
        headers={name: value for name, value in names.items() if value},
        allow_redirects=False,
    ) as response:
        return response.status, dict(response.headers), await response.text()


@pytest.fixture
async def named(tmp_path: Path) -> AsyncIterator[Chain]:
    """A chain whose callers have names, with one stuck saga."""
    async with named_chain(tmp_path) as chain:
        await chain.send("s-1", Authorization=shown_by("order"))
        yield chain


async def test_now_shows_what_is_parked_and_where(chain: Chain) -> None:
    """Nothing at first; then one line that leads to the sagas."""
    assert "Nothing waits and nothing is parked." in (await see(chain, ""))[1]
    await stuck(chain)
    _, page = await see(chain, "")
    assert "failed to compensate" in page and "externals.psp" in page
    link = re.search(r'href="(/console/parked\?[^"]*cause=failed_to_compensate[^"]*)"', page)
    assert link is not None
    _, page = await see(chain, link[1].removeprefix("/console").replace("&amp;", "&"))
    assert "/console/sagas/s-1" in page and "stands: charge" in page


async def test_now_shows_the_last_hour_and_what_is_taken_of_the_limits(chain: Chain) -> None:
    """A success, one that was undone later and so ended twice, and a no with its reason."""
    assert "none ended" in (await see(chain, ""))[1]
    await chain.send("s-1")
    await chain.send("s-2")
    await chain.compensate("s-2", reason="the customer changed his mind")
    await chain.script(chain.psp, script="refuse")
    await chain.send("s-3")
    now = await chain.get(f"{chain.stage}/now")
    lately = now["lately"]
    assert (2, 2, 0.5) == (lately["completed"], lately["compensated"], lately["success_ratio"])
    assert [{"step": "charge", "reason": "card declined", "sagas": 1}] == lately["refusals"]
    assert 1 == now["replicas"]
    assert now["database_bytes"]["database"] > 0 and "wal" in now["database_bytes"]
    assert {"requests", "sagas"} == {each["what"] for each in now["places"]}
    _, page = await see(chain, "")
    assert "50.0 %" in page and "card declined" in page


async def test_a_form_that_is_sent_twice_acts_once(chain: Chain) -> None:
    """A button pressed twice, or the page behind it sent again by the browser."""
    await stuck(chain)
    fields = [*WHO.items(), ("verb", "resolve"), ("step", "charge")]
    _, _, page = await press(chain, "/sagas/s-1", [*fields, ("press", "preview")])
    hidden = Fields(page).hidden
    for _ in range(2):
        status, headers, _ = await press(chain, "/sagas/s-1", [*hidden, ("press", "act")])
        assert (303, "/console/sagas/s-1?did=resolve") == (status, headers["Location"])
    assert ["resolved"] == await acts_on(chain, "s-1")
    _, _, again = await press(chain, "/sagas/s-1", [*hidden, ("press", "preview")])
    assert dict(hidden)["key"] != dict(Fields(again).hidden).get("key")


async def test_a_pause_and_a_sweep_that_are_sent_twice_are_one(chain: Chain) -> None:
    """Their pages give each form a key."""
    await stuck(chain)
    _, page = await see(chain, "/peers")
    (key,) = {value for name, value in Fields(page).hidden if name == "key"}
    held = [*WHO.items(), ("target", "intake"), ("minutes", "15"), ("key", key), ("press", "pause")]
    sweep = [*WHO.items(), ("verb", "retry"), ("saga_id", "s-1"), ("rate", "1")]
    _, _, page = await press(chain, "/parked", [*sweep, ("press", "preview")])
    hidden = Fields(page).hidden
    for _ in range(2):
        assert 303 == (await press(chain, "/peers", held))[0]
        assert 303 == (await press(chain, "/parked", [*hidden, ("press", "act")]))[0]
    assert ["paused"] == await acts_on(chain, "intake")
    assert 1 == len((await chain.get(f"{chain.stage}/sweeps"))["sweeps"])


async def test_parked_lists_only_what_the_query_narrows_to(chain: Chain) -> None:
    """By itself the parked sagas; a word that is not known is a page that says so."""
    await stuck(chain)
    assert "/console/sagas/s-1" in (await see(chain, "/parked"))[1]
    assert "No saga is so." in (await see(chain, "/parked?state=active"))[1]
    status, page = await see(chain, "/parked?cause=rain")
    assert 400 == status and "causes are" in page


@pytest.mark.parametrize("found", [None, NewerJournal("it goes on there"), PastRetention("gone")])
async def test_a_saga_that_goes_behind_its_list_ends_no_page(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, found: Exception | None
) -> None:
    """It is shown as it was listed, and the others with what stands of them."""
    await stuck(chain)
    get_saga = EmbeddedEngine.get_saga

    async def late(engine: EmbeddedEngine, saga_id: str, wait_seconds: float = 0.0) -> Any:
        if saga_id != "s-1":
            return await get_saga(engine, saga_id, wait_seconds)
        if found is not None:
            raise found
        return None

    monkeypatch.setattr(EmbeddedEngine, "get_saga", late)
    status, page = await see(chain, "/parked")
    assert (200, True) == (status, "/console/sagas/s-1" in page)


async def test_a_saga_whose_journal_another_release_reads_has_its_page(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without entries, and its chain with the stories of all stages."""
    await chain.send("s-1")

    async def unread(*_: object) -> None:
        raise NewerJournal("it goes on there")

    monkeypatch.setattr(SqliteStore, "entries", unread)
    assert 200 == (await see(chain, "/sagas/s-1"))[0]
    stories = (await chain.get(f"{chain.stage}/sagas/s-1?view=chain"))["stages"]
    assert {"payment", "shipping"} <= {story["stage"] for story in stories}


async def test_a_saga_is_shown_with_its_journal_and_each_verb(chain: Chain) -> None:
    """Each allowed verb has a form; each other one the reason of the API."""
    await stuck(chain)
    _, page = await see(chain, "/sagas/s-1")
    assert "compensate charge: " in page and "the refund was declined" in page
    assert "psp" in page and "stands: charge" in page
    offered = set(re.findall(r'name="verb" value="(\w+)"', page))
    assert {"retry", "resolve", "forget"} == offered
    assert "<strong>settle</strong>, not now: no step of it is in doubt" in page
    _, problem = await do(chain, "s-1", "abandon", dry_run=True)
    assert f"<strong>abandon</strong>, not now: {problem['detail']}" in page
    shown = await chain.get(f"{chain.stage}/sagas/s-1?view=verbs")
    said = {each["verb"]: each["why_not"] for each in shown["verbs"]}
    assert {each for each, why_not in said.items() if why_not is None} == offered
    assert problem["detail"] == said["abandon"]
    status, page = await see(chain, "/sagas/never")
    assert 404 == status and "never seen here" in page


async def test_a_verb_is_shown_first_and_done_then(chain: Chain) -> None:
    """The preview changes nothing and carries what was typed; its button does it."""
    await stuck(chain)
    fields = {**WHO, "verb": "resolve", "step": "charge", "press": "preview"}
    status, _, page = await press(chain, "/sagas/s-1", fields)
    assert 200 == status and "Would be" in page and "compensated" in page
    assert [] == await audit(chain, "s-1")
    status, headers, _ = await press(chain, "/sagas/s-1", [*Fields(page).hidden, ("press", "act")])
    assert (303, "/console/sagas/s-1?did=resolve") == (status, headers["Location"])
    assert [("resolved", "kim", "ticket 17")] == await audit(chain, "s-1")
    status, _, page = await press(chain, "/sagas/s-1", {**fields, "press": "act"})
    assert 409 == status and "Not done" in page


async def test_compensate_is_shown_as_a_forecast_and_done(chain: Chain) -> None:
    """A completed saga: each effect with what would become of it, then all of it undone."""
    await chain.send("s-1")
    fields = {**WHO, "verb": "compensate", "press": "preview"}
    _, _, page = await press(chain, "/sagas/s-1", fields)
    assert "What would become of each effect" in page and "charge" in page
    assert "nothing to undo is declared" in page, "the words are not those of stage plan"
    assert "completed" == (await chain.view("s-1"))["state"]
    status, _, _ = await press(chain, "/sagas/s-1", [*Fields(page).hidden, ("press", "act")])
    assert 303 == status
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")


async def test_many_are_chosen_shown_and_swept(chain: Chain) -> None:
    """The preview names the sagas, and the sweep is for those: a later one is left alone."""
    await stuck(chain)
    fields = [
        *WHO.items(), ("verb", "resolve"), ("step", "charge"), ("which", "all"), ("rate", "200"),
        ("where", "parked=true"), ("press", "preview"),
    ]  # fmt: skip
    status, _, page = await press(chain, "/parked", fields)
    assert 200 == status and "resolve 1 sagas" in page
    hidden = Fields(page).hidden
    assert [("saga_id", "s-1")] == [each for each in hidden if each[0] in ("saga_id", "where")]
    status, headers, _ = await press(chain, "/parked", [*hidden, ("press", "act")])
    assert (303, "/console/sweeps/1") == (status, headers["Location"])
    await until_done(chain, 1)
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    _, page = await see(chain, "/sweeps/1")
    assert "Done to 1 of 1" in page and "ticket 17" in page
    status, _, page = await press(chain, "/parked", [*WHO.items(), ("verb", "retry")])
    assert 422 == status and "by neither" in page


@pytest.mark.parametrize("path", ["", "/parked", "/sagas/s-1", "/sweeps/1", "/peers", "/audit"])
async def test_no_text_of_others_becomes_markup(chain: Chain, path: str) -> None:
    """A script in every text that others may write: reason, actor, step, filter, saga's data."""
    await stuck(chain)
    await do(chain, "s-1", "retry", reason=SCRIPT, actor=SCRIPT)
    await chain.until("s-1", lambda saga: saga["state"] == "failed_to_compensate")
    body = {"target": "intake", "seconds": 60, "reason": SCRIPT, "actor": SCRIPT}
    await chain.session.post(f"{chain.stage}/pauses", json=body)
    order = {"verb": "settle", "reason": SCRIPT, "actor": SCRIPT, "step": SCRIPT}
    body = {**order, "verb": "resolve", "saga_ids": ["s-1"]}
    await chain.session.post(f"{chain.stage}/sweeps", json=body)
    status, page = await see(chain, path)
    assert 200 == status
    assert 1 == page.count("<script") == page.count("/files/console.js")
    assert path == "/parked" or "&lt;script&gt;" in page  # that page has no text of others
    assert not {each for each in Fields(page).attributes if each.startswith(("on", "style"))}
    _, page = await see(
        chain, f"/parked?{urlencode({'step': SCRIPT, 'peer': f'externals.{SCRIPT}'})}"
    )
    assert 1 == page.count("<script") and "&lt;script&gt;" in page
    for verb in ("settle", "resolve", SCRIPT):
        _, _, page = await press(chain, "/sagas/s-1", {**order, "verb": verb, "landed": "no"})
        assert 1 == page.count("<script")


async def test_peers_are_held_and_let_go(chain: Chain) -> None:
    """A pause with its reason stands on three pages, and its button ends it."""
    _, page = await see(chain, "/peers")
    assert "externals.psp" in page and "Nothing is paused." in page
    fields = {**WHO, "target": "externals.psp", "minutes": "60", "direction": "forward"}
    status, headers, _ = await press(chain, "/peers", fields)
    assert (303, "/console/peers") == (status, headers["Location"])
    for path in ("", "/peers"):
        assert "ticket 17" in (await see(chain, path))[1]
    assert "paused for " in (await see(chain, "/peers"))[1]
    status, _, _ = await press(chain, "/peers", {**fields, "press": "end"})
    assert 303 == status and "Nothing is paused." in (await see(chain, "/peers"))[1]
    assert 404 == (await press(chain, "/peers", {**fields, "press": "end"}))[0]
    _, page = await see(chain, "/audit?target=externals.psp")
    assert 2 == page.count("ticket 17")


async def test_the_chain_is_shown_with_every_stage(chain: Chain) -> None:
    """Our own story, that of the stage behind us, and their events by time."""
    await chain.send("s-1")
    _, page = await see(chain, "/sagas/s-1/chain")
    assert "payment" in page and "shipping" in page and "completed" in page
    view = await chain.get(f"{chain.stage}/sagas/s-1?view=chain")
    rows = rows_of(msgspec.convert(view, ChainView))
    assert len(rows) == page.count("<rect ") == page.count('<th scope="row">') - len(view["stages"])
    bars = [(float(x), float(wide)) for x, wide in re.findall(r'x="([\d.]+)".*?h="([\d.]+)"', page)]
    assert all(0 <= x and 0 < wide and x + wide <= BAR_WIDTH for x, wide in bars)


async def test_a_trace_is_linked_where_the_operator_says_so(tmp_path: Path) -> None:
    """From the saga and from its chain; without the setting there is only the id."""
    url = "https://jaeger.example/trace/{trace_id}?x=1&y=2"
    async with running_chain(tmp_path, trace_url=url) as chain:
        await chain.send("s-1")
        link = url.replace("{trace_id}", (await chain.view("s-1"))["trace_id"])
        for path in ("/sagas/s-1", "/sagas/s-1/chain"):
            assert f'href="{escape(link)}"' in (await see(chain, path))[1]


async def test_a_saga_shows_how_long_each_step_took(chain: Chain) -> None:
    """And the time-out of what leaves; a transaction has none."""
    await stuck(chain)
    _, page = await see(chain, "/sagas/s-1")
    rows = {
        row[0]: row[1] for row in re.findall(r'<tr><th scope="row">([^<]+)</th>(.*)</tr>', page)
    }
    assert re.search(
        r'<td class="number">\d\.\d{3} s</td><td class="number">1 s</td>', rows["charge"]
    )
    assert '<td class="number"></td><td>' in rows["reserve"]


async def test_the_search_finds_by_id_and_says_what_is_not_indexed(chain: Chain) -> None:
    """An id leads to its saga; a number of a stage without an index is a page that says so."""
    await chain.send("s-1")
    url = f"{chain.stage}/console/search?q="
    for words, path in (
        ("s-1", "/console/sagas/s-1"),
        ("a" * 32, "/console/parked?trace_id=" + "a" * 32),
        ("order_id:7", "/console/parked?number=order_id%3A7"),
    ):
        async with chain.session.get(url + words, allow_redirects=False) as response:
            assert (303, path) == (response.status, response.headers["Location"])
    assert 422 == (await see(chain, "/parked?number=order_id%3A7"))[0]
    assert 404 == (await see(chain, "/search?q=s-2"))[0]


async def test_pages_hear_of_a_change_and_not_too_many_do(chain: Chain) -> None:
    """One event, none until something changes, another then; the page too many stops asking."""
    assert chain.app is not None
    service, at = chain.app[SERVICE], 0.0
    live = Live(lambda: at)

    async def ask(had: str = "") -> tuple[int, str]:
        request = Request(
            method="GET", path="/console/live", headers=HeaderPairs([("Last-Event-ID", had)])
        )
        request.about.principal = CLAIMED
        answer = await live.answer(service, request)
        return answer.status, answer.body.decode()

    found = re.fullmatch(r"retry: 5000\nid: (\w+)\nevent: changed\ndata: now\n\n", (await ask())[1])
    assert found is not None
    await chain.send("s-1")
    assert (200, "retry: 5000\n\n") == await ask(found[1])  # told of the look before
    at = KEPT_SECONDS
    assert "event: changed" in (await ask(found[1]))[1]
    assert 204 == [await ask() for _ in range(ASKED_MAX)][-1][0]
    at += AGAIN_SECONDS
    assert 200 == (await ask())[0]
    status, headers, _ = await chain.request("GET", f"{chain.stage}/console/live")
    assert 200 == status and headers["Content-Type"].startswith("text/event-stream")


async def test_the_page_of_a_saga_hears_of_its_own_changes(chain: Chain) -> None:
    """A further attempt at one of two sagas changes no count that other pages show."""
    await stuck(chain)
    await chain.script(chain.psp, script="refund-fails")
    url = f"{chain.stage}/console/live?saga=s-1"

    async def heard(had: str) -> str:
        _, _, body = await chain.request("GET", url, Last_Event_ID=had)
        return body.decode()

    found = re.search(r"id: (\S+)\nevent: changed\n", await heard(""))
    assert found is not None and "event" not in await heard(found[1])
    before = await chain.view("s-1")
    assert 200 == (await do(chain, "s-1", "retry"))[0]
    await chain.until(
        "s-1",
        lambda saga: (
            saga["state"] == "failed_to_compensate" and saga["updated_at"] != before["updated_at"]
        ),
    )
    assert "event: changed" in await heard(found[1])
    assert 404 == (await chain.request("GET", f"{url}9"))[0]


async def test_an_undo_is_made_anew_on_the_page(chain: Chain) -> None:
    """Under a new key where a person says that it has not landed; a plain retry names no step."""
    await stuck(chain)
    await chain.script(chain.psp, script="ok")
    _, page = await see(chain, "/sagas/s-1")
    assert 'name="request"' in page and '<option value="charge">' in page
    fields = [*WHO.items(), ("verb", "retry"), ("request", "new_key"), ("step", "charge")]
    status, _, page = await press(chain, "/sagas/s-1", [*fields, ("press", "preview")])
    assert 200 == status and "compensating" in page
    done = [*Fields(page).hidden, ("press", "act")]
    assert 303 == (await press(chain, "/sagas/s-1", done))[0]
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    entries = (await chain.get(f"{chain.stage}/sagas/s-1?view=journal"))["entries"]
    (retried,) = [each for each in entries if each["event"] == "retried"]
    assert (True, True, "charge") == (retried["anew"], retried["new_key"], retried["step"])
    (shown,) = [
        each
        for each in (await chain.get(f"{chain.stage}/sagas/s-1?view=verbs"))["verbs"]
        if each["verb"] == "retry"
    ]
    assert [] == shown["steps"]


async def test_a_browser_is_asked_for_a_token_on_pages_alone(named: Chain) -> None:
    """The token is the password; the same header counts for nothing at the API."""

    def basic(name: str) -> str:
        return "Basic " + base64.b64encode(f"x:{token_of(name)}".encode()).decode()

    status, headers, _ = await named.request("GET", f"{named.stage}/console")
    assert 401 == status and headers["WWW-Authenticate"].startswith("Basic ")
    assert 200 == (await see(named, "", Authorization=basic("vera")))[0]
    assert "vera, viewer" in (await see(named, "", Authorization=basic("vera")))[1]
    for shown in (basic("vera")[:-3], basic("order"), "Basic !", basic("x" * 600)):
        assert (await see(named, "", Authorization=shown))[0] in (401, 403)
    status, headers, _ = await named.request(
        "GET", f"{named.stage}/groups", Authorization=basic("ada")
    )
    assert (401, "Bearer") == (status, headers["WWW-Authenticate"])


async def test_a_reader_does_no_more_than_the_role_allows(named: Chain) -> None:
    """A viewer presses nothing; an operator no verb of an admin; the audit has the principal."""
    fields = {"verb": "forget", "reason": "ticket", "actor": "boss", "press": "act"}
    assert 403 == (await press(named, "/sagas/s-1", fields, Authorization=shown_by("vera")))[0]
    _, page = await see(named, "/sagas/s-1", Authorization=shown_by("olga"))
    assert "'olga' may not do this: admin may" in page.replace("&#39;", "'")
    assert 403 == (await press(named, "/sagas/s-1", fields, Authorization=shown_by("olga")))[0]
    assert 303 == (await press(named, "/sagas/s-1", fields, Authorization=shown_by("ada")))[0]
    _, _, body = await named.request("GET", f"{named.stage}/audit", Authorization=shown_by("vera"))
    assert b'"actor":"ada"' in body and b"boss" not in body


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Origin": ""}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Host": "evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
    ],
)
async def test_a_form_of_a_foreign_page_does_nothing(
    chain: Chain, headers: dict[str, str], status: int
) -> None:
    """Nothing that the browser adds for its user helps a page that is not the console's."""
    await chain.send("s-1")
    fields = {**WHO, "verb": "forget", "press": "act"}
    assert status == (await press(chain, "/sagas/s-1", fields, **headers))[0]
    assert ([] if status != 303 else ["forgotten"]) == await acts_on(chain, "s-1")


async def test_files_and_pages_that_are_not_there(chain: Chain) -> None:
    """The style is there as such; nothing leads out of the folder."""
    status, _ = await see(chain, "/files/console.css")
    assert 200 == status
    for path in ("/files/..%2Fdraw.py", "/files/none.css", "/attic"):
        assert 404 == (await see(chain, path))[0]
    assert 400 == (await press(chain, "/sagas/s-1", {"verb": "explode"}))[0]


async def test_a_claim_about_the_world_is_never_preselected(tmp_path: Path) -> None:
    """An overlooked question would say that a charge which landed never happened."""
    async with running_chain(tmp_path, stage=unrepeatable()) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        await chain.send("s-1")
        await chain.until("s-1", lambda saga: saga["parked"])
        page = Fields((await see(chain, "/sagas/s-1"))[1])
        assert ["", "yes", "no"] == page.options["settle-landed"]
        assert {"settle-landed", "settle-step"} <= page.required
        fields = {**WHO, "verb": "settle", "step": page.options["settle-step"][0]}
        for overlooked in ("", "perhaps"):
            asked = {**fields, "landed": overlooked, "press": "preview"}
            status, _, shown = await press(chain, "/sagas/s-1", asked)
            assert 422 == status and "Not done: settle needs `step` and `landed`: " in shown
            assert 422 == (await press(chain, "/sagas/s-1", {**asked, "press": "act"}))[0]
        assert [] == await audit(chain, "s-1")


async def test_the_preview_of_settle_shows_the_claim(tmp_path: Path) -> None:
    """The answer and the result, so that a wrong one is seen before it counts."""
    async with running_chain(tmp_path, stage=unrepeatable()) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        await chain.send("s-1")
        await chain.until("s-1", lambda saga: saga["parked"])
        fields = {**WHO, "verb": "settle", "step": "charge", "press": "preview"}
        _, _, page = await press(chain, "/sagas/s-1", {**fields, "landed": "no"})
        assert "<dd>no, nothing happened</dd>" in page and "<dd>none given</dd>" in page
        found = {**fields, "landed": "yes", "result": '{"id": "ch_000001"}'}
        _, _, page = await press(chain, "/sagas/s-1", found)
        assert "<dt>Has it landed?</dt><dd>yes, it happened</dd>" in page
        assert f"<dd>{found['result']}</dd>" in unescape(page)
        done = [*Fields(page).hidden, ("press", "act")]
        assert 303 == (await press(chain, "/sagas/s-1", done))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert (1, 1) == await chain.charges()
