"""The errors that an author's SQL may meet, on every database.

StageError
├── StatementRefused       the author's move: SQL that would end the transaction it runs in
├── TooManyRows            the author's move: a query without a limit
└── StoreUnavailable       the database is away
    └── Contended          it is there; others hold the rows. Run the unit again
"""

from __future__ import annotations

from stage.core.errors import StageError, StoreUnavailable


class StatementRefused(StageError):
    """A transaction function may not begin, end or leave the transaction that it runs in."""


class TooManyRows(StageError):
    """A query of a transaction function found more rows than the store returns."""


class Contended(StoreUnavailable):
    """Other transactions hold the rows that a unit needs; nothing was written."""
