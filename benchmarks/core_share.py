"""A part of a core for a process, by the control groups of Linux.

Replicas, server, neighbours and load share the cores of a machine. With a part of a core each, the
replicas are what there is least of, as they are where each has a core of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.machine import Missing

GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 20_000
"""Short, so that nobody waits long for the next one."""


@contextmanager
def core_share(pid: int, share: float, groups: Path = GROUPS) -> Iterator[None]:
    """Let a process have so much of one core, its threads together, until the end.

    Raises Missing where this user may not say so.
    """
    first = groups / "cpu"  # version 1 has a tree for each kind of limit
    group = (first if first.is_dir() else groups) / f"stage-bench-{pid}"
    quota = int(PERIOD_US * share)
    try:
        group.mkdir()
        if first.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        raise Missing(f"no part of a core can be given ({error}): run as root") from error
    try:
        yield
    finally:
        with suppress(OSError):  # it may have ended
            (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()
