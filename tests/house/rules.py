"""The rules of the house as functions: each takes what it judges and returns what is wrong."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from tests.house.syntax import syntax_of

ROOT = Path(__file__).resolve().parents[2]

# Words that say nothing about what lives in a file (DESIGN: one word, one thing).
EMPTY_WORDS = frozenset(
    {"base", "common", "helper", "helpers", "impl", "manager", "managers", "misc", "util", "utils"}
)

# Built from parts, so that the rule does not break itself.
_HOSTS = ("pypi" + ".org", "python" + "hosted.org", "npmjs" + ".com", "registry" + ".npmjs")
# Told apart from the option that leaves index lines out.
_INDEX_OPTION = re.compile(r"(?<!emit)-index[-]url\b|--find[-]links|--trusted[-]host")
# A root or a home directory, written absolutely. A URL or a relative path does not count.
_MACHINE_PATH = re.compile(r"(?<![\w.~:/}-])/(?:home|root|Users|work|workspace)/[\w.]")

DECISION_NAME = re.compile(r"\d{4}-[a-z0-9]+(?:-[a-z0-9]+)*\.md")
DECISION_SECTIONS = ("Context", "Decision", "Evidence", "What was given up")

_PINNED = re.compile(r"[a-z0-9][a-z0-9._-]*(?:\[[a-z0-9,._-]+\])?==[^\s;]+(?: ; [^\\]+)?")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

# Standard modules that would give the core a clock, dice, I/O, a log or a thread.
IMPURE = frozenset(
    {
        "asyncio",
        "concurrent",
        "contextvars",
        "http",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
        "secrets",
        "select",
        "shutil",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib",
        "warnings",
    }
)


def places_named(text: str, own_places: Sequence[str] = ()) -> list[str]:
    """Lines that name a package host, an index option or a path of one machine.

    `own_places` are paths of the machine that runs the check: where the clone stands, the home.
    """
    words = (*_HOSTS, *own_places)
    named = any(word in text for word in words)
    if not named and not _INDEX_OPTION.search(text) and not _MACHINE_PATH.search(text):
        return []  # nearly every file: it need not be read line by line
    wrong = []
    for number, line in enumerate(text.splitlines(), start=1):
        named = any(word in line for word in words)
        if named or _INDEX_OPTION.search(line) or _MACHINE_PATH.search(line):
            wrong.append(f"{number}: {line.strip()}")
    return wrong


def says_its_purpose(source: str) -> bool:
    """Whether a module says in a docstring what lives there."""
    return bool(syntax_of(source).purpose)


def empty_words(path: PurePath) -> list[str]:
    """Parts of a path (without the ending) that are, or end in, a word that says nothing."""
    parts = [*path.parts[:-1], path.name.split(".")[0]]
    return [part for part in parts if EMPTY_WORDS & set(re.split(r"[_-]", part.lower()))]


def unhashed(requirements: str) -> list[str]:
    """Entries of a pinned file that are not `name==version` with at least one sha256."""
    wrong = []
    for entry in requirements.replace("\\\n", " ").splitlines():
        if not entry.strip() or entry.startswith("#"):
            continue
        pin, _, hashes = entry.partition("--hash")
        found = f"--hash{hashes}".split()
        if (
            not hashes
            or not _PINNED.fullmatch(pin.strip())
            or not all(_HASH.fullmatch(word) for word in found)
        ):
            wrong.append(entry.strip()[:100])
    return wrong


def names_required(lines: Iterable[str]) -> set[str]:
    """The names of the distributions in lines such as `aiohttp>=3.12`."""
    found = (re.match(r"[A-Za-z0-9._-]+", line.strip()) for line in lines)
    return {re.sub(r"[._-]+", "-", name[0]).lower() for name in found if name}


def missing_sections(record: str) -> list[str]:
    """Sections that a decision record lacks, or leaves empty."""
    bodies = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", record, flags=re.M | re.S))
    return [name for name in DECISION_SECTIONS if not bodies.get(name, "").strip()]


def impure_imports(source: str) -> list[str]:
    """Imports of a module of the core besides the core, msgspec and pure standard modules."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("." * node.level + (node.module or ""))
    return [name for name in names if not _is_pure(name)]


def _is_pure(name: str) -> bool:
    first = name.split(".")[0]
    if name == "stage.core" or name.startswith("stage.core."):
        return True
    return first == "msgspec" or (first in sys.stdlib_module_names and first not in IMPURE)


def own_places(root: Path) -> list[str]:
    """Where this clone and this user live, when the path is long enough to be no plain word."""
    places = (root, Path.home(), Path(sys.prefix))
    return sorted({str(place) for place in places if len(place.parts) > 2})


def project_names(root: Path) -> list[str]:
    """Every file of the project: what git tracks, or what lies there when git tracks nothing."""
    names = tracked(root) or lying_there(root)
    assert "pyproject.toml" in names
    return [name for name in names if (root / name).is_file()]


def tracked(root: Path) -> list[str]:
    """Files that git tracks below a directory: none without git, or before the first commit."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"],
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return sorted(name for name in listed.stdout.split("\0") if name)


def lying_there(root: Path) -> list[str]:
    """Files below a directory, without those that tools make (their names begin with a dot)."""
    found = []
    for file in root.rglob("*"):
        path = file.relative_to(root)
        made = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
        if file.is_file() and (not made or path.parts[0] == ".ci"):
            found.append(str(path))
    return sorted(found)
