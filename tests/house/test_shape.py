"""The shape: functions are short and take few parameters, imports go in one direction only."""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp

from tests.house.judged import broken
from tests.house.shape import circles, too_long, too_many_parameters

# Contracts that still have exceptions.
NOT_YET: set[str] = set()


def function_of(lines: int, *, first: str = "", above: str = "") -> str:
    """The source of a function of that many lines."""
    body = [first] if first else []
    body += ["    x = 1"] * (lines - 1 - len(body))
    return "\n".join([*([above] if above else []), "def planted():", *body]) + "\n"


def test_no_function_is_too_long(root: Path, project_files: list[Path]) -> None:
    """The rule holds for the product, its tests and its neighbours."""
    names = [str(file.relative_to(root)) for file in project_files if file.suffix == ".py"]

    assert {} == broken(root, names, lambda _, source: too_long(source))


def test_a_long_function_is_seen() -> None:
    """Over 40 lines needs a reason, over 70 has none."""
    reason = "# Long because it is one table"

    assert [] == too_long(function_of(40))
    assert ["1: planted has 41 lines"] == too_long(function_of(41))
    assert [] == too_long(function_of(70, first=f"    {reason}"))
    assert [] == too_long(function_of(70, above=reason))
    assert 1 == len(too_long(function_of(71, first=f"    {reason}")))


def test_no_function_has_too_many_parameters(root: Path, project_files: list[Path]) -> None:
    """The product alone is judged: a test takes as many fixtures as it needs."""
    names = [str(file.relative_to(root)) for file in project_files if file.suffix == ".py"]
    product = [name for name in names if name.startswith(("stage/", "examples/"))]

    assert {} == broken(root, product, lambda _, source: too_many_parameters(source))


def test_many_parameters_are_seen() -> None:
    """Past six need a reason; neither `self` counts, nor do the options of a command."""
    planted = "def planted(self, a, b, c, d, e, f{}): ...\n"

    assert [] == too_many_parameters(planted.format(""))
    assert ["1: planted has 7 parameters"] == too_many_parameters(planted.format(", *, g"))
    assert 1 == len(too_many_parameters("# Many because\n" + planted.format(", g")))
    assert [] == too_many_parameters("# Many because it is one row\n" + planted.format(", g"))
    assert [] == too_many_parameters("@root.command()\n" + planted.format(", g"))


def test_no_modules_import_each_other_in_a_circle() -> None:
    """From the imports of every module of `stage`, those inside of functions too."""
    graph = grimp.build_graph("stage", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}

    assert [] == circles(imports)


def test_a_circle_is_seen() -> None:
    """Of two modules and of three, and not where there is none."""
    assert [] == circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert [["a", "b"]] == circles({"a": {"b"}, "b": {"a"}, "c": {"a"}})
    assert [["a", "b", "c"]] == circles({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_no_contract_looks_away(root: Path) -> None:
    """A contract of import-linter with an exception would be a rule with a hole."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]

    looking_away = {contract["id"] for contract in contracts if "ignore_imports" in contract}
    assert looking_away <= NOT_YET
