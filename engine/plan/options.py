"""What a caller may choose about how a model is planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from engine.precision import FP32, Precision
from engine.tuning import DEFAULT, Tuning


@dataclass(frozen=True)
class PlanOptions:
    """`winograd` admits minimal filtering for 3x3 convolutions, which rounds differently; `tuning`
    holds the constants that schedules follow from; `precision` says in which type products
    multiply, and `arithmetic` by which form of `engine.kernels.pairs`, if by any."""

    winograd: bool = True
    tuning: Tuning = DEFAULT
    precision: Precision = FP32
    arithmetic: str = ""


PLAIN: Final = PlanOptions()
"""What a caller who chooses nothing gets."""
