"""What authors import: the stage, the saga, and the business no.

The names are looked up when first asked for, so that whoever needs one room alone (the neighbours
need `stage.wire`) does not load the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stage.core.version import __version__

if TYPE_CHECKING:
    from stage.authoring import Refused, Saga, Stage

__all__ = ["Refused", "Saga", "Stage", "__version__"]


def __getattr__(name: str) -> object:
    """Give a public name from the room of the authors, and keep it for the next time."""
    if name in __all__:
        from stage import authoring

        value: object = getattr(authoring, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
