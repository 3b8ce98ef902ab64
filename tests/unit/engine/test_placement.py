"""A saga has one home, by its id alone."""

from __future__ import annotations

from stage.engine.workers.placement import Placement, home_of

IDS = [f"s-{number}" for number in range(2_000)]


def test_the_home_of_a_saga_never_changes() -> None:
    """These are in files by now: another hash would look for their sagas elsewhere."""
    assert [2, 0, 0, 0, 0] == [home_of(f"s-{number}", 3) for number in range(1, 6)]
    assert [1, 4, 2] == [home_of(each, 7) for each in ("0193f0c4-7d1e", "o.1~x:y-Z", "a")]


def test_homes_have_about_as_many_sagas_each() -> None:
    """Within a tenth of an even split."""
    for size in (2, 3, 8):
        found = [home_of(saga_id, size) for saga_id in IDS]
        for home in range(size):
            assert abs(found.count(home) - len(IDS) / size) < 0.1 * len(IDS)


def test_homes_are_the_newest_first_and_each_once() -> None:
    """Where one number of workers after the other gives the same one, there is one."""
    placement = Placement((1, 3, 2))
    assert (3, 2) == (placement.members, placement.takes)
    for saga_id in IDS[:200]:
        homes = placement.homes(saga_id)
        assert home_of(saga_id, 2) == homes[0]
        assert {0, home_of(saga_id, 2), home_of(saga_id, 3)} == set(homes)
        assert len(set(homes)) == len(homes)


def test_an_id_that_is_no_text_of_utf_8_has_a_home() -> None:
    """It is looked for, and not found."""
    assert home_of("\ud800", 4) in range(4)
