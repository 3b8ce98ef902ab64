"""Names that texts use: read from the code what there is, and from a text what it names.

Nothing here is a list of names: modules, members, endpoints, commands, settings and words of the
Makefile are read from the files that define them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePosixPath

from tests.house.syntax import METHODS, SETTING, Module, syntax_of

_QUOTED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_DOTTED = re.compile(r"([A-Za-z_]\w*(?:\.\w+)+)(?:\(.*\))?")
_ENDPOINT = re.compile(rf"({'|'.join(METHODS)}) (/[^\s?]*)\S*")
_PATH = re.compile(r"([\w.-]+(?:/[\w.*-]+)*/?)(?:::test_\w+)?")


@dataclass
class Names:
    """Every name that the project defines."""

    modules: dict[str, Module] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    strings: set[str] = field(default_factory=set)
    routes: set[tuple[str, str]] = field(default_factory=set)
    """Method and path as they are registered."""
    commands: set[str] = field(default_factory=set)
    make_words: set[str] = field(default_factory=set)
    settings: set[str] = field(default_factory=set)

    @property
    def rooms(self) -> set[str]:
        """The rooms directly in `stage`: folders and modules."""
        return {name.split(".")[1] for name in self.modules if name.startswith("stage.")}

    def members(self, name: str) -> set[str] | None:
        """Members of every class of that name, inherited ones too; None where there is none."""
        found: set[str] = set()
        known = False
        for module in self.modules.values():
            if name in module.classes:
                known = True
                found |= module.classes[name]
                for base in module.bases[name]:
                    found |= self.members(base) or set()
        return found if known else None


def names_of(root: Path, files: Iterable[Path]) -> Names:
    """Read every name of the project from its files."""
    found = Names(files=frozenset(str(file.relative_to(root)) for file in files))
    for name in sorted(found.files):
        if not name.endswith(".py") or name.startswith("tests/house/"):
            continue
        syntax = syntax_of((root / name).read_text(encoding="utf-8"))
        dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        found.modules[dotted] = syntax.names
        found.strings |= syntax.strings
        found.routes |= syntax.routes
        if name.startswith("stage/cli/"):
            found.commands |= syntax.commands
        if name.startswith("stage/"):
            found.settings |= syntax.settings
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    found.make_words = set(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, flags=re.MULTILINE))
    return found


def quoted(text: str) -> Iterator[tuple[int, str]]:
    """Text in backticks, with the line; fenced blocks are left out."""
    bare = _FENCED.sub(lambda match: "\n" * match[0].count("\n"), text)
    for match in _QUOTED.finditer(bare):
        yield bare.count("\n", 0, match.start()) + 1, match[1].strip()


def typed(text: str) -> Iterator[tuple[int, str]]:
    """Lines to be typed: in backticks, or lines of fenced blocks, without a prompt or a path."""
    yield from quoted(text)
    for match in _FENCED.finditer(text):
        first = text.count("\n", 0, match.start(1)) + 1
        for number, line in enumerate(match[1].splitlines(), start=first):
            yield number, re.sub(r"^(?:\$ )?(?:\.venv/bin/)?", "", line)


def docstrings(source: str) -> Sequence[tuple[int, str]]:
    """Every docstring of a module, those below attributes too: its first line, its text unindented.

    An indented line is no beginning of a sentence to the checks of the language.
    """
    return syntax_of(source).docstrings


def unknown(text: str, names: Names, *, module: str = "") -> list[str]:
    """Names in a text that do not exist, each as `line: name`; `module` is where it stands."""
    wrong = []
    for line, token in quoted(text):
        if not (
            _dotted_is_known(token, names, module)
            and _path_is_known(token, names)
            and _endpoint_is_known(token, names)
        ):
            wrong.append(f"{line}: {token}")
    for line, words in typed(text):
        if not (_command_is_known(words, names) and _make_word_is_known(words, names)):
            wrong.append(f"{line}: {words}")
    settings = (match for match in SETTING.finditer(text) if match[0] not in names.settings)
    lines = ((text.count("\n", 0, match.start()) + 1, match[0]) for match in settings)
    return wrong + [f"{line}: {setting}" for line, setting in lines]


def _dotted_is_known(token: str, names: Names, module: str) -> bool:
    match = _DOTTED.fullmatch(token)
    if match is None or match[1] in names.strings:
        return True
    parts = match[1].split(".")
    if parts[0][0].isupper():
        members = names.members(parts[0])
        return members is None or parts[1] in members or parts[1].startswith("__")
    sibling = f"{module.rpartition('.')[0]}.{parts[0]}"
    for start in ("", "stage.", "" if module == "" else f"{module.rpartition('.')[0]}."):
        whole = start + match[1]
        first = (start + parts[0]) if start else parts[0]
        known_first = first in names.modules or (start == "stage." and parts[0] in names.rooms)
        if known_first and _resolves(whole, names):
            return True
    # A word that is no module of ours, such as `saga.key`, is some value's name.
    if parts[0] == "stage" or f"stage.{parts[0]}" in names.modules:
        return False
    return not (sibling in names.modules and parts[1][0].isupper())


def _resolves(dotted: str, names: Names) -> bool:
    if dotted in names.modules:
        return True
    owner, _, last = dotted.rpartition(".")
    if owner in names.modules and last in names.modules[owner].names:
        return True
    below = (module for name, module in names.modules.items() if name.startswith(f"{owner}."))
    if owner in names.modules and any(last in module.classes for module in below):
        return True
    module, _, cls = owner.rpartition(".")
    if module in names.modules and cls in names.modules[module].names:
        members = names.members(cls)
        return members is None or last in members
    return False


def _path_is_known(token: str, names: Names) -> bool:
    match = _PATH.fullmatch(token)
    if match is None or "/" not in token:
        return True
    path = match[1].rstrip("/")
    first = path.split("/")[0]
    folders = _folders(names.files)
    below = [top for top in ("stage", "tests") if f"{top}/{first}" in folders]
    if not below and first not in folders and first not in names.files:
        return True
    wanted = [start + path for start in ("", *(f"{top}/" for top in below))]
    return any(
        each in names.files
        or each in folders
        or ("*" in each and any(fnmatch(name, each) for name in names.files))
        for each in wanted
    )


@cache
def _folders(files: frozenset[str]) -> frozenset[str]:
    """Every folder that holds a file, at any depth; the root has no name."""
    parents = (folder for file in files for folder in PurePosixPath(file).parents)
    return frozenset(str(folder) for folder in parents) - {"."}


def _endpoint_is_known(token: str, names: Names) -> bool:
    match = _ENDPOINT.fullmatch(token)
    if match is None:
        return True
    method, path = match.groups()
    registered = {had for had, route in names.routes if _same_route(route, path)}
    if registered:
        return method in registered
    paths = (string for string in names.strings if string[:1] == "/" and ".*" not in string)
    return any(_same_route(string, path) for string in paths)


def _same_route(route: str, path: str) -> bool:
    theirs = re.sub(r"\{\w+:([^}]+)\}", r"(?:\1)", route)
    theirs = re.sub(r"\{\w+\}", r"[^/]+", theirs)
    try:
        return re.fullmatch(theirs, path) is not None
    except re.error:
        return route == path


def _command_is_known(words: str, names: Names) -> bool:
    match = re.match(r"stage ([a-z|]+)(?=\s|$)", words)
    return match is None or set(match[1].split("|")) <= names.commands


def _make_word_is_known(words: str, names: Names) -> bool:
    match = re.match(r"make((?: [A-Z_]+=\S+)*) ([a-z]+)(?=\s|$)", words)
    return match is None or match[2] in names.make_words
