"""The kit that judges tests: the changes that it makes, the tests that it chooses, its verdicts."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.mutation.__main__ import Judged, covering_tests, offered, report
from tests.mutation.judge import Verdict, name_of
from tests.mutation.lines import ROOT, TestLines
from tests.mutation.operators import changed, changes_of

MODULE = '''
"""A module."""

LIMIT: int = 10


def room(taken: int, more: bool = False) -> str | None:
    """What to say."""
    if taken < LIMIT and not more:
        return "come in"
    return None
'''
TEST = """
from room import room


def test_it_lets_people_in():
    assert room(3) == "come in"


def test_it_is_full():
    assert room(11) is None
"""
JUDGE = """
import sys
from pathlib import Path
from tests.mutation.judge import judge
print(judge(Path(sys.argv[1]), "room.py", int(sys.argv[2]), ["test_room.py"]).name)
"""


def _all(source: str) -> dict[str, str]:
    """The changed source of each change, by operator and what was there."""
    return {
        f"{each.operator} | {each.before}": ast.unparse(changed(source, each.number))
        for each in changes_of(source)
    }


@pytest.mark.parametrize(
    "source, operator, after",
    [
        ("x = a < b", "comparison: LtE", "x = a <= b"),
        ("x = a in b", "comparison: NotIn", "x = a not in b"),
        ("if a:\n    f()", "condition negated", "if not a:\n    f()"),
        ("x = a and b", "and, or", "x = a or b"),
        ("x = not a", "sign removed", "x = a"),
        ("x = True", "other boolean", "x = False"),
        ("def f():\n    return g(1)", "next number", "def f():\n    return g(2)"),
        ("def f():\n    return a + b", "operation: Sub", "def f():\n    return a - b"),
        ("x = f(a, b=c)", "keyword removed: b", "x = f(a)"),
        ("f()\ng", "call removed", "pass\ng"),
        ("raise A", "raise removed", "pass"),
        ("a += b", "assignment removed", "pass"),
        ("a.b = c", "assignment removed", "pass"),
        ("def f():\n    return a", "None returned", "def f():\n    return None"),
        ("x = [a for a in b if c]", "condition negated", "x = [a for a in b if not c]"),
        (
            "match a:\n    case 1:\n        f\n    case _:\n        g",
            "case removed",
            "match a:\n    case _:\n        g",
        ),
        ("for a in b:\n    continue", "break for continue", "for a in b:\n    break"),
        ("for a in b:\n    break", "continue for break", "for a in b:\n    continue"),
    ],
)
def test_each_operator_makes_its_change(source: str, operator: str, after: str) -> None:
    made = [
        ast.unparse(changed(source, each.number))
        for each in changes_of(source)
        if each.operator == operator
    ]
    assert after in made


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        "LIMIT = 10",
        "def f(a: int | None) -> bool | None: ...",
        "if TYPE_CHECKING:\n    import a",
        "assert_never(a)",
        "while True:\n    a",
        "x = f'{a + 1}'",
        "class A(B, frozen=True):\n    a: int | str",
    ],
)
def test_a_text_without_a_bearing_on_behaviour_is_left_alone(source: str) -> None:
    assert not changes_of(source)


def test_every_change_of_the_rooms_can_be_made_and_changes_something() -> None:
    sources = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in offered(())}
    plain = {file: ast.unparse(ast.parse(source)) for file, source in sources.items()}
    offers = offered(())
    assert len(offers) > 4_000
    for file, change in offers[::97]:
        assert ast.unparse(changed(sources[file], change.number)) != plain[file], change


def test_a_change_that_is_not_there_is_refused() -> None:
    with pytest.raises(IndexError, match="offers 1 changes, there is no 7"):
        changed("x = a < b", 7)


def test_the_quickest_covering_tests_a_change_judge_it() -> None:
    """One that runs the file but not the line is none of them."""
    file = "stage/core/order.py"
    change = next(each for name, each in offered([file]) if each.operator.startswith("comparison"))
    known = [
        TestLines("slow", 2.0, {file: list(change.lines)}),
        TestLines("quick", 1.0, {file: [change.line, 1]}),
        TestLines("elsewhere", 0.1, {file: [1]}),
        TestLines("another file", 0.1, {"stage/core/machine.py": [change.line]}),
    ]
    assert covering_tests(known, file, change) == ["quick", "slow"]
    assert covering_tests(known[2:], file, change) == []


def test_a_change_is_noticed_or_survives(tmp_path: Path) -> None:
    """The limit itself is met by no test of this module, so `<=` survives."""
    (tmp_path / "room.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "test_room.py").write_text(TEST, encoding="utf-8")
    (tmp_path / "conftest.py").write_text("", encoding="utf-8")
    numbers = {each.operator: each.number for each in changes_of(MODULE)}
    verdicts = {
        operator: _judged(tmp_path, number)
        for operator, number in numbers.items()
        if operator in ("comparison: LtE", "condition negated", "sign removed", "other boolean")
    }
    assert verdicts == {
        "comparison: LtE": "SURVIVED",
        "condition negated": "FAILED",
        "sign removed": "FAILED",
        "other boolean": "FAILED",
    }


def _judged(root: Path, number: int) -> str:
    command = [sys.executable, "-c", JUDGE, str(root), str(number)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def test_the_report_names_each_change_that_was_not_noticed() -> None:
    (file, change), *_ = offered(["stage/core/order.py"])
    found = [
        Judged(file=file, change=change, verdict=verdict, tests=3)
        for verdict in (Verdict.SURVIVED, Verdict.FAILED, Verdict.HUNG, Verdict.BROKE)
    ]
    document = report(found, 100, 1)
    assert document["score"] == 0.75
    assert document["rooms"] == {"stage/core": 0.75}
    (survivor,) = document["survived"]
    assert survivor["at"] == f"{file}:{change.line}"
    assert msgspec.json.encode(document)


def test_a_module_is_named_by_its_file() -> None:
    assert name_of("stage/core/order.py") == "stage.core.order"
    assert name_of("stage/core/__init__.py") == "stage.core"
