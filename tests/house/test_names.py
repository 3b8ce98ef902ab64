"""A name that a page or a docstring uses is there: rooms, modules, members, endpoints, words."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.house.names import Names, docstrings, names_of, unknown

# Records of decisions tell what was true at their time, with the names of then.
NOT_READ = ("docs/decisions/", "tests/house/")
# Named as variables that are no settings of ours: a misspelling, and those of others.
NO_SETTINGS = {"STAGE_PROT", "STAGE_NAME", "STAGE_ENV"}

# Values that a docstring of a port quotes: how an attempt or a request ended, and JSON.
VALUES = {"step_in_doubt", "refused", "timeout", "broken", "null", "tell_upstream"}


@pytest.fixture(scope="module")
def names(root: Path, project_files: list[Path]) -> Names:
    """Every name of the project."""
    found = names_of(root, project_files)
    found.settings |= NO_SETTINGS
    return found


def test_every_name_in_a_page_is_there(root: Path, project_files: list[Path], names: Names) -> None:
    """Pages name only what exists."""
    wrong = []
    for file in project_files:
        name = str(file.relative_to(root))
        if file.suffix == ".md" and not name.startswith(NOT_READ):
            found = unknown(file.read_text(encoding="utf-8"), names)
            wrong += [f"{name}:{each}" for each in found]

    assert [] == wrong


def test_every_name_in_a_docstring_is_there(
    root: Path, project_files: list[Path], names: Names
) -> None:
    """Docstrings name only what exists."""
    wrong = []
    for file in project_files:
        name = str(file.relative_to(root))
        if file.suffix != ".py" or name.startswith(NOT_READ):
            continue
        module = name.removesuffix(".py").replace("/", ".")
        for first, text in docstrings(file.read_text(encoding="utf-8")):
            for each in unknown(text, names, module=module):
                line, _, what = each.partition(": ")
                wrong.append(f"{name}:{first + int(line) - 1}: {what}")

    assert [] == wrong


def test_the_law_of_a_port_names_what_it_has(root: Path) -> None:
    """A word in backticks in a docstring of stage/ports stands in the code of that module."""
    wrong = []
    for file in sorted((root / "stage" / "ports").rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        name = str(file.relative_to(root))
        wrong += [f"{name}:{each}" for each in words_not_in_code(source)]

    assert [] == [each for each in wrong if each.split(": ")[1] not in VALUES]


def test_a_method_that_a_port_does_not_have_is_seen() -> None:
    """A law that speaks of a method nobody has to write is no law."""
    law = '"""Law: `save` and `append` refuse."""\ndef save() -> None: ...\n'

    assert ["1: append"] == words_not_in_code(law)


def words_not_in_code(source: str) -> list[str]:
    """Words in backticks in docstrings that the code beside them does not hold."""
    texts = list(docstrings(source))
    code = source
    for _, text in texts:
        code = code.replace(text, "")
    return [
        f"{line}: {word}"
        for line, text in texts
        for word in re.findall(r"`([a-z_]+)`", text)
        if not re.search(rf"\b{word}\b", code)
    ]


def test_the_map_of_the_house_shows_rooms_that_are_there(root: Path, names: Names) -> None:
    """AGENTS.md and the layers of import-linter name every room, and no other."""
    guide = (root / "AGENTS.md").read_text(encoding="utf-8")
    table = re.search(r"## The import rule\n.*?```\n(.*?)```", guide, flags=re.DOTALL)
    assert table is not None
    shown = {
        room
        for line in table[1].splitlines()
        for room in re.split(r" {3,}", line)[0].split(" | ")
        if room.strip()
    }
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    linted = {room for layer in layers for room in re.findall(r"\w+", layer)}

    assert names.rooms - {"__main__"} == linted
    assert linted == {room.strip() for room in shown}


@pytest.mark.parametrize(
    "text",
    [
        "see `ports.store.Warehouse`",
        "see `stage.cellar`",
        "as `Unit.append_all` says",
        "in `stage/attic/`",
        "in `inbound/attic.py`",
        "`POST /sagas/{id}/annul`",
        "`PUT /sagas`",
        "`stage annul ID`",
        "```\n$ stage annul o-1\n```",
        "run `make coffee`",
        "```\nmake SEEDS=1 coffee\n```",
        "set `STAGE_COFFEE_SECONDS`",
    ],
)
def test_a_name_that_is_nowhere_is_seen(names: Names, text: str) -> None:
    """A room, module, member, path, endpoint, command, word or setting that nothing defines."""
    assert 1 == len(unknown(text, names))


@pytest.mark.parametrize(
    "text",
    [
        "`saga.key`",
        "`stage.saga_id`",
        "`wire.WireError`",
        "`stage/core/machine.py`",
        "`requirements/*.txt`",
        "`POST /sagas/{id}/retry`",
        "`GET /sagas/{id}?view=journal`",
        "`stage retry|settle ID`",
        "`make sim SEEDS=20000`",
        "`STAGE_DOWNSTREAM`",
        "`web.run_app`",
    ],
)
def test_a_name_that_is_there_is_let_through(names: Names, text: str) -> None:
    """Existing names and those of others pass."""
    assert [] == unknown(text, names)
