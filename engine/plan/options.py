"""What a caller may choose about how a model is planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from engine.tuning import DEFAULT, Tuning


@dataclass(frozen=True)
class PlanOptions:
    """`winograd` admits minimal filtering for 3x3 convolutions, which rounds differently; `tuning`
    holds the constants that schedules follow from."""

    winograd: bool = True
    tuning: Tuning = DEFAULT


PLAIN: Final = PlanOptions()
"""What a caller who chooses nothing gets."""
