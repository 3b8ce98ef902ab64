"""The errors of the core. An error says whose move it is and how to mend it.

StageError                 everything that this project raises on purpose
├── DeclarationError       the author's move: a stage that cannot be compensated as declared
├── ConfigurationError     the operator's move: an option that is missing or wrong
├── AuthorDefect           the author's move: a function asked for what it cannot have
├── TransactionEscaped     the author's move: a transaction awaited more than its database
├── StoreUnavailable       the database is away; nothing was written
│   └── CommitInDoubt      it was closed during the commit; ask for the saga's state
├── StaleEpoch             another runner took this saga over; our write was refused (rule 17)
└── JournalMismatch        the journal holds what cannot follow, whatever the plan
    └── NewerJournal       a newer release wrote it, and has to go on with it
"""

from __future__ import annotations

from typing import ClassVar


class StageError(Exception):
    """Root of all errors that this project raises on purpose."""

    shown: ClassVar[bool] = True
    """Whether its text is all ours, so that a log may hold it: no payload, no foreign text."""


class DeclarationError(StageError):
    """The stage is declared so that it could not be compensated, or is incomplete."""


class ConfigurationError(StageError):
    """One or more options are missing or wrong; the message names each with its fix."""

    shown = False  # it may quote a file or a driver


class AuthorDefect(StageError):
    """A function of the author's is wrong, and is so again at every attempt: a defect (rule 4)."""


class TransactionEscaped(StageError):
    """A transaction function awaited something other than its own database."""


class StoreUnavailable(StageError):
    """The database cannot be written to right now; nothing of this unit was stored."""

    shown = False  # it may quote the driver, which may quote a row


class CommitInDoubt(StoreUnavailable):
    """The store was closed before a commit was known to have happened; ask for the saga's state."""


class StaleEpoch(StageError):
    """Another runner has taken the saga over; what this one wanted to write is refused."""


class JournalMismatch(StageError):
    """The journal holds an event that cannot follow, under its own plan too."""

    shown = False  # it may quote the decoder of an entry


class NewerJournal(JournalMismatch):
    """The journal or the row holds what only a newer release knows: the saga is left to it.

    Or what only a process with a newer key can read.
    """
