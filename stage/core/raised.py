"""An exception as it may be shown: its type and its place, never its text (rule 38).

The text of foreign code may quote a payload, a credential or an address. The
text of our own errors is ours, and says the fix.
"""

from __future__ import annotations

from stage.core.errors import StageError


class Note(str):
    """A note of ours on a foreign exception (PEP 678), which may be shown as it is."""

    __slots__ = ()


_ROOMS = ("/stage/authoring/", "/stage/engine/", "/stage/store/", "/stage/core/")
"""Parts of the paths of frames that are ours: behind them stands the author's function."""


def raised(error: BaseException) -> str:
    """`ValueError in charge (payment.py:42)`: the outermost frame that is not ours; our notes."""
    if isinstance(error, StageError):
        return f"{type(error).__name__}: {error}"
    notes = (each for each in getattr(error, "__notes__", ()) if isinstance(each, Note))
    return ": ".join((_where(error), *notes))


def exit_raised(what: str, error: BaseException) -> StageError:
    """The error that an exit, a panic or a cancellation out of a plain function is (rule 35).

    It must not end more than that function.
    """
    return StageError(f"{what} raised {raised(error)}")


def _where(error: BaseException) -> str:
    name = type(error).__name__
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not any(room in code.co_filename for room in _ROOMS):
            file = code.co_filename.rpartition("/")[2]
            return f"{name} in {code.co_name} ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return name
