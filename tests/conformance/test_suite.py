"""The onnx package's backend suite: what passed before, and natively, still does.

`expected.txt` is written by ``python -m benchmarks.conformance --expected``; a case may do better
than it says, not worse.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conformance.results import expected

EXPECTED = expected(Path(__file__).parent / "expected.txt")
ROOT = Path(__file__).parents[2]
BETTER = {
    "native": {"native"},
    "fallback": {"native", "fallback"},
    "excluded": {"native", "fallback", "failed"},
    "failed": {"native", "fallback", "failed"},
}
"""Statuses that are no worse than the expected one; a crash or a hang always is."""

FEW = 3
"""Cases of an operator outside the slow tests."""


def run(names: list[str], folder: Path) -> list[dict[str, Any]]:
    """Outcomes of the named cases, tried by the command in worker processes."""
    listed, results = folder / "names.txt", folder / "results.json"
    listed.write_text("\n".join(names))
    command = [sys.executable, "-m", "benchmarks.conformance", "--alone"]
    command += ["--names", str(listed), "--json", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes: list[dict[str, Any]] = json.loads(results.read_text())
    return outcomes


def check(names: list[str], folder: Path) -> None:
    outcomes = run(names, folder)
    assert len(outcomes) >= 0.95 * len(names), "the onnx package has other cases: update the file"
    worse = {
        outcome["name"]: f"{outcome['ours']['status']}, not {EXPECTED[outcome['name']][1]}: "
        f"{outcome['ours']['detail'] or outcome['ours']['fallbacks']}"
        for outcome in outcomes
        if outcome["ours"]["status"] not in BETTER[EXPECTED[outcome["name"]][1]]
    }
    assert not worse


def few_per_operator() -> list[str]:
    """The same few native cases of every operator, spread over its names."""
    groups: dict[str, list[str]] = {}
    for name, (operator, status) in EXPECTED.items():
        if status == "native" and operator != "whole networks":
            groups.setdefault(operator, []).append(name)
    return [name for names in groups.values() for name in names[:: max(len(names) // FEW, 1)][:FEW]]


def test_native_operators(tmp_path: Path) -> None:
    check(few_per_operator(), tmp_path)


@pytest.mark.slow
def test_whole_suite(tmp_path: Path) -> None:
    check(list(EXPECTED), tmp_path)


def test_the_file_says_what_the_project_promises() -> None:
    statuses = [status for _, status in EXPECTED.values()]
    native = statuses.count("native")
    assert native >= 1000
    assert native + statuses.count("fallback") >= 1850
