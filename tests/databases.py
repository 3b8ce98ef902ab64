"""Databases of one PostgreSQL server: each is used again as soon as its test has ended.

A database of its own for each test makes a server slow: each is copied file by file, the server
looks after all of them to its end, and some 300 files each are removed then.

The migrations of a stage take longer than most of the tests. A test that is not about the first
opening takes a `migrated` database, from which only rows are removed. It is given to another
test only if its schema is still that of the template, row by row of the catalogs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from stage.demo.chain import ChainError
from stage.demo.postgres_server import Server

TEMPLATE = "migrated"
"""The database that those of a stage are copies of. No store was ever opened on it."""

ALONE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
"""
"""Ends the sessions that a test left."""

EMPTY = f"""
{ALONE}
DROP SCHEMA IF EXISTS stage CASCADE;
DROP SCHEMA public CASCADE;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
"""
"""Leaves what `CREATE DATABASE` makes. A connection that a test left holds no lock any more."""

RELATIONS = """
SELECT string_agg('stage.' || relname, ' ' ORDER BY oid) FROM pg_class
    WHERE relnamespace = 'stage'::regnamespace AND relkind = '{kind}' AND relname <> 'migration';
"""
"""The tables of a stage but that of its migrations, or its sequences."""

PUT_BACK = """
SELECT format('INSERT INTO {name} OVERRIDING SYSTEM VALUE'
    ' SELECT * FROM json_populate_recordset(NULL::{name}, %L);', json_agg(each))
    FROM {name} AS each HAVING count(*) > 0
"""
"""The statement that writes the rows of a table which a migration wrote."""
SET_BACK = """
SELECT format('SELECT setval(%L, %s, %L);', '{name}', last_value, is_called) FROM {name}
"""
"""The statement that sets a sequence to where it is."""

AUTHORED = """
DO $$ DECLARE made text; BEGIN
    FOR made IN SELECT oid::regclass::text FROM pg_class
        WHERE oid > {newest} AND relkind = 'r' AND relpersistence = 'p' ORDER BY oid
    LOOP EXECUTE 'DROP TABLE ' || made || ' CASCADE'; END LOOP;
END $$;
"""
"""Drops the tables that were made since: the author's. The role of the tests is named as the schema
of the stage, so that they stand among ours."""

CATALOGS = {
    "pg_attrdef": "oid",
    "pg_attribute": "attrelid",
    "pg_class": "oid",
    "pg_constraint": "oid",
    "pg_depend": "objid",
    "pg_index": "indexrelid",
    "pg_inherits": "inhrelid",
    "pg_policy": "oid",
    "pg_proc": "oid",
    "pg_rewrite": "oid",
    "pg_sequence": "seqrelid",
    "pg_statistic": "starelid",
    "pg_statistic_ext": "oid",
    "pg_trigger": "oid",
    "pg_type": "oid",
}
"""The catalogs of all that the tests make, each with the column that has an oid of it."""
MADE_FROM = 16_384
"""The first oid that a server gives to something that is not its own."""
ROWS = (
    "(SELECT count(*) || '/' || coalesce(sum(hashtext(xmin::text)), 0) FROM {catalog} WHERE {of})"
)

MADE = ", ".join(
    ROWS.format(catalog=name, of=f"{column} >= {MADE_FROM}") for name, column in CATALOGS.items()
)

SCHEMA = f"""
SELECT concat_ws(' ',
    {MADE},
    {ROWS.format(catalog="pg_namespace", of="nspname !~ '^pg_(toast_)?temp_'")},
    {ROWS.format(catalog="pg_default_acl", of="true")},
    (SELECT sum(relpages) || '/' || sum(reltuples) FROM pg_class WHERE oid >= {MADE_FROM}),
    (SELECT string_agg(owner || name || sha256, ' ' ORDER BY owner, name) FROM stage.migration),
    (SELECT concat_ws('/', datdba, datallowconn, datconnlimit, datacl,
        (SELECT count(*) FROM pg_db_role_setting WHERE setdatabase IN (0, pg_database.oid)))
        FROM pg_database WHERE datname = current_database())
);
"""
"""All that a test may change besides rows, in one line. A row of a catalog that is written anew has
another xmin; a copy of a database has those of its template."""


@dataclass(frozen=True)
class Template:
    """The migrated database that others are copies of."""

    clean: str
    """Leaves its rows in a copy: our migrations, applied just now. The last line is the schema."""
    schema: str
    """Its own last line."""


class Databases:
    """The databases of one server. Those of tests that have ended are free."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._empty: list[str] = []
        self._migrated: list[str] = []
        self._numbers = count(1)
        self._template: Template | None = None

    @contextmanager
    def empty(self) -> Iterator[str]:
        """The URL of an empty database that nobody else has until the end of the block."""
        name = self._emptied() or self._made()
        try:
            yield self._server.url(name)
        finally:
            self._empty.append(name)

    @contextmanager
    def migrated(self) -> Iterator[str]:
        """As `empty`, with the tables of a stage that was never opened: it has no identity yet.

        The counters of the server, such as those of `pg_stat_user_tables`, have counted for
        other tests too.
        """
        name = self._cleaned() or self._copied()
        try:
            yield self._server.url(name)
        finally:
            self._migrated.append(name)

    def _emptied(self) -> str | None:
        if not self._empty:
            return None
        name = self._empty.pop()
        self._server.sql(EMPTY, name)
        return name

    def _made(self, *words: str) -> str:
        name = f"test_{next(self._numbers)}"
        self._server.sql(" ".join((f"CREATE DATABASE {name}", *words)))
        return name

    def _cleaned(self) -> str | None:
        """One whose schema is as it was; one whose schema a test has changed is dropped."""
        while self._migrated:
            name = self._migrated.pop()
            if self._clean(name):
                return name
            self._server.sql(f"DROP DATABASE {name} WITH (FORCE)")
        return None

    def _clean(self, name: str) -> bool:
        """Remove the rows of a test. False: its schema is another one, or forbids it."""
        assert self._template is not None
        try:
            found = self._server.sql(self._template.clean, name)
        except ChainError:  # a table that is gone, say; all statements are one transaction
            return False
        return found.rpartition("\n")[2] == self._template.schema

    def _copied(self) -> str:
        """A new one. To copy files takes a third of what it takes to log what they hold."""
        if self._template is None:
            self._template = self._make_template()
        name = self._made(f"TEMPLATE {TEMPLATE} STRATEGY file_copy")
        assert self._clean(name), "a copy of the template has another schema than the template"
        return name

    def _make_template(self) -> Template:
        self._server.sql(f"CREATE DATABASE {TEMPLATE}")
        with ThreadPoolExecutor(1) as thread:  # a loop of its own: the caller may be in one
            thread.submit(asyncio.run, upgrade(self._server.url(TEMPLATE))).result()
        newest = self._server.sql("SELECT max(oid) FROM pg_class", TEMPLATE)
        tables, sequences = (
            self._server.sql(RELATIONS.format(kind=kind), TEMPLATE).split() for kind in "rS"
        )
        clean = "\n".join(
            [
                ALONE,
                # Wait for the COMMIT of a session that is being ended.
                f"LOCK TABLE {', '.join(tables)};",
                *(f"DELETE FROM {table};" for table in tables),
                *self._statements(PUT_BACK, tables),
                *self._statements(SET_BACK, sequences),
                "DELETE FROM stage.migration WHERE owner <> 'stage';",
                "UPDATE stage.migration SET applied_at = extract(epoch FROM clock_timestamp());",
                AUTHORED.format(newest=newest),
                SCHEMA,
            ]
        )
        return Template(clean, self._server.sql(clean, TEMPLATE).rpartition("\n")[2])

    def _statements(self, made_by: str, relations: list[str]) -> list[str]:
        """The statement that the template has for each of them; none for a table without rows."""
        asked = " UNION ALL ".join(made_by.format(name=name) for name in relations)
        return self._server.sql(asked, TEMPLATE).splitlines()


async def upgrade(url: str) -> None:
    """Make the tables as a stage makes them, which nobody opens then."""
    # Only tests on a server need the driver.
    from stage.store import migrate
    from stage.store.postgres.address import DatabaseServer
    from stage.store.postgres.dialect import PostgresDialect
    from stage.store.postgres.link import connect

    link = await connect(DatabaseServer(url=url))
    try:
        dialect = PostgresDialect(link)
        known = await asyncio.to_thread(migrate.collected, dialect, ())
        await migrate.upgrade_known(dialect, known, now=time.time())
    finally:
        await link.close()
