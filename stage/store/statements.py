"""SQL by name, read once from the `.sql` files of a folder.

A statement begins with a line `-- name: insert_saga`; the comment lines below describe it. Names
are unique over all files of a folder.
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
def load(package: str) -> Mapping[str, str]:
    """All statements in the folder `sql` of a package, by name."""
    statements: dict[str, str] = {}
    for file in resources.files(package).joinpath("sql").iterdir():
        if file.name.endswith(".sql"):
            found = parse(file.read_text(encoding="utf-8"))
            if twice := statements.keys() & found.keys():
                raise ValueError(f"{file.name} repeats statements: {', '.join(sorted(twice))}")
            statements |= found
    return MappingProxyType(statements)
