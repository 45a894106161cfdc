"""What came of a damaged input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

REFUSED: Final = "refused"
RAN: Final = "ran"
SLOW: Final = "slow"
"""The reference implementation computes an output of millions of elements, one by one."""

FINDINGS: Final = ("unexpected error", "crashed", "hung", "too much memory", "server error")
"""Outcomes that are faults: an exception that nobody raised on purpose, the end of the process, no
answer in time, memory beyond the limit, a status of 500 and above or no answer at all."""


@dataclass(frozen=True)
class Outcome:
    """Status and its detail; seconds taken and bytes of memory that the trial added at its peak."""

    status: str
    detail: str = ""
    seconds: float = 0.0
    memory: int = 0

    @property
    def is_finding(self) -> bool:
        """Whether it is a fault of ours."""
        return self.status in FINDINGS

    @property
    def signature(self) -> str:
        """What findings of one cause have in common: the status and the place of the error."""
        return f"{self.status}: {self.detail.splitlines()[-1] if self.detail else ''}"


def counts(outcomes: Iterable[Outcome]) -> Counter[str]:
    """Number of outcomes by status."""
    return Counter(outcome.status for outcome in outcomes)
