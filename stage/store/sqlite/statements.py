"""Our SQL by name, read once from the files in `sql/`.

A statement begins with a line `-- name: insert_saga`; the comment lines below describe it. Names
are unique over all files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def parse(text: str) -> dict[str, str]:
    """The statements of one file by name, without comments and the final semicolon."""
    pieces = _NAME.split(text)[1:]
    names, bodies = pieces[::2], pieces[1::2]
    statements: dict[str, str] = {}
    for name, body in zip(names, bodies, strict=True):
        if name in statements:
            raise ValueError(f"the statement {name} stands twice in one file")
        lines = (line for line in body.splitlines() if line and not line.startswith("--"))
        statements[name] = "\n".join(lines).rstrip(";")
    return statements


@cache
def load() -> Mapping[str, str]:
    """All statements of the package by name."""
    statements: dict[str, str] = {}
    for file in resources.files("stage.store.sqlite").joinpath("sql").iterdir():
        if file.name.endswith(".sql"):
            found = parse(file.read_text(encoding="utf-8"))
            if twice := statements.keys() & found.keys():
                raise ValueError(f"{file.name} repeats statements: {', '.join(sorted(twice))}")
            statements |= found
    return MappingProxyType(statements)


def statement(name: str) -> str:
    """One statement. Raises KeyError for a name that is in no file."""
    return load()[name]
