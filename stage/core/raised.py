"""An exception as it may be shown: its type and its place, never its text (rule 38).

The text of foreign code may quote a payload, a credential or an address. That of our own errors is
ours, and says the fix.
"""

from __future__ import annotations

from stage.core.errors import StageError

_ROOMS = ("/stage/authoring/", "/stage/engine/", "/stage/store/", "/stage/core/")
"""Parts of the paths of frames that are ours: behind them stands the author's function."""


def raised(error: BaseException) -> str:
    """`ValueError in charge (payment.py:42)`: the outermost frame that is not ours."""
    name = type(error).__name__
    if isinstance(error, StageError):
        return f"{name}: {error}"
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not any(room in code.co_filename for room in _ROOMS):
            file = code.co_filename.rpartition("/")[2]
            return f"{name} in {code.co_name} ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return name
