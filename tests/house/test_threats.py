"""The threat model is held by tests: each threat names at least one."""

from __future__ import annotations

from pathlib import Path

HELD = ("## What is held against", "## Attacks that were seen")


def test_every_threat_names_its_test(root: Path) -> None:
    """In the last cell of its row; that the file is there is seen by `test_names`."""
    text = (root / "THREAT_MODEL.md").read_text(encoding="utf-8")
    for heading in HELD:
        table = text.partition(f"{heading}\n")[2].partition("\n## ")[0]
        rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
        assert len(rows) > 10, heading
        assert [] == [row for row in rows if "tests/" not in row.rsplit("|", 2)[1]]
