"""Probes of the machine's limits do the arithmetic that is counted."""

from __future__ import annotations

import numpy as np
import pytest

from engine.codegen.kernel import KernelSpec
from engine.codegen.target import select
from engine.kernels.probe import ROUND
from tests.engine.harness import ISAS, run_kernel


@pytest.mark.parametrize("isa", ISAS)
def test_every_sum_is_one_of_its_own(isa: str) -> None:
    # Equal sums would be computed once, and the rate counted ROUND times.
    lanes = select(isa).lanes()
    x = np.full(2 * lanes, 0.5, np.float32)
    y = np.zeros((ROUND, lanes), np.float32)
    assert run_kernel(KernelSpec.of("probe", kind="fma"), isa, 3, x=x, y=y, bytes=0) == 0
    expected = np.arange(ROUND, dtype=np.float32)
    for _ in range(3):
        expected = expected * np.float32(0.5) + np.float32(0.5)
    assert np.array_equal(y, np.repeat(expected[:, None], lanes, axis=1))
    assert len(np.unique(y)) == ROUND
