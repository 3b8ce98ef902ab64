"""Writes a new project: a stage with its model, migrations, tests, settings and image.

The files lie in `files`, named as in the project, with `.txt` behind: so no tool takes them for
code of ours. Three words in them are replaced.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from stage.core.version import __version__

SUFFIX: Final = ".txt"
PACKAGE: Final = "package"
"""The folder that is named as the package of the project."""
_PACKAGE_WORD: Final = "{{package}}"
_ANY_NAME: Final = "any_name_of_a_package"


def write_project(folder: Path, stage: str) -> list[Path]:
    """Write the project of a stage of that name; the files. Raises FileExistsError, writing none.

    Nothing is overwritten: not even a file of another project in the same folder.
    """
    package = stage.replace("-", "_")
    words = {"{{stage}}": stage, _PACKAGE_WORD: package, "{{version}}": __version__}
    files = {
        folder / place.replace(PACKAGE, package, 1): _filled(file, words)
        for place, file in _templates(resources.files(__name__).joinpath("files"), "")
    }
    if there := [path for path in files if path.exists()]:
        raise FileExistsError(str(there[0]))
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    return sorted(files)


def taken_names() -> frozenset[str]:
    """The names that the files of a project use beside that of its package.

    A package of such a name would hide it, or be hidden, where both stand in one file.
    """
    files = _templates(resources.files(__name__).joinpath("files"), "")
    texts = [file.read_text(encoding="utf-8") for place, file in files if place.endswith(".py")]
    return frozenset(
        name
        for text in texts
        if _PACKAGE_WORD in text
        for node in ast.walk(ast.parse(text.replace(_PACKAGE_WORD, _ANY_NAME)))
        for name in _names_in(node)
    ) - {_ANY_NAME}


def _names_in(node: ast.AST) -> list[str]:
    match node:
        case ast.Name(id=name) | ast.arg(arg=name):
            return [name]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Import() | ast.ImportFrom():
            return [each.asname or each.name for each in node.names]
        case _:
            return []


def _templates(folder: Traversable, below: str) -> Iterator[tuple[str, Traversable]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _templates(each, f"{below}{each.name}/")
        elif each.name.endswith(SUFFIX):
            yield f"{below}{each.name.removesuffix(SUFFIX)}", each


def _filled(file: Traversable, words: dict[str, str]) -> str:
    text = file.read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(word, value)
    return text
