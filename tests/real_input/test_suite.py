"""Published models on real input: task figures, and equality with onnxruntime, both ways."""

from pathlib import Path

import pytest

from examples.real_input.case import Case
from examples.real_input.suite import CASES, WAYS, solve

SLOW = {
    ("silero_vad_16k_op15", "http"),
    ("mobilefacenet", "http"),
    ("silero_vad", "http"),
    ("dtln", "http"),
}
"""Pairs of case and way that repeat much of what other cases show and take long."""

PAIRS = [
    pytest.param(case, way, id=f"{case.name}-{way}")
    if (case.name, way) not in SLOW
    else pytest.param(case, way, id=f"{case.name}-{way}", marks=pytest.mark.slow)
    for case in CASES
    for way in WAYS
]


@pytest.mark.parametrize(("case", "way"), PAIRS)
def test_real_input(case: Case, way: str, models: Path) -> None:
    result = solve(case, models, way)
    assert result.passed, result.complaint()
