"""The onnx package's backend suite: what passed before, and natively, still does.

`expected.txt` is written by ``python -m benchmarks.conformance --expected``; a case may do better
than it says, not worse.
"""

from __future__ import annotations

import faulthandler
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conformance.cases import Case
from benchmarks.conformance.results import expected
from benchmarks.conformance.trial import NATIVE, attempt
from engine.codegen.store import default_folder

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


NETWORK = "test_squeezenet"
"""The one network with random weights outside the slow tests: the smallest."""


def few_per_operator() -> dict[str, list[str]]:
    """The same few native cases of every operator, spread over its names; one network."""
    groups: dict[str, list[str]] = {}
    for name, (operator, status) in EXPECTED.items():
        if status == "native" and (operator != "whole networks" or name == NETWORK):
            groups.setdefault(operator, []).append(name)
    return {key: names[:: max(len(names) // FEW, 1)][:FEW] for key, names in groups.items()}


FEWEST = few_per_operator()


@pytest.fixture
def guarded() -> Iterator[None]:
    """A hang ends the process, which counts as a failure; so does a crash."""
    faulthandler.dump_traceback_later(120, exit=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("operator", FEWEST)
def test_native_operators(operator: str, conformance_cases: dict[str, Case]) -> None:
    found = [conformance_cases[n] for n in FEWEST[operator] if n in conformance_cases]
    cache = default_folder() / "conformance" / "code"
    outcomes = {case.name: attempt(case, "packhorse", cache) for case in found}
    worse = {
        name: outcome.detail or outcome.fallbacks
        for name, outcome in outcomes.items()
        if outcome.status != NATIVE
    }
    assert not worse


def test_the_cases_are_those_of_the_file(conformance_cases: dict[str, Case]) -> None:
    names = [name for names in FEWEST.values() for name in names]
    known = [name for name in names if name in conformance_cases]
    assert len(known) >= 0.95 * len(names), "the onnx package has other cases: update the file"


@pytest.mark.slow
def test_whole_suite(tmp_path: Path) -> None:
    check(list(EXPECTED), tmp_path)


def test_the_file_says_what_the_project_promises() -> None:
    statuses = [status for _, status in EXPECTED.values()]
    native = statuses.count("native")
    assert native >= 1000
    assert native + statuses.count("fallback") >= 1850
