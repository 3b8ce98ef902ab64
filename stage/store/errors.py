"""The errors that an author's SQL may meet, on every database.

StageError
├── StatementRefused       the author's move: SQL that would end the transaction it runs in, or
│                          write to a table of the stage
├── StatementNotAwaited    the author's move: a statement that was described and did not run
├── TooManyRows            the author's move: a query without a limit
└── StoreUnavailable       the database is away
    └── Contended          it is there; others are in the way. Run the unit again
"""

from __future__ import annotations

from stage.core.errors import AuthorDefect, StageError, StoreUnavailable


class StatementRefused(StageError):
    """A transaction function may not end or leave its transaction, nor write to our tables."""


class StatementNotAwaited(AuthorDefect):
    """A transaction function described a statement and did not await it: a defect (rule 4)."""


class TooManyRows(StageError):
    """A query of a transaction function found more rows than the store returns."""


class Contended(StoreUnavailable):
    """Other transactions hold the rows that a unit needs, or have just changed a table of it.

    Or a statement of ours was cancelled. Nothing was written.
    """
