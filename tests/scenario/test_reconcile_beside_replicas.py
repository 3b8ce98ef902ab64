"""`stage reconcile` on a database that replicas may serve from, and its dry run on any."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage import Stage
from stage.authoring.declaration import StageDeclaration
from stage.bootstrap import open_database, reconcile
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.demo.postgres_server import Server
from stage.engine.reconcile import Reconciliation

pytestmark = pytest.mark.blocking

AWAY = "http://127.0.0.1:9"
"""The port of discard, where nobody listens."""
SERVES = "INSERT INTO stage.replica (name, lease_until) VALUES ('here:1', now() + interval '1 h')"

Sql = Callable[[str], str]


class Order(msgspec.Struct):
    amount: int


Payment = StageDeclaration[Order, None]


@pytest.fixture
def payment(tmp_path: Path) -> Payment:
    folder = tmp_path / "sql"
    folder.mkdir()
    (folder / "0001_payment.sql").write_text("CREATE TABLE payment (id TEXT);\n")
    return Stage("payment", accepts=Order, migrations=folder)


def made(payment: Payment, database: str, order: str = AWAY) -> Config:
    """The settings of a stage whose database was made."""
    config = Config(auth="none", database=database, upstreams={"order": order})
    with open_database(payment, config, make=True):
        pass
    return config


def asked(payment: Payment, config: Config, *, dry_run: bool) -> Reconciliation:
    """As `stage reconcile --since`."""
    return asyncio.run(reconcile(payment, config, since=0.0, without={}, dry_run=dry_run))


def test_nothing_is_adopted_beside_a_replica(
    payment: Payment, postgres: Server, postgres_url: str
) -> None:
    """A saga that the database lacks may be on its way there: its adoption would refuse it."""
    config = made(payment, postgres_url)
    postgres.sql(SERVES, postgres_url.rpartition("/")[2])
    with pytest.raises(ConfigurationError, match=r"here:1 still serves .*POST /reconcile"):
        asked(payment, config, dry_run=False)
    assert ["order"] == list(asked(payment, config, dry_run=True).unanswered), "it only looks"


def test_nothing_is_adopted_beside_a_replica_that_was_started_meanwhile(
    payment: Payment, postgres: Server, postgres_url: str
) -> None:
    """To ask takes a while, in which a deployment may bring one back."""

    async def list_sagas(_: web.Request) -> web.Response:
        await asyncio.to_thread(postgres.sql, SERVES, postgres_url.rpartition("/")[2])
        raise web.HTTPNotFound

    async def beside_order() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", list_sagas)
        async with TestServer(app) as order:
            config = Config(
                auth="none", database=postgres_url, upstreams={"order": str(order.make_url(""))}
            )
            with pytest.raises(ConfigurationError, match="began to serve"):
                await reconcile(payment, config, since=0.0, without={}, dry_run=False)

    made(payment, postgres_url)
    asyncio.run(beside_order())


@contextmanager
def on_sqlite(path: Path) -> Iterator[Sql]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield lambda sql: "\n".join(str(value) for (value,) in connection.execute(sql))


def test_a_dry_run_changes_nothing_in_a_file(payment: Payment, tmp_path: Path) -> None:
    """Neither the release that has written it, nor its schema."""
    path = tmp_path / "p.db"
    config = made(payment, f"sqlite:///{path}")
    with on_sqlite(path) as sql:
        _unchanged(payment, config, sql, "stage_identity")


def test_a_dry_run_changes_nothing_on_a_server(
    payment: Payment, postgres: Server, postgres_url: str
) -> None:
    """Replicas of the release before may serve from it."""
    config = made(payment, postgres_url)
    name = postgres_url.rpartition("/")[2]
    _unchanged(payment, config, lambda sql: postgres.sql(sql, name), "stage.identity")


def _unchanged(payment: Payment, config: Config, sql: Sql, identity: str) -> None:
    sql(f"UPDATE {identity} SET release = 'another'")
    asked(payment, config, dry_run=True)
    assert "another" == sql(f"SELECT release FROM {identity}").strip()
    assert payment.migrations is not None
    more = payment.migrations / "0002_more.expand.sql"
    more.write_text("CREATE TABLE refund (id TEXT);\n")
    with pytest.raises(ConfigurationError, match=r"0002_more.expand. Run `stage db upgrade`"):
        asked(payment, config, dry_run=True)
    more.unlink()
    with open_database(payment, config) as database:
        assert ["0001_payment"] == [
            each.name for each in database.status() if each.owner != "stage"
        ]
