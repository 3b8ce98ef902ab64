"""The kit that judges tests: the changes that it makes, the tests that it chooses, its verdicts."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tests.mutation.__main__ import offered, report
from tests.mutation.choice import NEAR_MAX, SECONDS_MAX, batches
from tests.mutation.judge import Verdict, name_of
from tests.mutation.known import moved
from tests.mutation.lines import ROOT, TestLines
from tests.mutation.operators import Change, changed, changes_of
from tests.mutation.progress import Judged, Progress

MODULE = '''
"""A module."""

LIMIT: int = 10


def room(taken: int, more: bool = False) -> str | None:
    """What to say."""
    if taken < LIMIT and not more:
        return "come in"
    while taken > LIMIT:
        taken -= 1
    return None
'''
TEST = """
import sys
from room import room


def test_of_another_wind():
    assert len(sys.argv) == 77


def test_it_lets_people_in():
    assert room(3) == "come in"


def test_it_is_full():
    assert room(11) is None
"""
JUDGE = """
import sys
from pathlib import Path
from tests.mutation import judge
judge.CPU_SECONDS = 2
tests = judge.Batch(tuple(sys.argv[2].split()), 0.1)
for number in sys.argv[3:]:
    found = judge.judge(Path(sys.argv[1]), "room.py", int(number), [tests])
    print(found.verdict.name, found.by)
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
        "V = TypeVar('V', bound=A)",
    ],
)
def test_a_text_without_a_bearing_on_behaviour_is_left_alone(source: str) -> None:
    assert not changes_of(source)


def test_every_change_of_the_rooms_can_be_made_and_changes_something() -> None:
    offers = offered(())
    sources = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in offers}
    plain = {file: ast.unparse(ast.parse(source)) for file, source in sources.items()}
    assert len(offers) > 4_000
    for file, change in offers[::97]:
        assert ast.unparse(changed(sources[file], change.number)) != plain[file], change


def test_a_change_that_is_not_there_is_refused() -> None:
    with pytest.raises(IndexError, match="offers 1 changes, there is no 7"):
        changed("x = a < b", 7)


ORDER = "stage/core/order.py"


def _met(test: str, seconds: float, lines: list[int]) -> TestLines:
    return TestLines(test, seconds, {ORDER: lines})


def _comparison() -> Change:
    return next(each for _, each in offered([ORDER]) if each.operator.startswith("comparison"))


def test_the_likeliest_test_judges_first() -> None:
    """After those that noticed its like come the module, its room by functions, and the rest."""
    change = _comparison()
    core = "tests/unit/core/test_"
    known = [
        _met(f"{core}a.py::test_b[1]", 0.1, [change.line]),
        _met(f"{core}a.py::test_b[2]", 0.2, [change.line]),
        _met(f"{core}a.py::test_c", 0.3, [change.line]),
        _met(f"{core}order.py::test_d", 0.4, [change.line]),
        _met(f"{core}a.py::test_slow", SECONDS_MAX + 1, [change.line]),
        _met(f"{core}a.py::test_elsewhere", 0.1, [1]),
        _met("tests/scenario/test_e.py::test_f", 0.1, [change.line]),
        _met("tests/scenario/test_e.py::test_g", 0.2, [change.line]),
        _met("tests/scenario/test_h.py::test_i", 0.3, [change.line]),
        TestLines("another file", 0.1, {"stage/core/machine.py": [change.line]}),
    ]
    noticed = ["tests/scenario/test_h.py::test_i", f"{core}a.py::test_elsewhere"]

    assert [list(batch.tests) for batch in batches(known, ORDER, change, noticed)] == [
        ["tests/scenario/test_h.py::test_i"],
        [f"{core}order.py::test_d"],
        [f"{core}a.py::test_b[1]", f"{core}a.py::test_c", f"{core}a.py::test_b[2]"],
        ["tests/scenario/test_e.py::test_f", "tests/scenario/test_e.py::test_g"],
    ]
    assert batches(known[9:], ORDER, change) == []


def test_a_line_that_no_test_runs_may_have_run_at_the_import() -> None:
    """The tests of the file judge it, and those that look at a value of it alone."""
    change = _comparison()
    known = [
        _met("tests/scenario/test_e.py::test_f", 0.2, [1]),
        TestLines("tests/unit/core/test_order.py::test_a_table", 0.1, {}),
        TestLines("tests/unit/core/test_steps.py::test_of_another_module", 0.1, {}),
    ]
    assert [batch.tests for batch in batches(known, ORDER, change)] == [
        ("tests/unit/core/test_order.py::test_a_table",),
        ("tests/scenario/test_e.py::test_f",),
    ]


def test_one_change_is_not_judged_by_all_tests() -> None:
    change = _comparison()
    known = [_met(f"tests/unit/core/test_a.py::test_{n}", 0.1, [change.line]) for n in range(200)]
    (batch,) = batches(known, ORDER, change)
    assert len(batch.tests) == NEAR_MAX
    (batch,) = batches(
        [_met("tests/unit/core/test_a.py::test_a", 9.0, [change.line])], ORDER, change
    )
    assert batch.seconds == 9.0


def test_lines_move_with_an_edit() -> None:
    """A line in place of another is met by the tests of its neighbours."""
    before, now = {"a.py": "a\nb\nc\nd\n"}, {"a.py": "new\na\nB\nB\nc\nd\n"}
    assert moved({"a.py": [1, 4]}, before, now) == {"a.py": [1, 2, 3, 4, 6]}
    assert moved({"a.py": [2]}, before, now) == {"a.py": [3, 4]}
    assert moved({"a.py": [4]}, before, now) == {"a.py": [6]}
    assert moved({"gone.py": [4]}, before, now) == {}
    assert moved({"a.py": [2]}, before, before) == {"a.py": [2]}


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Behind an edit a verdict is a hint, and a line that was cut off is none."""
    path, change = tmp_path / "kept" / "progress.jsonl", _comparison()
    other = msgspec.structs.replace(change, number=change.number + 1, operator="another")
    first = Progress(path, "now")
    assert first.verdict(ORDER, change) is None
    done = Judged(
        file=ORDER, change=change, verdict=Verdict.FAILED, tests=3, by="test_b", tree="now"
    )
    first.add(done)
    first.add(msgspec.structs.replace(done, change=other, verdict=Verdict.SURVIVED, by=""))
    with path.open("ab") as file:
        file.write(b'{"file": "stage/co')

    again = Progress(path, "now")
    assert again.verdict(ORDER, change) == done
    assert (again.survived(ORDER, change), again.survived(ORDER, other)) == (False, True)
    later = Progress(path, "edited")
    assert later.verdict(ORDER, change) is None
    assert later.hints(ORDER, change) == later.hints(ORDER, other) == ["test_b"]
    later.add(msgspec.structs.replace(done, change=other, tree="edited"))
    assert not Progress(path, "edited").survived(ORDER, other)
    assert len(path.read_bytes().splitlines()) == 3


PEOPLE, FULL, WIND = (
    f"test_room.py::test_{name}" for name in ("it_lets_people_in", "it_is_full", "of_another_wind")
)
VERDICTS = {
    "condition negated": f"FAILED {PEOPLE}",
    "comparison: LtE": "SURVIVED",
    "sign removed": f"FAILED {PEOPLE}",
    "assignment removed": "HUNG",
}


def test_a_change_is_noticed_or_survives(tmp_path: Path) -> None:
    """The limit itself is met by no test of this module, so `<=` survives.

    A test that fails without a change as well has no say, and no source is edited.
    """
    (tmp_path / "room.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "test_room.py").write_text(TEST, encoding="utf-8")
    (tmp_path / "conftest.py").write_text("", encoding="utf-8")
    numbers = {each.operator: each.number for each in reversed(changes_of(MODULE))}
    found = _judged(tmp_path, (PEOPLE, FULL), [numbers[each] for each in VERDICTS])
    assert list(VERDICTS.values()) == found
    assert ["SURVIVED"] == _judged(tmp_path, (WIND, FULL), [numbers["comparison: LtE"]])
    assert MODULE == (tmp_path / "room.py").read_text(encoding="utf-8")


def _judged(root: Path, tests: Sequence[str], numbers: Sequence[int]) -> list[str]:
    command = [sys.executable, "-c", JUDGE, str(root), " ".join(tests), *map(str, numbers)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line.strip() for line in ended.stdout.splitlines()]


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
