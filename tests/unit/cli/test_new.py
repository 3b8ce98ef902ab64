"""`stage new`: the project is whole, and nothing of anybody's is overwritten."""

from __future__ import annotations

import os
import subprocess
import symtable
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from stage.cli.failure import Failure
from stage.cli.new import new
from stage.cli.project import taken_names, write_project
from stage.cli.target import find_stage
from stage.config import load
from stage.core.names import STAGE_NAME
from tests.unit.cli.programs import ROOT, Done


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of a name with a sign that no package may have."""
    folder = tmp_path_factory.mktemp("new") / "card-payment"
    write_project(folder, "card-payment")
    return folder


def make(project: Path, *words: str) -> Done:
    """`make WORDS` in the project, with the interpreter of this run."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("STAGE_")}
    done = subprocess.run(
        ["make", f"PYTHON={sys.executable}", *words],
        cwd=project,
        env={**inherited, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "word, said",
    [
        ("test", "8 passed"),
        (
            "demo",
            "o-1: executed; the provider has 1 booking\no-2, which downstream refuses: compensated",
        ),
        ("check", "nothing was found that would stop it\n"),
    ],
)
def test_the_words_of_its_makefile_work(project: Path, word: str, said: str) -> None:
    """As it was written, without one change: its tests pass, its demo runs, its check is clean."""
    done = make(project, word)
    assert 0 == done.status and said in done.out, done


def test_a_package_alone_is_answered_with_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`MODULE` of the project is a package: the stage stands in its module `stage`."""
    write_project(tmp_path, "lodging")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Failure, match=r"did you mean lodging\.stage"):
        find_stage("lodging:lodging")


def python_on_path(folder: Path, does: str) -> dict[str, str]:
    """An environment in which `python3` does that."""
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").write_text(f"#!/bin/sh\n{does}\n")
    (folder / "bin" / "python3").chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def test_the_environment_that_is_active_is_used(tmp_path: Path) -> None:
    """It has the package: nothing is installed a second time."""
    write_project(tmp_path, "payment")
    active = python_on_path(tmp_path, f'exec "{sys.executable}" "$@"')
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "test"],
        cwd=tmp_path, env={**active, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{sys.executable} -m pytest -q\n" == done.stdout


def test_an_interrupted_installation_begins_anew(tmp_path: Path) -> None:
    """The interpreter is there before anything is installed: only the mark says that all is."""
    write_project(tmp_path, "payment")
    outside = python_on_path(tmp_path, "exit 1")
    environment = tmp_path / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").touch()

    def planned() -> str:
        """The commands that `make test` would run."""
        done = subprocess.run(
            ["make", "--dry-run", "test"], cwd=tmp_path, env=outside,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    assert "pip install" in planned()
    (environment / ".ready").touch()
    assert "pip install" not in planned()


@pytest.mark.execs
def test_its_simulation_holds(project: Path) -> None:
    """In a few worlds; its model and its compensations agree."""
    few = ("card_payment.stage:card_payment", "--seeds", "3", "--sagas", "5")
    done = subprocess.run(
        [sys.executable, "-m", "stage", "simulate", *few],
        cwd=project, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "the world of card_payment.model" in done.stdout


def test_its_undo_believes_no_gateway(project: Path) -> None:
    """A 200 that a gateway says in place of the provider does not end a compensation."""
    done = subprocess.run(
        [
            sys.executable, "-m", "stage", "simulate", "card_payment.stage:card_payment",
            "--seeds", "30",
            "--only", "undo_refused", "--only", "gateway_replaces", "--only", "tail_refuses",
        ],
        cwd=project, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr


def test_its_image_makes_no_database_by_the_way(project: Path) -> None:
    """A volume that was forgotten is a start that is refused. `db init` is a command of the image,
    as the start is: the chart gives either as arguments."""
    text = (project / "Dockerfile").read_text(encoding="utf-8")
    assert "STAGE_DATABASE_MUST_EXIST=true" in text
    assert 'ENTRYPOINT ["stage"]\nCMD ["serve", "card_payment.stage:card_payment"]\n' in text
    assert "db init card_payment.stage:card_payment" in text


def test_no_word_of_a_template_is_left(project: Path) -> None:
    """Every file is filled in, its settings are read, and its requirements name this release."""
    for file in project.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            assert "{{" not in file.read_text(), file
    assert "provider" in load({}, {}, project / "stage.toml").externals
    wanted = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    assert wanted[0].startswith("saga-stage>=")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """One file of the same name is enough: none is written then."""
    (tmp_path / "Makefile").write_text("mine")
    done = CliRunner().invoke(new, ["hotel", "--in", str(tmp_path)])
    assert "is there already, and nothing was written" in str(done.exception)
    assert ["Makefile"] == [each.name for each in tmp_path.iterdir()]
    assert "mine" == (tmp_path / "Makefile").read_text()


def test_a_stage_may_have_the_name_that_the_demo_sends(tmp_path: Path) -> None:
    """An order: the name of most first stages."""
    write_project(tmp_path, "order")
    for word, said in (("test", "8 passed"), ("demo", "o-1: executed"), ("check", "nothing was")):
        done = make(tmp_path, word)
        assert 0 == done.status and said in done.out, done


TAKEN = {
    "json": "a module of Python's",
    "http": "a module of Python's",
    "asyncio": "a module of Python's",
    "print": "a name in the project",
    "demo": "a name in the project",
    "reserve": "a name in the project",
    "quote": "a name in the project",
    "provider": "a name in the project",
    "saga": "a name in the project",
    "find-booking": "a name in the project",
    "click": "an installed package",
    "opentelemetry": "an installed package",
}
"""Names of stages that would hide something, and how that is said."""


@pytest.mark.parametrize("name, says", TAKEN.items())
def test_a_name_that_would_hide_another_is_refused(tmp_path: Path, name: str, says: str) -> None:
    """The project would not run, or run something else."""
    done = CliRunner().invoke(new, [name, "--in", str(tmp_path / "p")])
    assert f"is {says}" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_each_name_of_the_project_is_refused(project: Path) -> None:
    """As an independent reader of the written files finds them: Python's own compiler."""
    for file in (*project.glob("card_payment/*.py"), *project.glob("tests/*.py")):
        text = file.read_text(encoding="utf-8")
        if "card_payment" not in text:
            continue
        tables = [symtable.symtable(text, str(file), "exec")]
        while tables:
            table = tables.pop()
            tables += table.get_children()
            names = {name for name in table.get_identifiers() if STAGE_NAME.fullmatch(name)}
            assert names - {"card_payment"} <= set(taken_names()), file


@pytest.mark.parametrize("name", ["Hotel", "class", "stage", "tests", "../hotel", "1st", ""])
def test_a_name_that_would_not_do_is_refused(tmp_path: Path, name: str) -> None:
    """Before anything is written."""
    done = CliRunner().invoke(new, [name, "--in", str(tmp_path / "p")])
    assert "cannot be the name of a stage" in str(done.exception)
    assert not list(tmp_path.iterdir())
