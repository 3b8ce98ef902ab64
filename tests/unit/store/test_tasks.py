"""The newest task of a saga in each store: one row, and whichever word comes first counts."""

from __future__ import annotations

import pytest

from stage.ports.store import TASK_SECONDS_MAX, Store, TaskBefore, Unit

AT = 1_000_000_000.0


async def take(store: Store, token: str, at: float = AT, saga_id: str = "s-1") -> tuple[str, bool]:
    """Take a task: the one before it, and whether one was given up."""
    before = await store.transact(lambda unit: unit.take_task(saga_id, token, at))
    return before.token, before.given_up


async def give_up(store: Store, token: str) -> bool:
    """Give a task up."""
    return await store.transact(lambda unit: unit.give_up_task("s-1", token))


async def test_only_the_newest_task_can_be_given_up(store: Store) -> None:
    """And not once it was answered."""
    assert ("", False) == await take(store, "one")
    assert ("one", False) == await take(store, "two")
    assert ("", False) == await take(store, "other", saga_id="s-2")
    assert not await give_up(store, "one")
    assert await give_up(store, "two")
    await store.transact(lambda unit: unit.end_task("s-1", "two"))
    assert not await give_up(store, "two")
    assert ("other", False) == await take(store, "another", saga_id="s-2")


async def test_a_task_behind_one_that_was_given_up_hears_of_it(store: Store) -> None:
    """Until it has been answered itself; the end of an older one changes nothing."""
    await take(store, "one")
    assert await give_up(store, "one")
    assert ("one", True) == await take(store, "two")
    await store.transact(lambda unit: unit.end_task("s-1", "one"))
    assert ("two", True) == await take(store, "three")
    await store.transact(lambda unit: unit.end_task("s-1", "three"))
    assert ("", False) == await take(store, "four")


async def test_a_task_that_is_taken_twice_is_one(store: Store) -> None:
    """A unit may be run again behind a commit that was in doubt."""
    await take(store, "one")
    await take(store, "two")
    assert ("one", False) == await take(store, "two")


async def withdraw(store: Store, token: str) -> None:
    """Take a task back."""
    await store.transact(lambda unit: unit.withdraw_task("s-1", token))


async def test_a_task_that_is_withdrawn_leaves_the_one_before(store: Store) -> None:
    """Where there is one."""
    await take(store, "one")
    await withdraw(store, "none")
    await take(store, "two")
    await withdraw(store, "two")
    assert not await give_up(store, "two")
    assert await give_up(store, "one")


@pytest.mark.parametrize("order", [("two", "three"), ("three", "two")])
async def test_two_tasks_that_came_too_late_leave_the_one_before_both(
    store: Store, order: tuple[str, str]
) -> None:
    """In either order: a dead one that is the newest would hide the time-out of the one that is."""
    for token in ("zero", "one", "two", "three"):
        await take(store, token)
    for token in order:
        await withdraw(store, token)
    assert not await give_up(store, "two")
    assert ("one", False) == await take(store, "four")
    await withdraw(store, "four")
    assert await give_up(store, "one")


async def test_a_task_of_a_year_ago_is_dropped(store: Store) -> None:
    """Its replica was killed, and no other task came behind it."""
    await take(store, "one")
    assert ("", False) == await take(store, "x", AT + TASK_SECONDS_MAX + 1, saga_id="s-2")
    assert not await give_up(store, "one")


async def test_a_unit_that_fails_has_taken_no_task(store: Store) -> None:
    """And the task that it dropped or gave up is there as it was."""
    await take(store, "one")

    async def fail(unit: Unit) -> None:
        assert TaskBefore(token="one", given_up=False) == await unit.take_task("s-1", "two", AT)
        await unit.give_up_task("s-1", "two")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await store.transact(fail)
    assert await give_up(store, "one")
