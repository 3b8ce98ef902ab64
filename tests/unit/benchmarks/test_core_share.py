"""A process gets a part of a core, and gives it back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.core_share import GROUPS, core_share
from benchmarks.machine import Missing


@pytest.fixture
def process() -> Iterator[int]:
    """A process that does nothing."""
    with subprocess.Popen(["sleep", "60"]) as started:
        yield started.pid
        started.kill()


def _groups(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def test_it_is_in_a_group_of_its_own_meanwhile(process: int) -> None:
    """Its quota is that part of the period; afterwards nothing is left of it."""
    before = _groups(process)
    try:
        with core_share(process, 0.25):
            assert f"/stage-bench-{process}\n" in _groups(process)
            [group] = GROUPS.glob(f"**/stage-bench-{process}")
            files = [group / name for name in ("cpu.cfs_quota_us", "cpu.max")]
            [quota] = [file.read_text().split()[0] for file in files if file.exists()]
            assert "5000" == quota
    except Missing as missing:
        pytest.skip(str(missing))
    assert before == _groups(process)
    assert not list(GROUPS.glob(f"**/stage-bench-{process}"))


def test_where_it_may_not_be_said_the_way_out_is(process: int, tmp_path: Path) -> None:
    """There are no control groups there."""
    with pytest.raises(Missing, match="run as root"), core_share(process, 0.25, tmp_path / "gone"):
        pass
    assert not (tmp_path / "gone").exists()
