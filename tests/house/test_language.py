"""The language: no word that the glossary excludes, no sentence that begins with a clause."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.judged import broken
from tests.house.language import (
    CHECKS,
    WORDS,
    free_relatives,
    names_renamed,
    outcomes_of_attempts,
    subjects_without_a_noun,
    words_listed,
    words_not_used,
)


@pytest.mark.parametrize("title", list(CHECKS))
def test_the_language_is_kept(root: Path, project_files: list[Path], title: str) -> None:
    """On every page, in every docstring and comment, and in every name."""
    names = [str(file.relative_to(root)) for file in project_files]

    assert {} == broken(root, names, CHECKS[title])


def test_every_word_of_the_glossary_is_judged(root: Path) -> None:
    """The words of the glossary's last table and the checks are the same."""
    glossary = (root / "docs" / "glossary.md").read_text(encoding="utf-8")

    assert set(words_listed(glossary)) == set(WORDS)


def test_a_word_that_may_stand_somewhere_has_a_reason() -> None:
    """An allowance without a reason would only be a hole."""
    holes = [word for word, rule in WORDS.items() if rule.files and not rule.reason]

    assert [] == holes


@pytest.mark.parametrize(
    "text",
    [
        '"""The saga is rolled back."""\n',
        '"""Commits the saga."""\n',
        '"""Aborts what runs."""\n',
        '"""A saga is cancelled."""\n',
        '"""Made."""\n\ndef undo_step() -> None: ...\n',
        '"""A workflow of steps."""\n',
        '"""An activity of the stage."""\n',
        '"""Made."""\n\nclass Activity: ...\n',
        '"""A job that runs."""\n',
        '"""Made."""\n\nclass SagaManager: ...\n',
        '"""Made."""\n\ndef helper() -> None: ...\n',
        '"""Made."""\n\nutil = 1\n',
        '"""The handler of it all."""\n',
        '"""Made."""\n\ntold = []\n',
    ],
)
def test_a_word_that_is_not_used_is_seen(text: str) -> None:
    """Each word of the list is found, in prose or in a name."""
    assert 1 == len(words_not_used("stage/core/planted.py", text))


@pytest.mark.parametrize(
    "text",
    [
        '"""The database rolls the transaction back."""\n',
        '"""One COMMIT for many units."""\n',
        '"""Made."""\n\ntask.cancel()\n',
        '"""Made."""\n\ntold_upstream = True\n',
        '"""As an activity of Temporal."""\n',
        '"""A context manager."""\n',
    ],
)
def test_a_term_of_the_field_is_let_through(text: str) -> None:
    """A database, a task and others' systems keep their own words."""
    assert [] == words_not_used("stage/core/planted.py", text)


@pytest.mark.parametrize(
    "name, text",
    [
        ("stage/engine/rounds.py", '"""Made."""\n'),
        ("stage/engine/x.py", '"""Made."""\n\nclass Runs: ...\n'),
        ("stage/engine/x.py", '"""Made."""\n\ndef look() -> None: ...\n'),
    ],
)
def test_a_name_that_has_gone_is_seen(name: str, text: str) -> None:
    """A module, a class and a function with a name that was replaced."""
    assert 1 == len(names_renamed(name, text))


@pytest.mark.parametrize(
    "sentence",
    [
        "Who asks again waits.",
        "What is parked waits for a person.",
        "Of the sagas that run, one is guilty.",
        "It waits. Else it is refused.",
        "Whoever comes late is refused.",
    ],
)
def test_a_sentence_that_begins_with_a_clause_is_seen(sentence: str) -> None:
    """In a docstring, in a comment and on a page."""
    assert 1 == len(free_relatives("stage/x.py", f'"""{sentence}"""\n'))
    assert 1 == len(
        free_relatives("stage/x.py", f'def f():\n    """F.\n\n    {sentence}\n    """\n')
    )
    assert 1 == len(free_relatives("stage/x.py", f"x = 1  # {sentence}\n"))
    assert 1 == len(free_relatives("docs/x.md", f"{sentence}\n"))
    assert 1 == len(free_relatives("x/sql/x.sql", f"-- name: one\n-- {sentence}\nSELECT 1;\n"))


def test_the_name_of_a_test_that_begins_with_a_clause_is_seen() -> None:
    """It is a sentence too."""
    source = '"""Made."""\n\ndef test_what_is_parked_waits() -> None: ...\n'

    assert 1 == len(free_relatives("tests/x.py", source))


@pytest.mark.parametrize(
    "page", ["## What is promised\n", "What is due?\n", "A saga knows what it is.\n", "`Else`\n"]
)
def test_headings_and_questions_are_let_through(page: str) -> None:
    """A heading names its section, and a question may ask."""
    assert [] == free_relatives("docs/x.md", page)


@pytest.mark.parametrize(
    "sentence",
    [
        "Those that wait are asked.",
        "That of the saga is kept.",
        "One that is late is refused.",
        "It waits. One whose lease is over goes on.",
        "The same for the undo.",
        "It waits. The same as above.",
    ],
)
def test_a_subject_without_a_noun_is_seen(sentence: str) -> None:
    """The reader would have to find the noun in another place."""
    assert 1 == len(subjects_without_a_noun("stage/x.py", f'"""{sentence}"""\n'))
    assert 1 == len(subjects_without_a_noun("docs/x.md", f"{sentence}\n"))


@pytest.mark.parametrize(
    "sentence", ["Those are four.", "The same bytes are sent.", "One of them waits."]
)
def test_a_subject_that_can_be_seen_from_here_is_let_through(sentence: str) -> None:
    """*Those are* points at the sentence before."""
    assert [] == subjects_without_a_noun("stage/x.py", f'"""{sentence}"""\n')


def test_an_outcome_of_an_attempt_is_seen() -> None:
    """A saga has an outcome, an attempt has an end."""
    assert 1 == len(outcomes_of_attempts("docs/x.md", "The outcome of an attempt is written.\n"))
    assert [] == outcomes_of_attempts("docs/x.md", "The outcome of a saga is written.\n")
