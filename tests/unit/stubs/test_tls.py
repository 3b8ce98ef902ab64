"""TLS of the neighbours: whom they believe, and what is said of files that cannot be used."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from stage.neighbours.downstream import books as downstream
from stage.neighbours.downstream.app import make_app as make_downstream
from stage.neighbours.downstream.upstream import Upstream
from stage.neighbours.shared import tls
from stage.neighbours.shared.spans import Spans
from stage.neighbours.shared.tokens import read_keys
from stage.neighbours.shared.trace import trace_of
from stage.neighbours.upstream import books as upstream
from stage.neighbours.upstream.stage_client import Lost, Reply, StageClient
from stage.wire.replies import CompensateReplyKind
from tests.certificates import Authority

HOST = "127.0.0.1"


def options_of(*words: str) -> Namespace:
    """The options of a listener."""
    parser = ArgumentParser()
    tls.add_listener_options(parser)
    return parser.parse_args(words)


async def served(folder: Path) -> tuple[TestServer, Path, Path]:
    """A neighbour behind TLS; the authority of its certificate, and another one."""
    right, other = Authority(folder, "right"), Authority(folder, "other")
    cert, key = right.sign("stage", HOST)
    context = tls.listener_context(options_of("--tls-cert", str(cert), "--tls-key", str(key)))
    server = TestServer(make_downstream(name="stage", upstream="http://x"), host=HOST)
    await server.start_server(ssl=context)
    return server, right.file, other.file


async def test_a_neighbour_believes_the_authorities_that_it_was_given(tmp_path: Path) -> None:
    """Under another one nothing is sent, and the request is lost for certain."""
    server, right, other = await served(tmp_path)
    url, trace = f"https://{HOST}:{server.port}", trace_of({})
    found = []
    for ca_file in (right, other):
        client = StageClient(url, 5.0, Spans(None), read_keys("", "", str(ca_file)))
        async with client.open():
            order = upstream.Saga(saga_id="s-1", trace=trace)
            found.append(await client.compensate(order, "order", "asked"))
    above = Upstream(url, Spans(None), read_keys("", "", str(right)))
    saga = downstream.Saga(saga_id="s-2", trace=trace)
    async with above.open():
        await above.have_compensated(saga, requested_by="shipping")
    await server.close()

    assert isinstance(found[0], Reply)
    assert 200 == found[0].status
    assert isinstance(found[1], Lost)
    assert found[1].certain
    assert [CompensateReplyKind.COMPENSATED] == [told["reply"] for told in saga.told_upstream]


async def test_a_request_without_tls_gets_no_answer(tmp_path: Path) -> None:
    """A neighbour with a certificate serves https alone."""
    server, _, _ = await served(tmp_path)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://{HOST}:{server.port}/sagas")
    await server.close()


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """A file that is missing, one that is no PEM, and a key that stands alone."""
    cert, key = Authority(tmp_path).sign("stage", HOST)
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("hello")
    wrong: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: tls.listener_context(options_of("--tls-key", str(key))), "without --tls-cert"),
        (lambda: tls.listener_context(options_of("--tls-cert", "missing.pem")), "missing.pem: "),
        (lambda: tls.listener_context(options_of("--tls-cert", str(no_pem))), "no.pem: "),
        (lambda: tls.listener_context(options_of("--tls-cert", str(cert))), f"{cert}: "),
        (lambda: tls.caller_context("missing.pem"), "missing.pem: "),
        (lambda: tls.caller_context(str(no_pem)), "no.pem: "),
    )
    for read, words in wrong:
        with pytest.raises(ValueError, match=words):
            read()
    assert tls.listener_context(options_of()) is None
    assert tls.caller_context("") is None
