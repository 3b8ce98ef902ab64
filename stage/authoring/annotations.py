"""The promises of an author's annotations, read once, where a function is declared.

A result is stored as JSON and read back for the compensation, after the effect. So a type that
cannot be read, or that the compensation does not take, is refused before anything runs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import FrameType, NoneType, SimpleNamespace, UnionType
from typing import (
    Any,
    Final,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from stage.core.errors import DeclarationError

MISSING: Final = object()
"""The annotation of what has none."""

_ROOM: Final = str(Path(__file__).parent)


class _File(NamedTuple):
    """A file with code: its name, and whether it is of this room."""

    name: str
    own: bool


def place_of(function: Callable[..., Any]) -> str:
    """`payment.py:42`: where a function is declared; empty where that cannot be known."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "" if code is None else f"{Path(code.co_filename).name}:{code.co_firstlineno}"


def declaring_frame() -> FrameType | None:
    """The innermost frame that is not of this room: the author's line."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _file_of(frame.f_code.co_filename).own:
        frame = frame.f_back
    return frame


def declaring_place() -> str:
    """`payment.py:42`: the line of the author's that is being run."""
    frame = declaring_frame()
    return "" if frame is None else f"{_file_of(frame.f_code.co_filename).name}:{frame.f_lineno}"


@lru_cache(maxsize=256)
def _file_of(path: str) -> _File:
    """The file of some code. Remembered: every request of an author asks for the same few."""
    file = Path(path)
    return _File(file.name, str(file.parent) == _ROOM)


def declared(stage: str, function: Callable[..., Any], name: str) -> Any:
    """The annotation of a parameter, or of `return`; MISSING where there is none.

    Each is read by itself, so that a type which is imported for the type checker alone harms only
    where it is needed. Raises DeclarationError for one that is needed and not there.
    """
    plain = inspect.unwrap(function)
    given = getattr(plain, "__annotations__", {}).get(name, MISSING)
    if given is MISSING:
        return MISSING
    alone = SimpleNamespace(__annotations__={name: given})
    caller = declaring_frame()
    nearby = {**({} if caller is None else caller.f_locals), **_enclosed(plain)}
    try:
        return get_type_hints(
            alone, globalns=getattr(plain, "__globals__", {}), localns=nearby, include_extras=True
        )[name]
    except Exception as error:
        what = "returns" if name == "return" else f"takes {name} as"
        raise DeclarationError(
            f"{place_of(function)}: {plain.__name__} of stage {stage!r} {what} {given!r}, which is"
            f" not there when it runs ({error}): import it outside of `if TYPE_CHECKING:`, for its"
            " result is read back as that type"
        ) from error


def takes(hint: Any, result: Any) -> str:
    """Which part of `result` a parameter annotated `hint` does not take; empty when it takes all.

    Only what is certain: a type that cannot be compared is taken.
    """
    if _is_open(hint) or _is_open(result):
        return ""
    taken = _members(hint)
    for member in _members(result):
        if not any(_fits(member, each) for each in taken):
            return name_of(member)
    return ""


def not_added(kind: Any, function: Callable[..., Any]) -> str:
    """Which part of the annotation of an output is no `kind`; empty where all of it may be one."""
    try:
        returned = declared("", function, "return")
    except DeclarationError:
        return ""  # it is there for the type checker alone; each value is judged as it comes
    return takes(kind, returned)


def name_of(hint: Any) -> str:
    """A type in the words of an annotation: `Charge | None`."""
    if hint is NoneType:
        return "None"
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)


def result_parameter(function: Callable[..., Any]) -> str:
    """The name of the last parameter of a compensation: the result that it undoes."""
    return list(inspect.signature(function).parameters)[-1]


def _enclosed(function: Any) -> dict[str, Any]:
    """The names that a function uses of the functions around it, with their values."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    found: dict[str, Any] = {}
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # it is assigned later
    return found


def _is_open(hint: Any) -> bool:
    return hint is MISSING or hint is Any or hint is object


def _members(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, UnionType):
        return get_args(hint)
    return (NoneType if hint is None else hint,)


def _fits(member: Any, taken: Any) -> bool:
    if _is_open(taken) or _is_open(member) or member == taken:
        return True
    of, into = get_origin(member) or member, get_origin(taken) or taken
    of, into = (dict if is_typeddict(each) else each for each in (of, into))
    if isinstance(of, type) and isinstance(into, type):
        return issubclass(of, into)
    return True
