"""Outcomes of a run of the suite, and the file that keeps the statuses that are expected."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.conformance.exclusions import reason_to_exclude
from benchmarks.conformance.trial import FAILED, FALLBACK, NATIVE, Outcome

EXCLUDED = "excluded"


@dataclass(frozen=True)
class Result:
    """A case's outcome in our engine, and in onnxruntime where it was tried there too."""

    name: str
    kind: str
    operator: str
    ours: Outcome
    theirs: Outcome | None = None

    @property
    def status(self) -> str:
        """``native``, ``fallback``, ``failed``, ``crashed``, ``hung`` or ``excluded``.

        A case with a reason to exclude it counts as passed where it passes all the same.
        """
        if self.ours.status == FAILED and self.exclusion:
            return EXCLUDED
        return self.ours.status

    @property
    def exclusion(self) -> str | None:
        """Why the case need not pass, None where it must."""
        return reason_to_exclude(self.name)


def counts(results: list[Result]) -> Counter[str]:
    """Number of results by status; ``passed`` is the sum of the two ways to pass."""
    found = Counter(result.status for result in results)
    found["passed"] = found[NATIVE] + found[FALLBACK]
    return found


def save(path: Path, results: list[Result]) -> None:
    """Write every outcome as JSON."""
    path.write_text(json.dumps([asdict(result) for result in results], indent=0))


def statuses(results: list[Result]) -> str:
    """Expected statuses as text: names by operator and status, one operator and status a line."""
    lines: dict[tuple[str, str], list[str]] = {}
    for result in sorted(results, key=lambda result: (result.operator, result.name)):
        lines.setdefault((result.operator, result.status), []).append(result.name)
    return "".join(
        f"{operator} | {status} | {' '.join(names)}\n"
        for (operator, status), names in sorted(lines.items())
    )


def expected(path: Path) -> dict[str, tuple[str, str]]:
    """Operator and status of each case by name, as `statuses` wrote them."""
    found: dict[str, tuple[str, str]] = {}
    for line in path.read_text().splitlines():
        operator, status, names = line.split(" | ")
        found.update(dict.fromkeys(names.split(), (operator, status)))
    return found
