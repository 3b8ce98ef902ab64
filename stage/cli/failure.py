"""A failure that we know: one line for a person, that says how to mend it, and an exit status."""

from __future__ import annotations

NEGATIVE = 1
"""The answer is a no, or is not known."""
FAILED = 2
"""It could not be done at all."""
INTERRUPTED = 130


class Failure(Exception):
    """Ends the command with its message and `status`, without a traceback.

    `answered` is the code of the answer that said no; 0 where there was none.
    """

    def __init__(self, message: str, status: int = FAILED, answered: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.answered = answered


def one_line(text: str) -> str:
    """Foreign text as it may be printed: on one line, and driving no terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text).strip()
