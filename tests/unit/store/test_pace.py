"""How many units share a transaction."""

from __future__ import annotations

from stage.store.pace import GAIN, Pace


def test_a_collision_halves_the_batch_down_to_one_unit() -> None:
    """However often it happens, one unit is always left."""
    pace = Pace(64)
    seen = []
    for _ in range(8):
        pace.collided()
        seen.append(pace.units)
    assert [32, 16, 8, 4, 2, 1, 1, 1] == seen


def test_full_batches_without_a_collision_let_it_grow_slowly_up_to_its_limit() -> None:
    """A batch that was not full shows nothing; the limit is never exceeded."""
    pace = Pace(2)
    pace.collided()
    for _ in range(int(1 / GAIN) - 1):
        pace.committed(1)
    assert 1 == pace.units
    pace.committed(1)
    assert 2 == pace.units
    pace.collided()
    pace.committed(0)
    assert 1 == pace.units
    for _ in range(100):
        pace.committed(2)
    assert 2 == pace.units
