"""The paths of the console, where people come with a browser."""

from __future__ import annotations

from typing import Final

CONSOLE: Final = "/console"


def is_console(path: str) -> bool:
    """Whether a path, without the one that the stage is mounted under, is a page of the console."""
    return path == CONSOLE or path.startswith(f"{CONSOLE}/")
