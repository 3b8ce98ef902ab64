"""Starts what is measured as processes of their own, and ends what it started."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

LOOPBACK = "127.0.0.1"
START_SECONDS_MAX = 60.0
END_SECONDS_MAX = 15.0


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server((LOOPBACK, 0)) as door:
        return int(door.getsockname()[1])


def until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once it takes connections. Raises RuntimeError when it ended or takes too long."""
    until = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")
        try:
            socket.create_connection((LOOPBACK, port), timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.01)
    raise RuntimeError(f"{process.args!r} does not listen at {port}")


def ended(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and end it when it does not."""
    process.terminate()
    try:
        process.wait(END_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads so far (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tree_cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all its descendants, ended ones included."""
    spent: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(folder.name))
        spent[int(folder.name)] = sum(int(field) for field in fields[11:15])
    ticks, those = 0, [pid]
    while those:
        each = those.pop()
        ticks += spent.get(each, 0)
        those += children.get(each, ())
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM now (proc(5))."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
