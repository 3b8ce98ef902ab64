"""The tables of a database that belong to the stage: an author's SQL may read them and no more."""

from __future__ import annotations

from typing import Final

STAGE_TABLES: Final = frozenset({"journal", "lost_saga", "saga", "saga_term", "writer_batch"})
"""The tables whose names do not begin with PREFIX."""
PREFIX: Final = "stage_"


def is_stage_table(name: str) -> bool:
    """Whether a table of that name belongs to the stage, in whatever case it is written."""
    lower = name.lower()
    return lower in STAGE_TABLES or lower.startswith(PREFIX)


def refusal(table: str) -> str:
    """Why an author's SQL may not write to a table, with the fix."""
    return (
        f"{table} is a table of the stage, and its journal is the one truth about a saga: write to"
        " a table of your own migrations, under another name"
    )
