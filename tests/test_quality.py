"""Lint, format and types, as `scripts/check` runs them, so that one summary counts everything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = {
    "lint": ["ruff", "check", "--quiet", "."],
    "format": ["ruff", "format", "--check", "--quiet", "."],
    "types": ["mypy"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_quality(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *TOOLS[tool]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


def test_scripts_check_runs_the_same() -> None:
    script = (ROOT / "scripts/check").read_text()
    for command in TOOLS.values():
        assert f'"$python" -m {" ".join(command)}\n' in script


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    missing = sorted(page for page in pages if f"({page})" not in index)
    assert not missing, f"list them in docs/README.md: {missing}"
