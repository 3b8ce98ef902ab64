"""The page of suspects: what a process that died leaves behind for the next one."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage.ports.author_code import Suspicion
from stage.store.suspects import PAGE_BYTES, RECORD_BYTES, SLOTS, SUSPECTS_MAX, SuspectsPage


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "stage.db"


def started(database: Path) -> SuspectsPage:
    """The page of the next process; the one before never closed its own."""
    page = SuspectsPage(database)
    page.open()
    return page


def die(database: Path, saga_id: str, step: str = "charge") -> SuspectsPage:
    """A process that dies in the function of that saga."""
    page = started(database)
    page.entered(saga_id, step)
    return page


def test_a_death_is_counted_until_the_function_ends(database: Path) -> None:
    """A function that only awaits is not over, and clears nobody."""
    die(database, "s-1")
    die(database, "s-1")
    page = started(database)
    assert Suspicion(step="charge", deaths=2) == page.suspicion("s-1")
    assert page.suspicion("s-2") is None
    page.entered("s-1", "charge")
    page.left("s-1", "charge", ended=False)
    assert Suspicion(step="charge", deaths=2) == started(database).suspicion("s-1")
    page = started(database)
    page.entered("s-1", "charge")
    page.left("s-1", "charge", ended=True)
    assert page.suspicion("s-1") is None
    assert started(database).suspicion("s-1") is None


def test_the_end_of_another_step_clears_nobody(database: Path) -> None:
    """The step before it runs anew at every start, in the same unit, and ends well each time."""
    die(database, "s-1", "charge")
    page = started(database)
    page.entered("s-1", "reserve")
    page.left("s-1", "reserve", ended=True)
    assert page.suspicion("s-1") is not None


def test_only_others_are_innocent_and_only_of_a_death_in_author_code(database: Path) -> None:
    """A process that was killed from outside accuses nobody and acquits nobody."""
    page = die(database, "s-1")
    assert not page.innocent("s-2")
    page = started(database)
    assert page.innocent("s-2") and not page.innocent("s-1")
    assert not started(database).innocent("s-2")


def test_the_file_is_private_and_one_page_long(database: Path) -> None:
    """It holds ids of sagas; its blocks exist, so that no write to the map finds the disk full."""
    started(database)
    file = database.with_name("stage.db.running")
    assert (0o600, PAGE_BYTES) == (file.stat().st_mode & 0o777, file.stat().st_size)
    assert file.stat().st_blocks * 512 >= PAGE_BYTES


def test_the_latest_suspects_are_kept(database: Path) -> None:
    """The page has room for so many; the oldest give way."""
    for number in range(SUSPECTS_MAX + 1):
        die(database, f"s-{number}")
    page = started(database)
    assert page.suspicion("s-0") is None
    assert page.suspicion(f"s-{SUSPECTS_MAX}") is not None


def test_a_torn_or_foreign_page_is_read_as_nothing(database: Path) -> None:
    """A record that a death tore in the middle is no reason not to start."""
    file = database.with_name("stage.db.running")
    for text in (b"\xff" * PAGE_BYTES, b"\x01\xff\xfe", b"\x01\x03s-1\xff\xff", b""):
        file.write_bytes(text)
        page = started(database)
        assert page.suspicion("s-1") is None
        page.entered("s-1", "charge")


def test_long_names_stay_within_their_record(database: Path) -> None:
    """The longest id, and a step whose name is longer than any that is declared."""
    saga_id = "s" * 128
    die(database, saga_id, "x" * 400)
    found = started(database).suspicion(saga_id)
    assert found is not None and found.step == "x" * 100
    assert SLOTS * RECORD_BYTES < PAGE_BYTES


def test_a_page_that_is_not_open_keeps_nothing(database: Path) -> None:
    """Before it is opened, and after it was closed: marks still come from threads that end."""
    page = SuspectsPage(database)
    page.entered("s-1", "charge")
    page.open()
    page.close()
    page.entered("s-1", "charge")
    page.left("s-1", "charge", ended=True)
    page.close()
    assert started(database).suspicion("s-1") is None
