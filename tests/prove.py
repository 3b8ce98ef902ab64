"""Every fault kit at level G, as `make prove` runs them: two runs of pytest, and one table of both.

A kit that measures a speed is marked `quiet`. It runs last and by itself, so that its figure says
something; all others share the processors before.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 4
"""On two processors: kits of real processes wait for much of their time."""
TOGETHER = "(kit or oldest) and not quiet"
ALONE = "kit and quiet"
QUIET = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.glob("tests/**/test_*.py")
    if "mark.quiet" in path.read_text(encoding="utf-8")
)
"""The files of these kits: no other one is imported for them."""
RUNS = (
    ("-n", str(WORKERS), "--dist", "worksteal", "--durations", "12", "-m", TOGETHER),
    ("-m", ALONE, "--every-kit", *QUIET),
)
"""The arguments of each run. The last one judges the reports of both."""


def main() -> int:
    """Run both, whatever the first one finds. Exit status 1 unless every kit held."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="stage-prove-") as folder:
        reports = Path(folder) / "reports.jsonl"
        ended = [_run(*arguments, f"--kit-reports={reports}") for arguments in RUNS]
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    said = "a kit failed or fell short" if any(ended) else "every kit held at level G"
    print(f"prove: {said}; {minutes} min {seconds:02} s in all", flush=True)
    return int(any(ended))


def _run(*arguments: str) -> int:
    """One run of pytest; its exit status."""
    environ = {**os.environ, "TIER": "prove"}
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
