"""Every file of the project keeps these: it names no machine, says what it is, and has a name."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

import pytest

from tests.house.rules import empty_words, own_places, places_named, says_its_purpose


def test_no_file_names_a_machine_or_a_package_host(root: Path, project_files: list[Path]) -> None:
    """A clone works anywhere: no path of one machine and no registry stands in the repository."""
    places = own_places(root)
    wrong = [
        f"{file.relative_to(root)}:{line}"
        for file in project_files
        for line in places_named(file.read_text(encoding="utf-8", errors="replace"), places)
    ]

    assert [] == wrong


@pytest.mark.parametrize(
    "line",
    [
        "see https://py" + "pi.org/project/x",
        "--extra-index" + "-url https://example.invalid/simple",
        'cache = "/ho' + 'me/someone/.cache"',
        "#!/ro" + "ot/bin/python",
        "kept in /srv/build/clone/x",
    ],
)
def test_a_named_place_is_seen(line: str) -> None:
    """Hosts, index options, homes, and the very directory of the clone are found."""
    assert 1 == len(places_named(f"fine\n{line}\n", ["/srv/build/clone"]))


@pytest.mark.parametrize(
    "line", ["docs/home/index.md", "https://example.org/charges/1", "GET /sagas", "~/code/x"]
)
def test_an_ordinary_path_is_let_through(line: str) -> None:
    """Relative paths, URLs and endpoints are not places on a machine."""
    assert [] == places_named(line)


def test_every_module_says_what_lives_there(root: Path, project_files: list[Path]) -> None:
    """The first line of a file is a docstring."""
    wrong = [
        str(file.relative_to(root))
        for file in project_files
        if file.suffix == ".py" and not says_its_purpose(file.read_text(encoding="utf-8"))
    ]

    assert [] == wrong


def test_a_silent_module_is_seen() -> None:
    """Code, a comment or nothing at all is not a docstring."""
    assert not says_its_purpose("x = 1\n")
    assert not says_its_purpose("# A comment.\n")
    assert not says_its_purpose("")
    assert says_its_purpose('"""Said."""\n')


def test_no_file_has_an_empty_name(root: Path, project_files: list[Path]) -> None:
    """No utils, no helpers, no manager: a file is named for its one purpose."""
    wrong = [
        str(file.relative_to(root))
        for file in project_files
        if empty_words(PurePath(file.relative_to(root)))
    ]

    assert [] == wrong


@pytest.mark.parametrize(
    "path", ["stage/utils.py", "stage/saga_manager.py", "tests/helpers/x.py", "stage/Helper.py"]
)
def test_an_empty_name_is_seen(path: str) -> None:
    """The word counts alone, inside a longer name, and as a directory."""
    assert 1 == len(empty_words(PurePath(path)))


def named_tests(text: str) -> list[tuple[str, str]]:
    """The tests that a page names, as `scenario/test_x.py::test_y`."""
    return re.findall(r"`((?:\w+/)+test_\w+\.py)::(test_\w+)`", text)


def test_every_test_that_a_page_names_is_there(root: Path, project_files: list[Path]) -> None:
    """A promise whose test was renamed would be a promise without one."""
    named = [
        each
        for page in project_files
        if page.suffix == ".md"
        for each in named_tests(page.read_text(encoding="utf-8"))
    ]
    assert len(named) >= 12
    missing = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}(" not in (root / "tests" / file.removeprefix("tests/")).read_text("utf-8")
    ]
    assert [] == missing


def test_the_readme_shows_the_stage_of_the_demo(root: Path) -> None:
    """Line by line, as the file has it."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("```python\npayment = ")[2].partition("\n```")[0]
    source = (root / "stage" / "demo" / "payment.py").read_text(encoding="utf-8")

    assert "@payment.output" in shown
    assert shown in source
